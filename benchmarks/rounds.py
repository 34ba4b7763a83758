"""Rounds: fine-tune, lift what the fine-tuned backbone sees into the same Gaussians, and go on from there.

Each round after the first is two commands (docs/targets.md): fit3d-lift of every export with the last round's backbone,
and fit3d-finetune on what it wrote, which starts from that backbone and mixes with it. Rounds go on from the share of
weights that the recommended preset keeps; the last one has all of them, like every recipe that shares are made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.named_recipes import MAIN, RECIPES
from benchmarks.rooms import Fold, Programme
from benchmarks.tasks import Task
from fit3d_finetune.training.recipe import PRESETS

ROUNDS: Mapping[str, int] = {"two rounds": 2, "three rounds": 3}
"""By name in the study: trainings in a row, each by the main recipe. One is that recipe itself."""


@dataclass(frozen=True)
class Rounds:
    """The tasks of rounds on the inner rooms of a fold."""

    programme: Programme
    fold: Fold

    @property
    def work(self) -> Path:
        return self.programme.work / "rounds" / self.fold.name

    def training(self, count: int) -> Task:
        """The fine-tuning of that round (from 1), with all of the weights."""
        if count == 1:
            return self.programme.candidate(self.fold, MAIN)
        return self.programme.finetuning(
            f"{self.fold.name}-inner-round-{count}", self.exports(count), [lift.makes for lift in self.lifts(count)],
            "--weights", str(self.backbone(count - 1).makes.parent), *RECIPES[MAIN], "--weight-mix", "1.0",
        )  # fmt: skip

    def backbone(self, count: int) -> Task:
        """The share of a round's weights that the next one goes on from."""
        training, folder = self.training(count), self.work / f"backbone-{count}"
        share = str(PRESETS["recommended"].weight_mix)
        command = (
            *("python", "-m", "benchmarks.mixing", "--full", str(training.makes.parent), "--share", share),
            *("--export", str(self.exports(count) / self.fold.inner[0].name), "--output-dir", str(folder)),
        )
        return Task(f"mix {self.fold.name} round {count}", folder / "fit3d.json", command, (training.makes,))

    def exports(self, count: int) -> Path:
        """The folder of the exports that a round is trained on."""
        return self.programme.work / "runs" if count == 1 else self.work / f"runs-{count}"

    def lifts(self, count: int) -> list[Task]:
        """Features of the last round's backbone for the Gaussians of every inner room."""
        last, tasks = self.backbone(count - 1), []
        for room in self.fold.inner:
            export = self.programme.export(room).makes
            command = (
                *("fit3d-lift", "--export", str(export.parent), "--output-dir", str(self.exports(count))),
                *("--backbone.weights", str(last.makes.parent)),
            )
            made = self.exports(count) / room.name / "scene.json"
            name = f"lift {self.fold.name} round {count} {room.name}"
            tasks.append(Task(name, made, command, (export, last.makes)))
        return tasks

    def tasks(self, count: int) -> list[Task]:
        """All that so many rounds take beyond the first training."""
        tasks: list[Task] = []
        for each in range(2, count + 1):
            tasks += [self.backbone(each - 1), *self.lifts(each), self.training(each)]
        return tasks
