"""nerfstudio scenes with depth and labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fit3d_finetune.probing.data.codings import DepthCoding
from fit3d_finetune.probing.data.files import read_classes, read_json
from fit3d_finetune.probing.data.labelled_images import LabelledImage, LabelledImages, PinholeCamera
from fit3d_ns.capture.cameras import finite, pose_fault
from fit3d_ns.capture.checks import check_intrinsics
from fit3d_ns.capture.lens import PERSPECTIVE_MODELS
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.paths import path_fault


def read_posed_scene(path: Path) -> LabelledImages:
    """A nerfstudio scene: transforms.json with depth_file_path and / or semantic_file_path, classes.json beside it.

    Cameras are kept where there is no lens distortion: correspondences need pinhole images.
    """
    transforms = read_json(path / "transforms.json")
    frames = transforms.get("frames") if isinstance(transforms, dict) else None
    if not isinstance(frames, list) or not all(isinstance(frame, dict) and "file_path" in frame for frame in frames):
        raise InputError(f"{path / 'transforms.json'} is no nerfstudio capture: it must list frames with a file_path.")
    scale = finite(transforms.get("depth_unit_scale_factor", 1e-3))
    if scale is None or scale <= 0:
        raise InputError(
            f"depth_unit_scale_factor in {path / 'transforms.json'} is {transforms['depth_unit_scale_factor']!r}, no "
            "positive number of metres: correct it."
        )
    for frame in frames:
        _check_paths(path / "transforms.json", frame)
    images = []
    for frame in sorted(frames, key=lambda frame: frame["file_path"]):
        label, depth = frame.get("semantic_file_path"), frame.get("depth_file_path")
        images.append(
            LabelledImage(
                name=f"{path.name}/{Path(frame['file_path']).stem}",
                path=path / frame["file_path"],
                label_path=None if label is None else path / label,
                depth_path=None if depth is None else path / depth,
                depth_coding=DepthCoding(scale),
                camera=_pinhole(path / "transforms.json", transforms, frame),
            )
        )
    labelled = any(image.label_path is not None for image in images)
    return LabelledImages(str(path), tuple(images), read_classes(path, required=labelled))


def _check_paths(path: Path, frame: dict[str, Any]) -> None:
    for key in ("file_path", "semantic_file_path", "depth_file_path"):
        value = frame.get(key)
        fault = None if value is None and key != "file_path" else path_fault(value)
        if fault:
            raise InputError(f'a frame\'s "{key}" in {path} {fault}: correct it, or remove the frame.')


def _pinhole(path: Path, transforms: dict[str, Any], frame: dict[str, Any]) -> PinholeCamera | None:
    """The camera of a frame; None if it has no pose, no focal length, or a lens that is no pinhole.

    Raises:
        InputError: numbers that cannot be a camera's.
    """
    camera = {**frame, **transforms}  # as nerfstudio, which prefers what the whole file says
    if "transform_matrix" not in frame or "fl_x" not in camera:
        return None
    name = f"frame {frame['file_path']}"
    fault = pose_fault(frame["transform_matrix"], 3, 4)
    if fault:
        raise InputError(f"transform_matrix of {name} in {path} {fault}: correct it, or remove this image.")
    width, height = check_intrinsics(path, transforms, frame, name)
    if camera.get("camera_model", "OPENCV") not in PERSPECTIVE_MODELS:
        return None
    distortion = camera.get("distortion_params", [camera.get(key, 0) for key in ("k1", "k2", "k3", "k4", "p1", "p2")])
    if any(float(value) != 0 for value in distortion):
        return None
    fx, fy, cx, cy = (float(camera[key]) for key in ("fl_x", "fl_y", "cx", "cy"))
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64)
    pose = np.vstack([np.array(frame["transform_matrix"], np.float64)[:3], [0, 0, 0, 1]])
    # From nerfstudio's axes (y up, looking along -z) to OpenCV's.
    return PinholeCamera(K, pose @ np.diag([1.0, -1.0, -1.0, 1.0]), (height, width))
