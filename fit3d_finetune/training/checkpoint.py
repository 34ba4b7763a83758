"""The state of a fine-tuning as one safetensors file: weights, AdamW's moments and the step.

There is no random state to keep: order and augmentation of the views follow from seed and step.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fit3d_finetune.training.recipe import RELEASE_0_1
from fit3d_ns.common.atomic import atomic_file
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.json_input import parse_json

CHECKPOINT_FILE = "checkpoint.safetensors"


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    step: int
    """Optimiser steps that are done."""
    run: dict[str, Any]
    """What decides the run's result (recipe, scenes, seed, ...), to be compared when it is resumed."""
    history: list[dict[str, float]]
    """Validation figures so far."""
    seconds: float
    """Spent on training so far."""
    target_seconds: float
    """Spent on making and reading targets so far."""


def save_checkpoint(
    path: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Write the state of all `parameters` and their optimiser, atomically."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        tensors[f"model.{name}"] = parameter.detach().cpu().contiguous()
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    metadata = {"progress": json.dumps(progress.__dict__)}
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata)


def read_progress(path: Path, run: dict[str, Any]) -> Progress | None:
    """Where an earlier start of the same run stands; None if there was none.

    Raises:
        InputError: a damaged file, or one of another run.
    """
    if not path.is_file():
        return None
    progress = _read_metadata(path)
    different = changed_options(progress.run, run)
    if different:
        raise InputError(
            f"{path.parent} holds an unfinished run that differs in {', '.join(different)}: give the same "
            "options to go on with it, or another --output-dir."
        )
    return progress


def recorded_run(path: Path) -> dict[str, Any]:
    """What decides the result of the run that a checkpoint belongs to.

    Raises:
        InputError: a damaged file.
    """
    return _read_metadata(path).run


def _read_metadata(path: Path) -> Progress:
    try:
        with safe_open(path, framework="pt") as file:
            progress = Progress(**parse_json(file.metadata()["progress"]))
        if not isinstance(progress.run, dict):
            raise TypeError("its description of the run is no table")
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error
    return progress


def changed_options(recorded: dict[str, Any], run: dict[str, Any]) -> list[str]:
    """Where a run differs from the recorded description of another, which may be of release 0.1 of fit3d."""
    return differences({**recorded, "recipe": {**RELEASE_0_1, **recorded.get("recipe", {})}}, run)


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Where two descriptions of a run differ, as dotted keys ("recipe.lr")."""
    names = []
    for key in sorted({*one, *other}):
        a, b = one.get(key), other.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            names += [f"{key}.{name}" for name in differences(a, b)]
        elif a != b:
            names.append(key)
    return names


def restore_checkpoint(path: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    """Put back the weights and the optimiser's state that `save_checkpoint` wrote.

    Raises:
        InputError: a damaged file.
    """
    try:
        tensors = load_file(path)
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(tensors[f"model.{name}"])
                # AdamW has no state for a parameter that never had a gradient.
                state = {key: tensors.get(f"{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
                optimizer.state[parameter] = {
                    key: value.to(parameter.device) for key, value in state.items() if value is not None
                }
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is damaged ({' '.join(str(error).split())}): delete it to start again.")
