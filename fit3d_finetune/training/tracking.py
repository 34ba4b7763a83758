"""Where training figures go: TensorBoard, Weights & Biases, or nowhere."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from fit3d_ns.common.errors import InputError

TrackerName = Literal["tensorboard", "wandb", "none"]


class Tracker(Protocol):
    """Receives scalars by step."""

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """Record some scalars of a step."""

    def close(self) -> None:
        """Write what is pending."""


class _Nowhere:
    def log(self, scalars: Mapping[str, float], step: int) -> None:
        pass

    def close(self) -> None:
        pass


class _TensorBoard:
    def __init__(self, folder: Path, purge_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Steps after the checkpoint that a run resumes from are written again: drop the first version.
        self.writer = SummaryWriter(str(folder), purge_step=purge_step or None)

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class _WeightsAndBiases:
    def __init__(self, folder: Path, run: dict[str, Any]) -> None:
        import wandb

        # The same id for the same folder, so that a resumed run goes on in its curve.
        path = str(folder.resolve())
        run_id = hashlib.sha256(path.encode()).hexdigest()[:16]
        name = folder.resolve().parent.name
        try:
            self.run = wandb.init(project="fit3d", name=name, dir=path, id=run_id, resume="allow", config=run)
        except wandb.errors.Error as error:
            raise InputError(
                f"--tracker wandb: Weights & Biases does not start ({' '.join(str(error).split())}); log in, set "
                "WANDB_MODE=offline, or leave the option out."
            ) from error

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        self.run.log(dict(scalars), step=step)

    def close(self) -> None:
        self.run.finish()


def require_tracker(name: TrackerName) -> None:
    """Raise `InputError` if the tracker's package is not installed."""
    if name == "wandb" and importlib.util.find_spec("wandb") is None:
        raise InputError("--tracker wandb needs Weights & Biases: pip install wandb, or leave the option out.")


def open_tracker(name: TrackerName, folder: Path, start_step: int, run: dict[str, Any]) -> Tracker:
    """The tracker of that name, writing under `folder`, the logs' folder inside the run's."""
    if name == "none":
        return _Nowhere()
    folder.mkdir(parents=True, exist_ok=True)
    return _TensorBoard(folder, start_step) if name == "tensorboard" else _WeightsAndBiases(folder, run)
