"""Runs of nerfstudio on disk: their configuration and checkpoints, and scenes to lift features into.

For lifting no model is built: the Gaussians come from the checkpoint or file, the cameras from nerfstudio's
dataparsers.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import yaml
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.splatfacto import SplatfactoModelConfig

from fit3d_ns.common.console import logger
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.backbone import BackboneConfig
from fit3d_ns.lifting.scene import LiftScene
from fit3d_ns.method.activation import activated
from fit3d_ns.method.captures import dataparser_of, parsed_views, training_poses
from fit3d_ns.method.config import fit3d_features  # also names the types in nerfstudio's checkpoints safe to load
from fit3d_ns.method.datamanager import Fit3DDatamanagerConfig
from fit3d_ns.method.model import Fit3DModelConfig
from fit3d_ns.rasterization import RasterizeMode
from fit3d_ns.scene.description import ViewInfo
from fit3d_ns.scene.ply import read_splat_ply


def read_config(path: Path, model: type[SplatfactoModelConfig] = Fit3DModelConfig) -> TrainerConfig:
    """The configuration of a run of a fit3d method, or of whatever has a `model` of this configuration.

    Raises:
        InputError: not there, not a nerfstudio configuration, or of another method.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist: give --load-config the config.yml that ns-train wrote.")
    try:
        config = yaml.load(path.read_text(), Loader=yaml.Loader)
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError) as error:
        raise InputError(f"{path} is not a configuration that this nerfstudio can read ({error}).") from error
    if isinstance(config, TrainerConfig) and isinstance(config.pipeline.model, model):
        return config
    if model is Fit3DModelConfig:
        raise InputError(f"{path} is not the config.yml of a fit3d method: train with ns-train fit3d-features first.")
    raise InputError(f"{path} is not the config.yml of splatfacto or a fit3d method: features need Gaussians.")


def require_checkpoint(path: Path, config: TrainerConfig) -> int:
    """The last step that was saved.

    Raises:
        InputError: there is no checkpoint.
    """
    folder = path.parent / config.relative_model_dir
    steps = [int(checkpoint.stem.removeprefix("step-")) for checkpoint in folder.glob("step-*.ckpt")]
    if not steps:
        raise InputError(f"{folder} has no checkpoint: train the run of {path} until it saves one.")
    return max(steps)


def finished_runs(folder: Path) -> list[Path]:
    """The config.yml of the newest finished fit3d run of each scene under `folder`.

    Raises:
        InputError: there is none.
    """
    newest: dict[str, Path] = {}
    for path in sorted(folder.rglob("config.yml"), key=lambda path: path.parent.name):  # names are time stamps
        try:
            config = read_config(path)
            last = require_checkpoint(path, config)
        except InputError as error:
            logger.info("Left out: %s", error)
            continue
        if last < config.max_num_iterations - 1:
            logger.info("Left out: %s stopped at step %d of %d.", path, last, config.max_num_iterations)
            continue
        scene = config.experiment_name or path.parent.name
        if scene in newest:
            logger.info("Left out: %s, for there is a newer run of %s.", newest[scene], scene)
        newest[scene] = path
    if not newest:
        raise InputError(f"{folder} has no finished fit3d run: give --all the --output-dir of ns-train (outputs/).")
    return list(newest.values())


def scene_from_run(config_path: Path) -> tuple[LiftScene, BackboneConfig]:
    """The last checkpoint of a run of a fit3d method or splatfacto, and the backbone of its configuration.

    Raises:
        InputError: no such run, no checkpoint, or images that are not there.
    """
    config = read_config(config_path, SplatfactoModelConfig)
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
    views, root, outputs = parsed_views(parser, training_poses(config, state))
    scene = LiftScene(
        name=config.experiment_name or config_path.parent.name,
        splats=activated(parameters, config.pipeline.model),
        views=views,
        images_root=root,
        units="arbitrary",
        transform=outputs.dataparser_transform.double().numpy()[:3, :4],
        scale=float(outputs.dataparser_scale),
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
    splats = read_splat_ply(ply, rasterize_mode)
    if splats.sh.shape[1] > 16:
        raise InputError(f"{ply} has spherical harmonics of degree 4; exports hold degree 0 to 3.")
    transform, scale = _read_transforms(dataparser_transforms)
    views, root, outputs = parsed_views(dataparser_of(Path(data)), None)
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
