"""Posed photos as nerfstudio's dataparsers read them, in the terms of scene.json."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.trainer import TrainerConfig
from torch import Tensor

from fit3d_ns.capture.checks import check_posed_images, check_transforms
from fit3d_ns.capture.lens import undistorted_camera
from fit3d_ns.common.errors import InputError, one_line
from fit3d_ns.features.backbone import InputRule, grid_size
from fit3d_ns.method.cameras import world_to_camera
from fit3d_ns.scene.description import Split, ViewInfo, file_sha256, relative_to_root

COLMAP_FOLDERS = ("sparse/0", "colmap/sparse/0", "sparse")
_ANY_PATCH = 14
"""Lifting sets the grids for its own backbone."""
_CAMERA_MODELS = {CameraType.PERSPECTIVE.value: "OPENCV", CameraType.FISHEYE.value: "OPENCV_FISHEYE"}


def view_infos(
    parsed: DataparserOutputs,
    poses: Sequence[np.ndarray],
    split: Split,
    root: Path,
    patch_size: int,
    max_size: int | None,
    rule: InputRule = "nearest",
) -> list[ViewInfo]:
    """A dataparser's images as the files are on disk, with world-to-camera `poses` [4, 4].

    Raises:
        InputError: a camera is neither perspective nor fisheye.
    """
    masks: Sequence[Path | None] = parsed.mask_filenames or [None] * len(parsed.image_filenames)
    views = []
    for index, (path, mask) in enumerate(zip(parsed.image_filenames, masks, strict=True)):
        camera = parsed.cameras[index : index + 1]
        model_name = _CAMERA_MODELS.get(int(camera.camera_type.item()))
        if model_name is None:
            raise InputError(
                f"camera of {path} is neither perspective nor fisheye: only these two can be exported; "
                "resample the images with a pinhole camera first."
            )
        K = camera.get_intrinsics_matrices()[0].double().numpy()
        width, height = int(camera.width.item()), int(camera.height.item())
        distortion = np.zeros(6)
        if camera.distortion_params is not None:
            distortion = camera.distortion_params[0].double().numpy()
        _, seen_width, seen_height = undistorted_camera(K, distortion, width, height, model_name)
        views.append(
            ViewInfo(
                path=relative_to_root(path, root),
                width=width,
                height=height,
                K=K,
                distortion=distortion,
                camera_model=model_name,
                world_to_camera=poses[index],
                mask_path=None if mask is None else relative_to_root(mask, root),
                split=split,
                sha256=file_sha256(path),
                grid=grid_size(seen_height, seen_width, patch_size, max_size, rule),
            )
        )
    return views


def training_poses(config: TrainerConfig, state: dict[str, Tensor]) -> Any:
    """What moves the training cameras as the run's camera optimiser has learned."""
    prefix = "_model.camera_optimizer."
    learned = {name.removeprefix(prefix): values for name, values in state.items() if name.startswith(prefix)}
    if "pose_adjustment" not in learned:
        return None
    optimizer = config.pipeline.model.camera_optimizer.setup(
        num_cameras=len(learned["pose_adjustment"]), device=torch.device("cpu")
    )
    optimizer.load_state_dict(learned)
    return optimizer


@torch.no_grad()
def parsed_views(parser: DataParserConfig, optimizer: Any) -> tuple[tuple[ViewInfo, ...], Path, DataparserOutputs]:
    """All views of a capture in the dataparser's frame, the folder of their paths, and the parsed training split."""
    if isinstance(parser, NerfstudioDataParserConfig):
        check_transforms(parser.data)
    root = Path(parser.data)
    root = (root if root.is_dir() else root.parent).absolute()
    with readable_capture(parser):
        loader = parser.setup()
        splits: dict[Split, DataparserOutputs] = {
            "train": loader.get_dataparser_outputs("train"),
            "eval": loader.get_dataparser_outputs("val"),
        }
    views: list[ViewInfo] = []
    for split, parsed in splits.items():
        poses = []
        for index in range(len(parsed.image_filenames)):
            camera = parsed.cameras[index : index + 1]
            pose = camera.camera_to_worlds
            if optimizer is not None and split == "train":
                camera.metadata = {"cam_idx": index}
                pose = optimizer.apply_to_camera(camera)
            poses.append(world_to_camera(pose)[0].double().numpy())
        with readable_capture(parser):
            views += view_infos(parsed, poses, split, root, _ANY_PATCH, None)
    check_posed_images(
        [root / view.path for view in views],
        [view.width for view in views],
        [view.height for view in views],
        np.stack([np.linalg.inv(view.world_to_camera)[:3] for view in views]) if views else np.empty((0, 3, 4)),
    )
    return tuple(views), root, splits["train"]


@contextmanager
def readable_capture(parser: DataParserConfig, data: Path | None = None) -> Iterator[None]:
    """Whatever nerfstudio's parser of a capture raises becomes an `InputError` that names the capture.

    Args:
        data: the capture, where it is not the parser's own `data`.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # they raise many types on broken files
        kind = type(parser).__name__.removesuffix("DataParserConfig").removesuffix("Config")
        said = one_line(error) if isinstance(error, OSError) else f"{type(error).__name__}: {one_line(error)}"
        raise InputError(
            f"the capture {data or parser.data} cannot be read as {kind} data ({said}): restore its files, or make it "
            "again."
        ) from error


def dataparser_of(data: Path) -> DataParserConfig:
    """A dataparser that leaves the capture's frame as it is, as far as that parser can."""
    as_is: dict[str, Any] = {
        "data": data,
        "orientation_method": "none",
        "center_method": "none",
        "auto_scale_poses": False,
        "load_3D_points": False,
    }
    if data.suffix == ".json" or (data / "transforms.json").is_file():
        return NerfstudioDataParserConfig(**as_is)
    for folder in COLMAP_FOLDERS:
        if any((data / folder / f"cameras.{kind}").is_file() for kind in ("bin", "txt")):
            return ColmapDataParserConfig(
                **as_is, colmap_path=Path(folder), downscale_factor=1, assume_colmap_world_coordinate_convention=False
            )
    raise InputError(
        f"{data} holds neither a transforms.json nor a COLMAP model ({', '.join(COLMAP_FOLDERS)}); give --data the "
        "capture that the Gaussians were trained on."
    )
