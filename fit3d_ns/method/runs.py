"""Runs of nerfstudio on disk: their configuration and checkpoints, and scenes to lift features into.

For lifting no model is built: the Gaussians come from the checkpoint or file, the cameras from nerfstudio's
dataparsers.
"""

from __future__ import annotations

import operator
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.splatfacto import SplatfactoModelConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from torch import Tensor

from fit3d_ns.common.console import logger
from fit3d_ns.common.errors import InputError, one_line
from fit3d_ns.common.json_input import parse_json
from fit3d_ns.common.temporaries import sweep_leftovers
from fit3d_ns.features.backbone import BackboneConfig
from fit3d_ns.lifting.scene import LiftScene
from fit3d_ns.method.activation import activated
from fit3d_ns.method.captures import dataparser_of, parsed_views, training_poses
from fit3d_ns.method.config import fit3d_features  # also names the types in nerfstudio's checkpoints safe to load
from fit3d_ns.method.config_file import load_config
from fit3d_ns.method.datamanager import Fit3DDatamanagerConfig
from fit3d_ns.method.model import Fit3DModelConfig
from fit3d_ns.method.pipeline import Fit3DPipeline
from fit3d_ns.method.run_folder import last_checkpoint, scene_of, use_found_paths
from fit3d_ns.rasterization import RasterizeMode
from fit3d_ns.scene.description import ViewInfo
from fit3d_ns.scene.ply import read_splat_ply


def read_config(path: Path, model: type[SplatfactoModelConfig] = Fit3DModelConfig) -> TrainerConfig:
    """The configuration of a run of a fit3d method, or of whatever has a `model` of this configuration.

    Its relative paths are made absolute (`fit3d_ns.method.run_folder`), and what killed programs left beside it is
    swept.

    Raises:
        InputError: not there, not a nerfstudio configuration, one that could run programs, or of another method.
    """
    config = load_config(path)
    sweep_leftovers(path.parent)
    ours = model is Fit3DModelConfig
    _require_type(path, config, "pipeline", VanillaPipelineConfig)
    kind = Fit3DDatamanagerConfig if ours else FullImageDatamanagerConfig
    if not isinstance(config.pipeline.model, model) or not isinstance(config.pipeline.datamanager, kind):
        wanted = "a fit3d method: train with ns-train fit3d-features first" if ours else _GAUSSIAN_METHODS
        raise InputError(f"{path} is not the config.yml of {wanted}.")
    for name, type_ in _TYPES.items():
        _require_type(path, config, name, type_)
    use_found_paths(path, config)
    return config


_GAUSSIAN_METHODS = "splatfacto or a fit3d method: features need Gaussians"
_TYPES: dict[str, Any] = {
    "pipeline.datamanager.data": Path | str | None,
    "pipeline.datamanager.dataparser": DataParserConfig,
    "pipeline.datamanager.dataparser.data": Path | str,
    "pipeline.model.camera_optimizer": CameraOptimizerConfig,
    "output_dir": Path | str,
    "relative_model_dir": Path | str,
    "experiment_name": str | None,
    "method_name": str,
    "timestamp": str,
    "data": Path | str | None,
    "max_num_iterations": int,
}
"""Of what is set up or read here: a configuration can be written by hand."""


def _require_type(path: Path, config: TrainerConfig, name: str, kind: Any) -> None:
    value = operator.attrgetter(name)(config)
    if not isinstance(value, kind):
        raise InputError(f"{path}: {name!r} is {value!r}; give the config.yml as ns-train wrote it.")


def load_state(checkpoint: Path) -> dict[str, Any]:
    """What is in a checkpoint, on the CPU.

    Raises:
        InputError: it is damaged, or no checkpoint.
    """
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not isinstance(state.get("pipeline"), dict) or "step" not in state:
            raise ValueError("no pipeline in it")
        strange = [name for name, value in state["pipeline"].items() if not isinstance(value, Tensor)]
        if strange:
            raise ValueError(f"{str(strange[0])[:80]} is no tensor")
    except Exception as error:  # torch's readers of old and new formats raise many types on broken files
        raise InputError(
            f"{checkpoint} is no checkpoint of a Gaussian method ({one_line(error)}); train again."
        ) from error
    return state


def load_pipeline(config: TrainerConfig, checkpoint: Path) -> Fit3DPipeline:
    """The pipeline of a run of a fit3d method as its checkpoint left it, ready to render.

    nerfstudio's `eval_setup`, but with a configuration that `read_config` has checked and the checkpoint that it is
    told, where nerfstudio reads both again and looks for the checkpoint from the working folder.

    Raises:
        InputError: a damaged checkpoint, or a capture that is not as it should be.
    """
    state = load_state(checkpoint)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pipeline: Fit3DPipeline = config.pipeline.setup(device=device, test_mode="test")
    pipeline.eval()
    try:
        pipeline.load_pipeline(state["pipeline"], state["step"])
    except (RuntimeError, KeyError) as error:
        raise InputError(
            f"{checkpoint} does not fit its configuration ({one_line(error)}): export it with the fit3d that wrote it."
        ) from error
    return pipeline


def finished_runs(folder: Path) -> list[Path]:
    """The config.yml of the newest finished fit3d run of each scene under `folder`.

    Raises:
        InputError: there is none.
    """
    newest: dict[str, Path] = {}
    for path in sorted(folder.rglob("config.yml"), key=lambda path: path.parent.name):  # names are time stamps
        try:
            config = read_config(path)
            _, last = last_checkpoint(path, config)
            scene = scene_of(path, config)
        except InputError as error:
            logger.info("Left out: %s", error)
            continue
        if last < config.max_num_iterations - 1:
            logger.info("Left out: %s stopped at step %d of %d.", path, last, config.max_num_iterations)
            continue
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
    path, _ = last_checkpoint(config_path, config)
    state = load_state(path)["pipeline"]
    try:
        parameters = {
            name: state[f"_model.gauss_params.{name}"].float()
            for name in ("means", "quats", "scales", "opacities", "features_dc", "features_rest")
        }
    except KeyError as error:
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
    folder = Path(os.path.abspath(data))
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
        meta = parse_json(path.read_text())
        transform, scale = np.array(meta["transform"], dtype=np.float64), float(meta["scale"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
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
