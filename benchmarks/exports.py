"""The exports that benchmarks work on: those given, or made here by `fit3d-features-fast`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.rooms import METHOD
from benchmarks.tasks import Task, run

STEPS, QUICK_STEPS = 3000, 300


def tasks(capture: Path, work_dir: Path, steps: int) -> list[Task]:
    """Training and export of one capture; what is there already is not done again."""
    outputs, runs = work_dir / f"outputs-{steps}", work_dir / f"runs-{steps}"
    run_folder = outputs / capture.name / METHOD / "run"
    # The last checkpoint's name, so that a run which was cut short is not taken for a whole one.
    checkpoint = run_folder / "nerfstudio_models" / f"step-{steps - 1:09d}.ckpt"
    train = (
        *("ns-train", METHOD, "--data", str(capture), "--output-dir", str(outputs), "--timestamp", "run"),
        *("--experiment-name", capture.name, "--vis", "tensorboard", "--max-num-iterations", str(steps)),
    )
    config = ("--load-config", str(run_folder / "config.yml"))
    export = ("fit3d-export", *config, "--output-dir", str(runs), "--previews", "0")
    return [
        Task(f"train {capture.name} {steps}", checkpoint, train),
        Task(f"export {capture.name} {steps}", runs / capture.name / "scene.json", export, (checkpoint,)),
    ]


def make_exports(captures: Sequence[Path], work_dir: Path, quick: bool) -> tuple[Path, ...]:
    """One export per capture."""
    exports = []
    for capture in captures:
        steps = tasks(capture.resolve(), work_dir.resolve(), QUICK_STEPS if quick else STEPS)
        for task in steps:
            run(task, work_dir / "logs")
        exports.append(steps[-1].makes.parent)
    return tuple(exports)
