"""Where the things of a run lie, found from its config.yml: it may be read from any working folder.

config.yml lies at `output_dir/experiment_name/method_name/timestamp/config.yml`, the checkpoints beside it. What it
records as relative paths (`output_dir` and the capture's, as a rule) starts from the folder that ns-train was started
in; that folder follows from where config.yml lies and what it calls its own place.
"""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParser, ColmapDataParserConfig
from nerfstudio.engine.trainer import TrainerConfig

from fit3d_ns.common.console import logger
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.config import NAMED_WEIGHTS
from fit3d_ns.method.datamanager import Fit3DDatamanagerConfig
from fit3d_ns.scene.name import require_scene_name

_CHECKPOINT = re.compile(r"step-(\d+)\.ckpt")


def last_checkpoint(path: Path, config: TrainerConfig) -> tuple[Path, int]:
    """The newest checkpoint beside config.yml, wherever `output_dir` says that it was written, and its step.

    Raises:
        InputError: there is no checkpoint.
    """
    folder = path.parent / config.relative_model_dir
    steps = {int(match[1]): found for found in folder.glob("*.ckpt") if (match := _CHECKPOINT.fullmatch(found.name))}
    if not steps:
        raise InputError(f"{folder} has no checkpoint: train the run of {path} until it saves one.")
    last = max(steps)
    return steps[last], last


def scene_of(path: Path, config: TrainerConfig) -> str:
    """The scene's name: the experiment's.

    Raises:
        InputError: it cannot be a scene's name.
    """
    name = config.experiment_name or path.parent.name
    return require_scene_name(name, f"{path}: 'experiment_name'", "give another with --name")


def started_in(path: Path, config: TrainerConfig) -> Path | None:
    """The folder that ns-train was started in, if config.yml tells."""
    run = (config.output_dir, config.experiment_name, config.method_name, config.timestamp)
    own_place = Path(os.path.normpath(os.path.join(*map(str, run))))
    folder = Path(os.path.abspath(path)).parent
    count = len(own_place.parts)
    if own_place.is_absolute() or own_place.parts[0] == ".." or folder.parts[-count:] != own_place.parts:
        return None
    return Path(*folder.parts[:-count])


def use_found_paths(path: Path, config: TrainerConfig) -> None:
    """Make absolute, in place, what the configuration of a Gaussian method records as relative paths.

    Each is looked for from where ns-train was started, then from the working folder.
    """
    origin = started_in(path, config)

    def found(recorded: Path) -> Path:
        if recorded.is_absolute():
            return recorded
        if origin is None:
            return Path.cwd() / recorded
        here, there = Path.cwd() / recorded, origin / recorded
        if here != there and here.exists() and not there.exists():
            logger.warning("%s of %s is not in %s: %s is taken.", recorded, path, origin, here)
            return here
        return there

    manager = config.pipeline.datamanager
    if config.data is not None:
        config.data = found(Path(config.data))
    if manager.data is not None:
        manager.data = found(Path(manager.data))
    manager.dataparser.data = found(Path(manager.dataparser.data))
    config.output_dir = path.absolute().parent.parent.parent.parent if origin is None else origin / config.output_dir
    if isinstance(manager, Fit3DDatamanagerConfig):
        if manager.feature_cache_dir is not None:
            manager.feature_cache_dir = found(Path(manager.feature_cache_dir))
        weights = manager.backbone.weights
        if weights not in NAMED_WEIGHTS:
            kind = "local-dir:" if weights.startswith("local-dir:") else ""
            where = found(Path(weights.removeprefix(kind)).expanduser())
            manager.backbone = dataclasses.replace(manager.backbone, weights=f"{kind}{where}")
    use_no_shell(manager.dataparser)


def use_no_shell(parser: DataParserConfig) -> None:
    """Keep nerfstudio's COLMAP parser, in place, from resizing photos with a shell command made of their names."""
    if isinstance(parser, ColmapDataParserConfig):
        parser._target = _ColmapWithoutShell


class _ColmapWithoutShell(ColmapDataParser):
    def _setup_downscale_factor(self, *arguments: Any) -> Any:
        try:
            return super()._setup_downscale_factor(*arguments)
        except (EOFError, SystemExit):  # it asked, and nobody answered or the answer was no
            self._downscale_images()

    def _downscale_images(self, *_: Any, **__: Any) -> None:
        raise InputError(
            f"{self.config.data} has no photos at 1/{self._downscale_factor} of their size, which the run was trained "
            f"on: restore the folder {self.config.images_path}_{self._downscale_factor}."
        )
