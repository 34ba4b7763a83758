"""Scenes to lift features into, from what nerfstudio reads: runs of any splatfacto, and captures for a .ply.

No model is built: the Gaussians come from the checkpoint or file, the cameras from nerfstudio's dataparsers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.splatfacto import RGB2SH, SplatfactoModelConfig
from torch import Tensor

from fit3d_ns.capture.checks import check_posed_images, check_transforms
from fit3d_ns.commands.export import require_checkpoint, view_infos
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.backbone import BackboneConfig
from fit3d_ns.lifting.scene import LiftScene
from fit3d_ns.method.cameras import world_to_camera
from fit3d_ns.method.config import fit3d_features  # also names the types in nerfstudio's checkpoints safe to load
from fit3d_ns.method.datamanager import Fit3DDatamanagerConfig
from fit3d_ns.scene.description import RasterizeMode, Split, ViewInfo
from fit3d_ns.scene.ply import Splats, read_splat_ply

COLMAP_FOLDERS = ("sparse/0", "colmap/sparse/0", "sparse")
_ANY_PATCH = 14
"""Lifting sets the grids for its own backbone."""


def scene_from_run(config_path: Path) -> tuple[LiftScene, BackboneConfig]:
    """The last checkpoint of a run of a fit3d method or splatfacto, and the backbone of its configuration.

    Raises:
        InputError: no such run, no checkpoint, or images that are not there.
    """
    config = _read_config(config_path)
    step = require_checkpoint(config_path, config)
    path = config_path.parent / config.relative_model_dir / f"step-{step:09d}.ckpt"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["pipeline"]
        parameters = {
            name: state[f"_model.gauss_params.{name}"].float()
            for name in ("means", "quats", "scales", "opacities", "features_dc", "features_rest")
        }
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise InputError(f"{path} is no checkpoint of splatfacto or a fit3d method ({error}); train again.") from error
    manager = config.pipeline.datamanager
    parser = manager.dataparser
    if manager.data is not None:
        parser.data = Path(manager.data)
    views, root, outputs = _parsed(parser, _training_poses(config, state))
    model = config.pipeline.model
    scene = LiftScene(
        name=config.experiment_name or config_path.parent.name,
        splats=_splats(parameters, model.sh_degree),
        views=views,
        images_root=root,
        units="arbitrary",
        transform=outputs.dataparser_transform.double().numpy()[:3, :4],
        scale=float(outputs.dataparser_scale),
        rasterize_mode=model.rasterize_mode,
    )
    is_ours = isinstance(manager, Fit3DDatamanagerConfig)
    return scene, manager.backbone if is_ours else fit3d_features.config.pipeline.datamanager.backbone


def scene_from_ply(
    ply: Path, data: Path, dataparser_transforms: Path | None = None, rasterize_mode: RasterizeMode = "classic"
) -> LiftScene:
    """Gaussians of a standard 3DGS file with the photos and cameras of the capture they were trained on.

    Args:
        ply: the Gaussians.
        data: a folder with transforms.json or a COLMAP model, or the transforms.json.
        dataparser_transforms: the file beside nerfstudio's config.yml, if the Gaussians are in nerfstudio's frame;
            None: they are in the capture's (COLMAP's world).
        rasterize_mode: as the Gaussians were trained.

    Raises:
        InputError: whatever is missing or wrong.
    """
    splats = read_splat_ply(ply)
    if splats.sh.shape[1] > 16:
        raise InputError(f"{ply} has spherical harmonics of degree 4; exports hold degree 0 to 3.")
    transform, scale = _read_transforms(dataparser_transforms)
    views, root, outputs = _parsed(_parser(Path(data)), None)
    read = outputs.dataparser_transform.double().numpy()[:3, :4]
    moved = []
    for view in views:
        in_capture = _in_capture(view.world_to_camera, read, float(outputs.dataparser_scale))
        moved.append(_replaced(view, _from_capture(in_capture, transform, scale)))
    folder = Path(data).absolute()
    return LiftScene(
        name=(folder.parent if folder.suffix == ".json" else folder).name,
        splats=splats,
        views=tuple(moved),
        images_root=root,
        units="arbitrary",
        transform=transform,
        scale=scale,
        rasterize_mode=rasterize_mode,
    )


def _read_config(path: Path) -> TrainerConfig:
    if not path.is_file():
        raise InputError(f"{path} does not exist: give --load-config the config.yml that ns-train wrote.")
    try:
        config = yaml.load(path.read_text(), Loader=yaml.Loader)
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError) as error:
        raise InputError(f"{path} is not a configuration that this nerfstudio can read ({error}).") from error
    if not isinstance(config, TrainerConfig) or not isinstance(config.pipeline.model, SplatfactoModelConfig):
        raise InputError(f"{path} is not the config.yml of splatfacto or a fit3d method: features need Gaussians.")
    return config


def _splats(parameters: dict[str, Tensor], sh_degree: int) -> Splats:
    base = parameters["features_dc"]
    if sh_degree == 0:
        base = RGB2SH(torch.sigmoid(base))  # splatfacto keeps plain colours then
    sh = torch.cat([base[:, None], parameters["features_rest"]], dim=1)
    return Splats(
        means=parameters["means"].numpy(),
        quats=parameters["quats"].numpy(),
        scales=torch.exp(parameters["scales"]).numpy(),
        opacities=torch.sigmoid(parameters["opacities"]).squeeze(-1).numpy(),
        sh=sh.numpy(),
    )


def _training_poses(config: TrainerConfig, state: dict[str, Tensor]) -> Any:
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
def _parsed(parser: DataParserConfig, optimizer: Any) -> tuple[tuple[ViewInfo, ...], Path, DataparserOutputs]:
    """All views of a capture in the dataparser's frame, the folder of their paths, and the parsed training split."""
    if isinstance(parser, NerfstudioDataParserConfig):
        check_transforms(parser.data)
    root = Path(parser.data)
    root = (root if root.is_dir() else root.parent).absolute()
    loader = parser.setup()
    views: list[ViewInfo] = []
    splits: dict[Split, DataparserOutputs] = {
        "train": loader.get_dataparser_outputs("train"),
        "eval": loader.get_dataparser_outputs("val"),
    }
    for split, parsed in splits.items():
        poses = []
        for index in range(len(parsed.image_filenames)):
            camera = parsed.cameras[index : index + 1]
            pose = camera.camera_to_worlds
            if optimizer is not None and split == "train":
                camera.metadata = {"cam_idx": index}
                pose = optimizer.apply_to_camera(camera)
            poses.append(world_to_camera(pose)[0].double().numpy())
        views += view_infos(parsed, poses, split, root, _ANY_PATCH, None)
    check_posed_images(
        [root / view.path for view in views],
        [view.width for view in views],
        [view.height for view in views],
        np.stack([np.linalg.inv(view.world_to_camera)[:3] for view in views]) if views else np.empty((0, 3, 4)),
    )
    return tuple(views), root, splits["train"]


def _parser(data: Path) -> DataParserConfig:
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


def _read_transforms(path: Path | None) -> tuple[np.ndarray, float]:
    """transform [3, 4] and scale from the capture's frame to the Gaussians'."""
    if path is None:
        return np.eye(4)[:3], 1.0
    try:
        meta = json.loads(path.read_text())
        transform, scale = np.array(meta["transform"], dtype=np.float64), float(meta["scale"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a dataparser_transforms.json ({error}); give the one beside the run's config.yml."
        ) from error
    if transform.shape != (3, 4) or not np.isfinite(transform).all() or not 0 < scale < np.inf:
        raise InputError(f"{path} holds no 3x4 transform and positive scale; give the one beside the run's config.yml.")
    return transform, scale


def _in_capture(pose: np.ndarray, transform: np.ndarray, scale: float) -> np.ndarray:
    """World-to-camera [4, 4] from the capture's frame, from that of points scale * (R p + t), [R | t] = transform."""
    moved = pose.copy()
    moved[:3, :3] = pose[:3, :3] @ transform[:, :3]
    moved[:3, 3] = pose[:3, :3] @ transform[:, 3] + pose[:3, 3] / scale
    return moved


def _from_capture(pose: np.ndarray, transform: np.ndarray, scale: float) -> np.ndarray:
    """The inverse of `_in_capture`."""
    moved = pose.copy()
    moved[:3, :3] = pose[:3, :3] @ np.linalg.inv(transform[:, :3])
    moved[:3, 3] = scale * (pose[:3, 3] - moved[:3, :3] @ transform[:, 3])
    return moved


def _replaced(view: ViewInfo, pose: np.ndarray) -> ViewInfo:
    return ViewInfo(**{**vars(view), "world_to_camera": pose})
