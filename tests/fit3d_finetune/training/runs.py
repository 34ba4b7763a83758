"""What tests of trainings do with runs: cut them short, and compare what they leave."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fit3d_finetune.backbone.hub import WEIGHTS_FILE
from fit3d_finetune.training import train as training
from fit3d_finetune.training.train import finetune


class Stopped(Exception):  # noqa: N818
    """The process dies."""


def cut_short(run: training.Run, steps: int) -> None:
    """Start a run that dies after so many steps, each with a checkpoint."""
    step, done = training.training_step, 0

    def stopping(*arguments):  # type: ignore[no-untyped-def]
        nonlocal done
        if done == steps:
            raise Stopped
        done += 1
        return step(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "training_step", stopping)
        with pytest.raises(Stopped):
            finetune(run)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights that a finished run wrote."""
    return load_file(folder / WEIGHTS_FILE)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether both have the same tensors, to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
