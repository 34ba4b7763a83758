"""NAVI: posed photos of objects with the depth of a scan (Jampani et al., NeurIPS 2023)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from fit3d_finetune.probing.data.codings import Array, DepthCoding
from fit3d_finetune.probing.data.files import read_json
from fit3d_finetune.probing.data.labelled_images import LabelledImage, LabelledImages, PinholeCamera
from fit3d_ns.common.errors import InputError

ANNOTATIONS = "annotations.json"
DEPTH = DepthCoding(metres=655.35, inverse=True)
"""16 bits of inverse depth: millimetres are 655,350 / value."""


def read_navi(path: Path) -> LabelledImages:
    """One collection (OBJECT/multiview-00-CAMERA, OBJECT/wild_set), or all multiview collections below a folder.

    A collection is a scene. Poses are of the object in the camera's frame (OpenCV's axes), so views of a wild_set
    correspond on the object alone. Photos are turned as their EXIF data ask, which is how NAVI's depth lies.

    Raises:
        InputError: there are no collections, or annotations that cannot be a camera's.
    """
    single = (path / ANNOTATIONS).is_file()
    folders = [path] if single else sorted(file.parent for file in path.rglob(f"multiview*/{ANNOTATIONS}"))
    images = [image for folder in folders for image in _collection(folder, "" if single else _scene(folder))]
    if not images:
        raise InputError(f"navi:{path}: there are no collections (looked for OBJECT/multiview-*/{ANNOTATIONS}).")
    return LabelledImages(f"navi:{path}", tuple(images), max_depth=10.0)


def _scene(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"


def _collection(folder: Path, scene: str) -> list[LabelledImage]:
    entries = read_json(folder / ANNOTATIONS)
    if not isinstance(entries, list):
        raise InputError(f"{folder / ANNOTATIONS} is no list of photos: download it again.")
    images = []
    for entry in entries:
        try:
            name, camera = str(entry["filename"]), _camera(entry)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{folder / ANNOTATIONS} has a photo without a camera ({error}): correct it.") from error
        if Path(name).name != name:
            raise InputError(f"{folder / ANNOTATIONS} names a photo outside its folder, {name}: correct it.")
        images.append(
            LabelledImage(
                f"{_scene(folder)}/{Path(name).stem}",
                folder / "images" / name,
                depth_path=folder / "depth" / f"{Path(name).stem}.png",
                depth_coding=DEPTH,
                camera=camera,
                scene=scene,
                upright=True,
            )
        )
    return images


def _camera(entry: dict[str, Any]) -> PinholeCamera:
    height, width = (int(side) for side in entry["image_size"])
    focal = float(entry["camera"]["focal_length"])
    to_camera = np.eye(4)
    to_camera[:3, :3] = rotation(np.array(entry["camera"]["q"], np.float64))
    to_camera[:3, 3] = np.array(entry["camera"]["t"], np.float64) / 1e3  # millimetres
    if not (focal > 0 and np.isfinite(to_camera).all()):
        raise ValueError("its numbers are not finite")
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], np.float64)
    return PinholeCamera(K, np.linalg.inv(to_camera), (height, width))


def rotation(q: Array) -> Array:
    """The matrix [3, 3] of a quaternion (w, x, y, z) of any length but 0."""
    w, *xyz = q
    matrix: Array = Rotation.from_quat([*xyz, w]).as_matrix()
    return matrix
