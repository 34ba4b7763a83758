"""Which recipe? Trainings that differ in one thing or two, inside the folds of the rooms.

    python -m benchmarks.recipes --rooms ../shared/data/rooms --work-dir bench-rooms [--folds A C] [--recipes gram …]

In every fold of `benchmarks.rooms` each recipe is trained on the six rooms that are neither tested nor validate, and
probed on the two validation rooms: no test room of the fold takes part. The work folder is that of `benchmarks.rooms`,
whose exports, trainings and trials are used; every part is kept in it. A recipe costs five to seven minutes of one
core in each fold for its training ("four epochs": twice that) and four to five for its probes: count on an hour and a
half of two cores a fold for all of them. `benchmarks.rounds` are rows too; shares of a round's weights are mixed with
those of the round before. A later round's trial has the backbone of the round before as its original: its rows are
compared with the main recipe's original all the same, and say what stands beside them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from benchmarks.markdown import header, row
from benchmarks.named_recipes import MAIN, RECIPES
from benchmarks.recipe_choice import ORIGINAL, results_beside
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
BEFORE = "round before"
"""The backbone that a later round went on from."""


@dataclass(frozen=True)
class Study:
    """All tasks of the study."""

    programme: Programme
    folds: tuple[Fold, ...]
    recipes: tuple[str, ...] = (*RECIPES, *ROUNDS)

    def trial(self, fold: Fold, recipe: str) -> Task:
        if recipe in ROUNDS:
            return self.programme.trial(fold, recipe, Rounds(self.programme, fold).training(ROUNDS[recipe]))
        return self.programme.trial(fold, recipe)

    @property
    def rows(self) -> list[str]:
        """What the page shows: the main recipe, which others are compared with, beside those that were asked for."""
        return list(dict.fromkeys((MAIN, *self.recipes)))

    def tasks(self) -> list[Task]:
        rounds = max((ROUNDS[row] for row in self.rows if row in ROUNDS), default=1)
        tasks = []
        for fold in self.folds:
            tasks += [self.programme.candidate(fold, row) for row in self.rows if row in RECIPES]
            tasks += Rounds(self.programme, fold).tasks(rounds)
            tasks += [self.trial(fold, row) for row in self.rows]
        return tasks

    def results(self) -> list[list[ProbeResults]]:
        """Of every row, in every fold."""
        return [
            [ProbeResults.load(results_beside(self.trial(fold, row).makes)) for fold in self.folds] for row in self.rows
        ]


def write_page(path: Path, recipes: Sequence[Sequence[ProbeResults]], folds: Sequence[str]) -> None:
    """Every recipe's change against the original, mean ± standard deviation over the folds."""
    one = recipes[0][0]
    lines = [
        "# Recipes",
        "",
        f"Made by `python -m benchmarks.recipes`, commit {commit()}. Change against the original on the validation",
        f"rooms of the folds {', '.join(folds)}, mean ± standard deviation over the folds where there are several;",
        f"every second image, {len(one.seeds)} probe seeds. One training of each in every fold.",
        "Share: of the fine-tuned weights, the rest the original's. No test room of any fold took part.",
        "",
        *change_rows(recipes),
    ]
    with atomic_file(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def change_rows(recipes: Sequence[Sequence[ProbeResults]]) -> list[str]:
    """One row per arm, against the first recipe's original; those of that original alone once."""
    rows = header("arm", "mIoU (points)", "depth RMSE (%)", "normals RMSE (°)", "recall (factor)")
    bases = recipes[0]
    arms = {_shown(arm.name, runs[0], bases[0]): (arm.name, runs) for runs in recipes for arm in runs[0].arms[1:]}
    for shown, (arm, runs) in arms.items():
        cells = []
        for (part, name), kind in COLUMNS.items():
            pairs = zip(bases, runs, strict=True)
            changes = [found for pair in pairs if (found := _change(*pair, arm, part, name, kind)) is not None]
            spread = f" ± {stdev(changes):.1f}" if len(changes) > 1 else ""
            cells.append(f"{mean(changes):+.1f}{spread}".replace("-", "−") if changes else "–")
        rows.append(row(shown, *cells))
    return rows


def _shown(arm: str, run: ProbeResults, base: ProbeResults) -> str:
    """An arm's name; what a later round calls the original is another backbone than that of the base."""
    same = run.backbones[ORIGINAL]["weights_sha256"] == base.backbones[ORIGINAL]["weights_sha256"]
    return arm if same else " + ".join(BEFORE if part == ORIGINAL else part for part in arm.split(" + "))


def _change(base: ProbeResults, run: ProbeResults, arm: str, part: str, name: str | None, kind: str) -> float | None:
    metric = next((one for one in metrics_of(run) if one.part == part and name in (None, one.name)), None)
    if metric is None:
        return None
    before, after = mean(metric.measured(base, ORIGINAL)), mean(metric.measured(run, arm))
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
    parser.add_argument("--recipes", nargs="+", choices=[*RECIPES, *ROUNDS], default=[*RECIPES, *ROUNDS])
    arguments = parser.parse_args()
    work = arguments.work_dir.resolve()
    programme = Programme(tuple(sorted(arguments.rooms.resolve().glob("room_*"))), None, work)
    folds = tuple(fold for fold in programme.folds if fold.name in (arguments.folds or fold.name))
    study = Study(programme, folds, tuple(arguments.recipes))
    programme.link_exports()
    run_all(study.tasks(), work / "logs")
    write_page(arguments.output, study.results(), [fold.name for fold in folds])
    print(f"Results: {arguments.output}")


if __name__ == "__main__":
    main()
