"""Which recipe? Trainings that differ in one thing or two, inside the folds of the rooms.

    python -m benchmarks.recipes --rooms ../shared/data/rooms --work-dir bench-rooms

In every fold of `benchmarks.rooms` each recipe is trained on the six rooms that are neither tested nor validate, and
probed on the two validation rooms: no test room of any fold takes part. The work folder is that of `benchmarks.rooms`,
whose exports are used; every part is kept in it. Each recipe costs five trainings of four minutes of one core, each
share of its weights five encodings of 160 images and its part of the probes: count on two hours of two cores for
eight.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from benchmarks.markdown import header, row
from benchmarks.mixing import mixed
from benchmarks.recipe_choice import ORIGINAL, probe_on_validation
from benchmarks.report import commit
from benchmarks.rooms import Fold, Programme
from benchmarks.tasks import Task, run_all
from fit3d_finetune.backbone.hub import read_finetuned
from fit3d_finetune.probing.data.checks import TaskName
from fit3d_finetune.probing.results import ProbeResults
from fit3d_finetune.probing.run import default_arms
from fit3d_finetune.report.metrics import metrics_of
from fit3d_ns.common.atomic import atomic_file
from fit3d_ns.scene.gaussians import FeatureGaussians

RECIPES: dict[str, tuple[str, ...]] = {
    "features": (),
    "features, depth 0.3": ("--depth-weight", "0.3"),
    "features, depth 1": ("--depth-weight", "1.0"),
    "features, normals 1": ("--normal-weight", "1.0"),
    "features, depth 1, normals 0.5": ("--depth-weight", "1.0", "--normal-weight", "0.5"),
    "features, depth 1, crops": ("--depth-weight", "1.0", "--crop-scale", "0.7"),
    "mirror": ("--targets", "mirror"),
    "mirror, depth 1": ("--targets", "mirror", "--depth-weight", "1.0"),
}
"""By name: options beside the recommended recipe."""
SHARES = (0.5, 1.0)
TASKS: tuple[TaskName, ...] = ("segmentation", "depth", "normals", "consistency")
COLUMNS = {
    ("segmentation", "mIoU"): "points",
    ("depth", "RMSE"): "relative",
    ("normals", "RMSE angle"): "degrees",
    ("consistency", None): "factor",
}
"""The figures of the page and how their changes are written; None: whatever the figure is called."""


@dataclass(frozen=True)
class Study:
    """All tasks of the study."""

    programme: Programme

    def training(self, fold: Fold, recipe: str) -> Task:
        held_out = [*fold.test, *fold.validation]
        name = f"{fold.name}-study-{recipe.replace(', ', '-').replace(' ', '_')}"
        return self.programme.finetuning(name, held_out, (), *RECIPES[recipe], "--weight-mix", "1.0")

    def probing(self, fold: Fold) -> Task:
        trainings = {recipe: self.training(fold, recipe).makes for recipe in RECIPES}
        made = self.programme.work / "study" / f"{fold.name}.json"
        return Task(
            f"study {fold.name}",
            made,
            (
                *("python", "-m", "benchmarks.recipes", "--probe", str(made)),
                *("--full", *(f"{recipe}={path.parent}" for recipe, path in trainings.items())),
                *("--export", str(self.programme.work / "runs" / fold.inner[0].name)),
                *("--train-data", *map(str, fold.inner), "--validation-data", *map(str, fold.validation)),
            ),
            tuple(trainings.values()),
        )

    def tasks(self) -> list[Task]:
        folds = self.programme.folds
        trainings = [self.training(fold, recipe) for fold in folds for recipe in RECIPES]
        return [*trainings, *(self.probing(fold) for fold in folds)]


def probe_candidates(
    full: Mapping[str, Path], export: Path, train: Sequence[str], validation: Sequence[str], work: Path
) -> ProbeResults:
    """Every share of every training, alone and with the original, on every second image."""
    backbone = FeatureGaussians.load(export).scene.backbone
    backbones = {ORIGINAL: read_finetuned(next(iter(full.values()))).original}
    for recipe, folder in full.items():
        for share in SHARES:
            place = mixed(folder, share, work / f"{folder.name}-{share:g}", backbone)
            backbones[f"{recipe}: {100 * share:g} %"] = read_finetuned(place).finetuned
    return probe_on_validation(backbones, default_arms(list(backbones)), train, validation, TASKS)


def write_page(path: Path, runs: Sequence[ProbeResults]) -> None:
    """Every recipe's change against the original, mean ± standard deviation over the folds."""
    lines = [
        "# Recipes",
        "",
        f"Made by `python -m benchmarks.recipes`, commit {commit()}. Change against the original on the validation",
        f"rooms of {len(runs)} folds, mean ± standard deviation over the folds; every second image,",
        f"{len(runs[0].seeds)} probe seeds.",
        "Share: of the fine-tuned weights, the rest the original's. No test room of any fold took part.",
        "",
        *change_rows(runs),
    ]
    with atomic_file(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def change_rows(runs: Sequence[ProbeResults]) -> list[str]:
    """One row per arm."""
    rows = header("arm", "mIoU (points)", "depth RMSE (%)", "normals RMSE (°)", "recall (factor)")
    for arm in runs[0].arms[1:]:
        cells = []
        for (part, name), kind in COLUMNS.items():
            changes = [change for run in runs if (change := _change(run, arm.name, part, name, kind)) is not None]
            spread = f" ± {stdev(changes):.1f}" if len(changes) > 1 else ""
            cells.append(f"{mean(changes):+.1f}{spread}".replace("-", "−") if changes else "–")
        rows.append(row(arm.name, *cells))
    return rows


def _change(run: ProbeResults, arm: str, part: str, name: str | None, kind: str) -> float | None:
    metric = next((one for one in metrics_of(run) if one.part == part and name in (None, one.name)), None)
    if metric is None:
        return None
    before, after = (mean(metric.measured(run, which)) for which in (ORIGINAL, arm))
    if kind == "relative":
        return 100 * (after / before - 1)
    if kind == "factor":
        return after / before if before > 0 else None
    return metric.scale * (after - before)


def main() -> None:
    """Run what is missing and write the page; with --probe one fold's probes alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=Path, help="folder of room_00 ... room_09")
    parser.add_argument("--work-dir", type=Path, default=Path("bench-rooms"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "recipes.md")
    parser.add_argument("--probe", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--full", nargs="+", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--export", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--train-data", nargs="+", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--validation-data", nargs="+", default=[], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.probe is not None:
        full = {name: Path(folder) for name, _, folder in (words.partition("=") for words in arguments.full)}
        work = arguments.probe.with_suffix("")
        found = probe_candidates(full, arguments.export, arguments.train_data, arguments.validation_data, work)
        found.save(arguments.probe)
        return
    if arguments.rooms is None:
        parser.error("--rooms is needed")
    work = arguments.work_dir.resolve()
    (work / "study").mkdir(parents=True, exist_ok=True)
    study = Study(Programme(tuple(sorted(arguments.rooms.resolve().glob("room_*"))), Path(), work))
    run_all(study.tasks(), work / "logs")
    write_page(arguments.output, [ProbeResults.load(study.probing(fold).makes) for fold in study.programme.folds])
    print(f"Results: {arguments.output}")


if __name__ == "__main__":
    main()
