"""Stage 1 of one scene from start to end: `fit3d-features` against `fit3d-features-paper`.

Both train the same capture with the same seed, one after the other, each in an ns-train of its own, and ns-eval gives
the quality on held-out views. What is counted as training is the time of the steps, as nerfstudio's loop takes it for
TensorBoard, the start of the features included; imports, the backbone's features, checkpoints and the first step of a
process, which loads the kernels, are not. Fewer steps than the presets' 30,000 shorten every schedule in proportion.

A training that was stopped goes on from its last checkpoint; one that is there already is not done again.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.rows import Aim, Row, Setting, Skip
from benchmarks.tasks import Task, run

OURS, PAPER = "fit3d-features", "fit3d-features-paper"
WHOLE, QUICK = 30_000, 1_500
SEED = 42
FASTER, PSNR_WITHIN_DB = 5, 0.2

MODEL_SCHEDULE = (
    *("warmup_length", "refine_every", "resolution_schedule", "sh_degree_interval"),
    *("stop_split_at", "stop_screen_size_at", "feature_start_step"),
)
"""Fields of the model's configuration that count steps; `reset_alpha_every` counts refinements."""
OPTIMISER_SCHEDULE = ("max_steps", "warmup_steps")

STEP_TIME = "Train Iter (time)"
"""nerfstudio's name in TensorBoard."""


def preset(method: str) -> Any:
    """nerfstudio's configuration of a method."""
    from fit3d_ns.method import config  # imports nerfstudio

    return {OURS: config.fit3d_features, PAPER: config.fit3d_features_paper}[method].config


def schedule(method: str, steps: int) -> tuple[str, ...]:
    """Options that end a preset after so many steps, with every schedule in proportion; none for all its steps."""
    config = preset(method)
    if steps == config.max_num_iterations:
        return ()
    counts = {f"pipeline.model.{name}": getattr(config.pipeline.model, name) for name in MODEL_SCHEDULE}
    for group, parts in config.optimizers.items():
        if parts["scheduler"] is not None:
            counts |= {f"optimizers.{group}.scheduler.{n}": getattr(parts["scheduler"], n) for n in OPTIMISER_SCHEDULE}
    shorter = {name: _scaled(count, steps / config.max_num_iterations) for name, count in counts.items()}
    return tuple(word for name, n in shorter.items() for word in (f"--{name.replace('_', '-')}", str(n)))


def _scaled(count: int, factor: float) -> int:
    return max(1, round(count * factor)) if count else 0


@dataclass(frozen=True)
class Training:
    """One method on one capture."""

    method: str
    capture: Path
    work_dir: Path
    steps: int
    device: str
    options: tuple[str, ...] = ()
    """More of ns-train's."""

    @property
    def name(self) -> str:
        return f"{self.method} {self.capture.name} {self.steps} {self.device}"

    @property
    def folder(self) -> Path:
        """Where ns-train writes."""
        return self.work_dir / f"stage1-{self.steps}-{self.device}" / self.capture.name / self.method / "run"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "nerfstudio_models"

    def tasks(self) -> list[Task]:
        """Training, from the last checkpoint if there is one, and evaluation."""
        done = max(
            (int(path.stem.removeprefix("step-")) + 1 for path in self.checkpoints.glob("step-*.ckpt")), default=0
        )
        last = self.checkpoints / f"step-{self.steps - 1:09d}.ckpt"
        train = (
            *("ns-train", self.method, "--data", str(self.capture), "--output-dir", str(self.folder.parents[2])),
            *("--experiment-name", self.capture.name, "--timestamp", "run", "--vis", "tensorboard"),
            *("--machine.seed", str(SEED), "--machine.device-type", self.device),
            # No evaluation on the way, and in TensorBoard the time of each step instead of a running mean.
            *("--steps-per-eval-image", "0", "--steps-per-eval-all-images", "0", "--logging.max-buffer-size", "1"),
            *("--max-num-iterations", str(self.steps - done)),
            *(("--load-dir", str(self.checkpoints)) if done else ()),
            *schedule(self.method, self.steps),
            *self.options,
        )
        judge = ("ns-eval", "--load-config", str(self.folder / "config.yml"), "--output-path", str(self.metrics))
        return [Task(f"train {self.name}", last, train), Task(f"eval {self.name}", self.metrics, judge, (last,))]

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.json"


@dataclass(frozen=True)
class Result:
    """What a training took, and how good its scene is on held-out views."""

    seconds: float
    psnr: float
    feature_l1: float
    feature_cosine: float
    gaussians: int
    gpu_memory_mb: float
    """Most that torch allocated; 0 on a CPU."""

    @staticmethod
    def of(training: Training) -> Result:
        log = Log(training.folder)
        times = log.scalars(STEP_TIME)
        missing = training.steps - len(times)
        if missing:
            raise RuntimeError(f"{training.folder}: TensorBoard lacks {missing} of {training.steps} steps")
        found = json.loads(training.metrics.read_text())["results"]
        return Result(
            math.fsum(seconds for step, seconds in times.items() if step not in log.first_steps),
            *(found[name] for name in ("psnr", "feature_l1", "feature_cosine")),
            int(list(log.scalars("Train Metrics Dict/gaussian_count").values())[-1]),
            max(log.scalars("GPU Memory (MB)").values()),
        )


@dataclass(frozen=True)
class Log:
    """TensorBoard's events of a run, in one file or, where it was stopped, in several."""

    folder: Path

    def scalars(self, tag: str) -> dict[int, float]:
        """Values by step; of a step that was taken twice, the last."""
        return {event.step: event.value for events in self._files for event in events.Scalars(tag)}

    @property
    def first_steps(self) -> set[int]:
        """The step that each process began with."""
        return {min(event.step for event in events.Scalars(STEP_TIME)) for events in self._files}

    @cached_property
    def _files(self) -> list[Any]:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        # One reader a file, oldest first: a reader of the folder forgets what a later file seems to take back.
        files = sorted(self.folder.glob("events.out.tfevents.*"), key=lambda path: path.name)
        return [EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload() for path in files]


def trained(training: Training) -> Result:
    """Train and evaluate what is not there yet."""
    for task in training.tasks():
        run(task, training.work_dir / "logs")
    return Result.of(training)


def rows_of(name: str, steps: int, ours: Result, paper: Result) -> list[Row]:
    """Time and quality; the aims are those of whole trainings and say nothing of shorter ones."""

    def row(what: str, unit: str, figures: tuple[float, float], aim: Aim | None = None, note: str = "") -> Row:
        return Row(f"{name}: {what}", unit, *figures, PAPER, aim=aim if steps == WHOLE else None, note=note)

    counted = f"{ours.gaussians:,} and {paper.gaussians:,} Gaussians, each trained once"
    if steps != WHOLE:
        counted += f"; {steps:,} of {WHOLE:,} steps, schedules in proportion (fewer views between refinements): no aims"
    as_good = Aim("ours", "at least", paper.psnr - PSNR_WITHIN_DB)
    rows = [
        row(f"{steps:,} steps", "s", (ours.seconds, paper.seconds), Aim("ratio", "at most", 1 / FASTER), counted),
        row("PSNR, held-out", "dB", (ours.psnr, paper.psnr), as_good),
        row("feature L1, held-out", "", (ours.feature_l1, paper.feature_l1), Aim("ratio", "at most", 1.0)),
        row("feature cosine, held-out", "", (ours.feature_cosine, paper.feature_cosine), Aim("ratio", "at least", 1.0)),
    ]
    if ours.gpu_memory_mb:
        rows.append(row("peak GPU memory, the backbone's included", "MB", (ours.gpu_memory_mb, paper.gpu_memory_mb)))
    return rows


def measure(setting: Setting, options: tuple[str, ...] = ()) -> list[Row]:
    """Rows of the first capture.

    Args:
        setting: of the run.
        options: more of ns-train's, for both methods.
    """
    if setting.device != "cuda" and "stage1" not in setting.asked:
        raise Skip("30,000 steps are for a GPU; --only stage1 --stage1-steps 300 trains less on a CPU")
    steps = setting.stage1_steps or (QUICK if setting.quick else WHOLE)
    capture, work = setting.capture.resolve(), setting.work_dir.resolve()
    ours, paper = (trained(Training(method, capture, work, steps, setting.device, options)) for method in (OURS, PAPER))
    return rows_of(capture.name, steps, ours, paper)
