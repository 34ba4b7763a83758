"""ScanNet++ as it is downloaded: `ns-train fit3d-features --data data/SCENE_ID fit3d-scannetpp-data`.

nerfstudio's own `scannetpp-data` reads the same layout, but no points, and nothing where there are no test frames.

SCENE_ID/dslr/nerfstudio/transforms.json       fisheye cameras; frames, and test_frames where they are published
SCENE_ID/dslr/resized_images, resized_anon_masks   photos, and which of their pixels count (255)
SCENE_ID/dslr/colmap/                          the model that they come from: points3D.txt and images.txt

With `undistorted`: transforms_undistorted.json and the folders that ScanNet++'s toolkit writes beside these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.cameras import camera_utils
from nerfstudio.cameras.cameras import CAMERA_MODEL_TO_TYPE, Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.scannetpp_dataparser import ScanNetpp, ScanNetppDataParserConfig
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.data.utils import colmap_parsing_utils as colmap
from nerfstudio.plugins.registry_dataparser import DataParserSpecification
from torch import Tensor

from fit3d_ns.capture.cameras import pose_fault
from fit3d_ns.capture.checks import check_camera_model, check_intrinsics, read_json
from fit3d_ns.common.console import logger
from fit3d_ns.common.errors import InputError

UNDISTORTED_IMAGES = ("resized_undistorted_images", "undistorted_images")
UNDISTORTED_MASKS = ("resized_undistorted_masks", "undistorted_anon_masks", "undistorted_masks")
"""Names that versions of the toolkit write, below dslr/."""
AGREEMENT = 1e-2
"""How far cameras of the COLMAP model may lie from those of transforms.json, as a share of the largest distance between
cameras."""


@dataclass
class Fit3DScanNetppDataParserConfig(ScanNetppDataParserConfig):
    """A scene of ScanNet++ (its DSLR photos), with the points of its COLMAP model."""

    _target: type = field(default_factory=lambda: Fit3DScanNetpp)
    undistorted: bool = False
    """Take the pinhole photos that ScanNet++'s toolkit makes (python -m dslr.undistort)."""
    use_masks: bool = True
    """Leave out what was made unrecognisable in the photos."""
    skip_bad_frames: bool = False
    """Leave out frames that are marked is_bad: blurred, or with strong shadows."""
    eval_interval: int = 8
    """Where no test frames are published, every so many-th frame is one."""
    load_3D_points: bool = True  # noqa: N815 (nerfstudio's name)
    """Start from the points of the COLMAP model."""


@dataclass(frozen=True)
class _Frame:
    """A photo with its pose."""

    name: str
    pose: np.ndarray
    """[4, 4] camera to world, OpenGL's axes."""
    mask: str | None
    test: bool


class Fit3DScanNetpp(ScanNetpp):
    """Its parser."""

    config: Fit3DScanNetppDataParserConfig

    def _generate_dataparser_outputs(self, split: str = "train") -> DataparserOutputs:
        """Photos, cameras and points of a split.

        Raises:
            InputError: files are missing or hold no frames, or the COLMAP model is of other cameras.
        """
        config = self.config
        transforms, images, masks = self._places()
        meta = read_json(transforms)
        check_camera_model(transforms, meta)
        frames = self._frames(transforms, meta, images)
        width, height = check_intrinsics(transforms, meta, {}, "any frame")
        original = torch.from_numpy(np.stack([frame.pose for frame in frames]).astype(np.float32))
        poses, transform = camera_utils.auto_orient_and_center_poses(
            original, method=config.orientation_method, center_method=config.center_method
        )
        scale = config.scale_factor
        if config.auto_scale_poses:
            scale /= max(float(poses[:, :3, 3].abs().max()), 1e-12)
        poses[:, :3, 3] *= scale
        side = config.scene_scale * (1.0 if config.auto_scale_poses else float(poses[:, :3, 3].abs().max()))
        chosen = [index for index, frame in enumerate(frames) if frame.test == (split != "train")]
        cameras = Cameras(
            **{name: float(meta[key]) for name, key in (("fx", "fl_x"), ("fy", "fl_y"), ("cx", "cx"), ("cy", "cy"))},
            width=width,
            height=height,
            distortion_params=camera_utils.get_distortion_params(
                **{key: float(meta.get(key, 0.0)) for key in ("k1", "k2", "k3", "k4", "p1", "p2")}
            ),
            camera_to_worlds=poses[chosen, :3, :4],
            camera_type=CAMERA_MODEL_TO_TYPE[meta.get("camera_model", "OPENCV")],
        )
        return DataparserOutputs(
            image_filenames=[images / frames[index].name for index in chosen],
            mask_filenames=None if masks is None else [masks / str(frames[index].mask) for index in chosen],
            cameras=cameras,
            scene_box=SceneBox(aabb=torch.tensor([[-side] * 3, [side] * 3], dtype=torch.float32)),
            dataparser_scale=scale,
            dataparser_transform=transform,
            metadata=self._points(frames, transform, scale) if config.load_3D_points else {},
        )

    def _places(self) -> tuple[Path, Path, Path | None]:
        """transforms.json, and the folders of photos and masks."""
        config, dslr = self.config, self.config.data / "dslr"
        transforms, images = config.data / config.transforms_path, config.data / config.images_dir
        masks = [config.data / config.masks_dir]
        if config.undistorted:
            transforms = dslr / "nerfstudio" / "transforms_undistorted.json"
            found = [dslr / name for name in UNDISTORTED_IMAGES if (dslr / name).is_dir()]
            images = found[0] if found else dslr / UNDISTORTED_IMAGES[0]
            masks = [dslr / name for name in UNDISTORTED_MASKS]
        remedy = "run ScanNet++'s toolkit (python -m dslr.undistort)" if config.undistorted else "download it"
        for path, what in ((transforms, "cameras"), (images, "photos")):
            if not path.exists():
                raise InputError(f"--data {config.data} has no {what} of ScanNet++ at {path}: {remedy}.")
        if not config.use_masks:
            return transforms, images, None
        there = [folder for folder in masks if folder.is_dir()]
        if not there:
            raise InputError(
                f"--data {config.data} has no masks of ScanNet++ at {masks[0]}: {remedy}, or give --use-masks False "
                "behind fit3d-scannetpp-data."
            )
        return transforms, images, there[0]

    def _frames(self, transforms: Path, meta: dict[str, Any], images: Path) -> list[_Frame]:
        """All frames by name, each once: the toolkit's undistorted file lists test frames among the others, too."""
        config = self.config
        found: dict[str, _Frame] = {}
        bad, missing = 0, 0
        for key in ("test_frames", "frames"):
            given = meta.get(key) or []
            if not isinstance(given, list) or not all(isinstance(frame, dict) for frame in given):
                raise InputError(f'"{key}" of {transforms} is no list of frames: download the file again.')
            for index, frame in enumerate(given):
                name = frame.get("file_path")
                if not isinstance(name, str) or not name:
                    raise InputError(f'{key}[{index}] of {transforms} has no "file_path": download the file again.')
                if name in found:
                    continue
                fault = pose_fault(frame.get("transform_matrix"), 4)
                if fault:
                    raise InputError(f"transform_matrix of {name} in {transforms} {fault}: download the file again.")
                mask = frame.get("mask_path", str(Path(name).with_suffix(".png")))
                if config.skip_bad_frames and frame.get("is_bad", False):
                    bad += 1
                elif key == "test_frames" and not (images / name).is_file():
                    missing += 1
                else:
                    pose = np.asarray(frame["transform_matrix"], dtype=np.float64)
                    found[name] = _Frame(name, pose, str(mask), key == "test_frames")
        frames = sorted(found.values(), key=lambda frame: frame.name)
        if missing:
            logger.info("%s: %d test frames have no photos (of hidden test scenes), and are left out", images, missing)
        if bad:
            logger.info("%s: %d frames are marked bad, and left out", images, bad)
        if not frames:
            raise InputError(f"{transforms} lists no photos: download the file again.")
        if any(frame.test for frame in frames):
            return frames
        logger.info("%s has no test frames: every %d-th frame is one", transforms, config.eval_interval)
        return [
            _Frame(frame.name, frame.pose, frame.mask, index % config.eval_interval == 0)
            for index, frame in enumerate(frames)
        ]

    def _points(self, frames: Sequence[_Frame], transform: Tensor, scale: float) -> dict[str, Tensor]:
        """The points of the COLMAP model in the parser's frame, with their colours."""
        folder = self.config.data / "dslr" / "colmap"
        points, images = (self._model_file(folder, name) for name in ("points3D", "images"))
        model = (colmap.read_points3D_binary if points.suffix == ".bin" else colmap.read_points3D_text)(points)
        shots = (colmap.read_images_binary if images.suffix == ".bin" else colmap.read_images_text)(images)
        if not model:
            raise InputError(f"{points} holds no points: download it again, or give --load-3D-points False.")
        poses = {}
        for shot in shots.values():
            pose = np.eye(4)
            pose[:3, :3], pose[:3, 3] = shot.qvec2rotmat(), shot.tvec
            poses[shot.name] = np.linalg.inv(pose)
        to_frame = world_alignment(frames, poses, folder)
        xyz = np.array([point.xyz for point in model.values()]) @ to_frame[:3, :3].T + to_frame[:3, 3]
        moved = torch.from_numpy(xyz.astype(np.float32)) @ transform[:, :3].T + transform[:, 3]
        return {
            "points3D_xyz": scale * moved,
            "points3D_rgb": torch.from_numpy(np.array([point.rgb for point in model.values()], dtype=np.uint8)),
        }

    def _model_file(self, folder: Path, name: str) -> Path:
        for suffix in (".bin", ".txt"):
            if (folder / f"{name}{suffix}").is_file():
                return folder / f"{name}{suffix}"
        raise InputError(
            f"{folder} has no {name}.txt: download it, or give --load-3D-points False behind fit3d-scannetpp-data to "
            "start from random points."
        )


def world_alignment(frames: Sequence[_Frame], poses: dict[str, np.ndarray], source: Path) -> np.ndarray:
    """[4, 4] from the world of a COLMAP model to that of the frames: what takes the cameras of one to the other.

    The two differ by a swap of axes, which transforms.json does not name.

    Args:
        poses: by name, [4, 4] camera to world of the model, OpenCV's axes.
        source: of the model, for messages.

    Raises:
        InputError: no frame is in the model, or no rigid motion takes its cameras to those of the frames.
    """
    shared = [frame for frame in frames if frame.name in poses]
    if not shared:
        raise InputError(f"{source} has none of the photos of transforms.json: download both again.")
    to_opencv = np.diag([1.0, -1.0, -1.0, 1.0])
    own = np.stack([frame.pose @ to_opencv for frame in shared])
    of_model = np.stack([poses[frame.name] for frame in shared])
    motion = own[0] @ np.linalg.inv(of_model[0])
    distance = np.linalg.norm((motion @ of_model - own)[:, :3, 3], axis=-1).max()
    centres = own[:, :3, 3]
    extent = max(float(np.linalg.norm(centres - centres[0], axis=-1).max()), 1e-6)
    turned = np.abs((motion @ of_model - own)[:, :3, :3]).max()
    if distance > AGREEMENT * extent or turned > AGREEMENT:
        raise InputError(
            f"{source} has other cameras than transforms.json (off by {distance:.3g} of {extent:.3g}): download both "
            "again, or give --load-3D-points False behind fit3d-scannetpp-data."
        )
    return np.asarray(motion)


fit3d_scannetpp = DataParserSpecification(
    config=Fit3DScanNetppDataParserConfig(),
    description="ScanNet++ (DSLR) as downloaded: with points, masks, and scenes without published test frames.",
)
