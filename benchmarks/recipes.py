"""Which recipe? Trainings that differ in one thing or two, inside the folds of the rooms.

    python -m benchmarks.recipes --rooms ../shared/data/rooms --work-dir bench-rooms

In every fold of `benchmarks.rooms` each recipe is trained on the six rooms that are neither tested nor validate, and
probed on the two validation rooms: no test room of the fold takes part. The work folder is that of `benchmarks.rooms`,
whose exports and trainings are used; every part is kept in it. Each recipe costs five trainings of four minutes of one
core, each share of its weights five encodings of 160 images and its part of the probes: count on two hours of two
cores for eight; with --folds A C on 40 per cent of it. `benchmarks.rounds` are rows too; shares of a round's weights
are mixed with those of the round before.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from benchmarks.markdown import header, row
from benchmarks.recipe_choice import ORIGINAL, RECIPES, results_beside
from benchmarks.report import commit
from benchmarks.rooms import Fold, Programme
from benchmarks.rounds import ROUNDS, Rounds
from benchmarks.tasks import Task, run_all
from fit3d_finetune.probing.results import ProbeResults
from fit3d_finetune.report.metrics import metrics_of
from fit3d_ns.common.atomic import atomic_file

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
    folds: tuple[Fold, ...]

    def comparison(self, fold: Fold) -> Task:
        trainings = {recipe: self.programme.candidate(fold, recipe) for recipe in RECIPES}
        rounds = Rounds(self.programme, fold)
        trainings |= {name: rounds.training(count) for name, count in ROUNDS.items()}
        return self.programme.comparison(f"study {fold.name}", fold, trainings, self.work / f"{fold.name}.json")

    @property
    def work(self) -> Path:
        return self.programme.work / "study"

    def tasks(self) -> list[Task]:
        trainings = [self.programme.candidate(fold, recipe) for fold in self.folds for recipe in RECIPES]
        rounds = [task for fold in self.folds for task in Rounds(self.programme, fold).tasks()]
        return [*trainings, *rounds, *(self.comparison(fold) for fold in self.folds)]

    def results(self) -> list[ProbeResults]:
        """Of every fold."""
        return [ProbeResults.load(results_beside(self.comparison(fold).makes)) for fold in self.folds]


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
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=Path, required=True, help="folder of room_00 ... room_09")
    parser.add_argument("--work-dir", type=Path, default=Path("bench-rooms"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "recipe_study.md")
    parser.add_argument("--folds", nargs="+", help="letters of the folds; default: all")
    arguments = parser.parse_args()
    work = arguments.work_dir.resolve()
    programme = Programme(tuple(sorted(arguments.rooms.resolve().glob("room_*"))), None, work)
    study = Study(programme, tuple(fold for fold in programme.folds if fold.name in (arguments.folds or fold.name)))
    run_all(study.tasks(), work / "logs")
    write_page(arguments.output, study.results())
    print(f"Results: {arguments.output}")


if __name__ == "__main__":
    main()
