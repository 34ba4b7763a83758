"""A whole training step of `fit3d-features-fast` against the rasteriser's own forward and backward.

    python -m benchmarks.training_step --data <scene> [--json out.json]

Trains the scene with nerfstudio's own loop (data, rendering, losses, backward, densification, optimisers, schedules,
TensorBoard) up to full resolution and, from there on, renders the same Gaussians through the same camera once more
after every step: only the rasteriser, forward and backward, with projection and spherical harmonics. Both therefore
run alternately, in one process and on the same state.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.utils import writer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.rasterization import processor
from fit3d_ns.method.config import fit3d_features_fast
from fit3d_ns.method.trainer import Fit3DTrainer, Fit3DTrainerConfig
from fit3d_ns.rasterization import rasterization
from fit3d_ns.rasterization.threads import thread_count
from fit3d_ns.scene import render

FIRST_STEP = 1_700
"""Full resolution (from step 1,600), all 40,000 Gaussians of the preset, and densification still at work."""


ALONE, WHOLE = "rasteriser alone", "training step"


@dataclass
class Row:
    """Milliseconds of one part of the step, or of the rasteriser alone."""

    name: str
    median_ms: float
    min_ms: float
    cpu_ms: float
    """Median of the processor time of all threads, which other programs on the machine disturb less."""
    share: float
    """Of the rasteriser's own forward and backward, by medians."""


class _EnoughError(Exception):
    """Leaves nerfstudio's loop: what it does after training is not measured."""


@dataclass(frozen=True)
class Spent:
    """Milliseconds on the wall's clock and of processor time, of all threads of the process."""

    wall: float = 0.0
    cpu: float = 0.0

    @staticmethod
    def now() -> Spent:
        return Spent(1e3 * time.perf_counter(), 1e3 * time.process_time())

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.wall + other.wall, self.cpu + other.cpu)

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.wall - other.wall, self.cpu - other.cpu)


class Stopwatch:
    """What chosen functions take, each without what chosen functions inside it take."""

    def __init__(self) -> None:
        self.parts: defaultdict[str, Spent] = defaultdict(Spent)
        self._inner = [Spent()]

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = Spent.now()
        self._inner.append(Spent())
        try:
            yield
        finally:
            taken = Spent.now() - start
            self.parts[name] += taken - self._inner.pop()
            self._inner[-1] += taken

    def watch(self, owner: Any, function: str, name: str) -> Any:
        """A patch that times `owner.function` as part `name`."""
        inner = getattr(owner, function)

        @functools.wraps(inner)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return inner(*args, **kwargs)

        return patch.object(owner, function, timed)


def make_config(data: Path, folder: Path, weights: str | None) -> Fit3DTrainerConfig:
    config = deepcopy(fit3d_features_fast.config)
    assert isinstance(config, Fit3DTrainerConfig)
    config.data = config.pipeline.datamanager.data = data
    config.output_dir, config.timestamp, config.vis = folder, "run", "tensorboard"
    config.machine.device_type = "cpu"
    config.set_experiment_name()
    config.logging.local_writer.enable = False  # its table would overwrite ours
    if weights is not None:
        config.pipeline.datamanager.backbone.weights = weights
    return config


def rasteriser_alone(call: dict[str, Any]) -> tuple[Spent, Spent]:
    """Forward and backward of the rasteriser with the inputs of `call`."""
    inputs = {
        name: value.detach().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value
        for name, value in call.items()
    }
    start = Spent.now()
    image, alphas, _ = rasterization(**inputs)
    forward = Spent.now() - start
    gradients = [torch.full_like(image, 1e-3), torch.full_like(alphas, 1e-3)]
    start = Spent.now()
    torch.autograd.backward([image, alphas], gradients)
    return forward, Spent.now() - start


def watch_parts(watch: Stopwatch, trainer: Fit3DTrainer) -> list[Any]:
    """Patches that time the parts of a step of `trainer`."""
    pipeline, optimizers = trainer.pipeline, trainer.optimizers
    return [
        watch.watch(pipeline.datamanager, "next_train", "data"),
        watch.watch(pipeline.model, "get_outputs", "forward beside the rasteriser"),
        watch.watch(pipeline.model, "compare_with_photo", "comparison with the photo"),
        watch.watch(pipeline.model, "metrics", "metrics"),
        watch.watch(pipeline.model, "losses", "losses"),
        watch.watch(Tensor, "backward", "backward"),
        watch.watch(optimizers, "zero_grad_some", "clearing gradients"),
        watch.watch(optimizers, "optimizer_scaler_step_some", "optimisers"),
        watch.watch(optimizers, "scheduler_step_all", "schedules"),
        watch.watch(pipeline.model.strategy, "step_post_backward", "densification"),
        watch.watch(writer, "write_out_storage", "writing logs"),
    ]


@contextmanager
def own_writers() -> Iterator[None]:
    """Keep the writers that a training sets up to itself.

    nerfstudio's are global, and every later training in the process would go on writing into the folder of this one.
    """
    before = list(writer.EVENT_WRITERS)
    try:
        yield
    finally:
        writer.EVENT_WRITERS[:] = before


def measure(
    data: Path,
    steps: int = 60,
    warmup: int = 5,
    first_step: int = FIRST_STEP,
    weights: str | None = None,
    checkpoint: Path | None = None,
) -> list[Row]:
    """Rows of the rasteriser alone, of the whole step, and of the step's parts.

    Args:
        data: a scene, as ns-train takes it.
        first_step: train up to here first; with `checkpoint`, training goes on from there instead.
        weights: of the backbone; None is its default.
    """
    alone: list[tuple[Spent, Spent]] = []
    whole: list[Spent] = []
    parts: list[dict[str, Spent]] = []
    call: dict[str, Any] = {}
    watch = Stopwatch()
    started = Spent()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as patches:
        config = make_config(data, Path(folder), weights)
        config.load_checkpoint = checkpoint
        patches.enter_context(own_writers())
        trainer: Fit3DTrainer = config.setup()
        trainer.setup()
        first = (first_step if checkpoint is None else trainer._start_step) + warmup

        def between_steps(step: int) -> None:
            nonlocal started
            finished = Spent.now()
            if step > first - warmup and call:
                rendering = rasteriser_alone(call)  # also while warming up
                if step > first:
                    whole.append(finished - started)
                    parts.append(dict(watch.parts))
                    alone.append(rendering)
            if len(whole) == steps:
                raise _EnoughError
            watch.parts.clear()
            started = Spent.now()

        def remember(*inputs: Any, **options: Any) -> Any:
            if trainer.pipeline.model.training:
                call.update(arguments.bind(*inputs, **options).arguments)
            with watch.part("rasteriser forward"):
                return rasterization(*inputs, **options)

        arguments = inspect.signature(rasterization)
        patches.enter_context(patch.object(render, "rasterization", remember))
        for part in watch_parts(watch, trainer):
            patches.enter_context(part)
        trainer.callbacks.insert(0, TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], between_steps))
        with suppress(_EnoughError):
            trainer.train()
    if len(whole) < steps:
        raise ValueError(f"training ended after {len(whole)} measured steps, {steps} were wanted: start earlier.")
    return make_rows(alone, whole, parts)


def make_rows(alone: list[tuple[Spent, Spent]], whole: list[Spent], parts: list[dict[str, Spent]]) -> list[Row]:
    both = [forward + backward for forward, backward in alone]
    reference = median(spent.wall for spent in both)

    def row(name: str, spent: list[Spent]) -> Row:
        wall = [each.wall for each in spent]
        return Row(name, median(wall), min(wall), median(each.cpu for each in spent), median(wall) / reference)

    names = list(dict.fromkeys(name for part in parts for name in part))
    rest = [total - sum(part.values(), Spent()) for total, part in zip(whole, parts, strict=True)]
    return [
        row("rasteriser alone, forward", [forward for forward, _ in alone]),
        row("rasteriser alone, backward", [backward for _, backward in alone]),
        row(ALONE, both),
        row(WHOLE, whole),
        *(row(name, [part.get(name, Spent()) for part in parts]) for name in names),
        row("the rest of the loop", rest),
    ]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a scene, as ns-train takes it")
    parser.add_argument("--checkpoint", type=Path, help="measure from this checkpoint on instead of training first")
    parser.add_argument("--steps", type=int, default=60, help="how many to measure")
    parser.add_argument("--weights", choices=("auto", "timm", "offline"), help="of the backbone")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    rows = measure(arguments.data, arguments.steps, weights=arguments.weights, checkpoint=arguments.checkpoint)
    title = f"fit3d-features-fast, {arguments.data.name}; {processor()}, {thread_count()} threads"
    table = Table("", "ms", "min", "processor ms", "x rasteriser", title=title)
    for row in rows:
        table.add_row(row.name, f"{row.median_ms:.2f}", f"{row.min_ms:.2f}", f"{row.cpu_ms:.2f}", f"{row.share:.2f}")
    Console().print(table)
    if arguments.json:
        report = {"title": title, "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
