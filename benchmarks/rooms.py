"""The evidence: does fine-tuning on 3D-consistent features help in rooms that it never saw?

    python -m benchmarks.rooms --rooms ../shared/data/rooms --camvid ../shared/data/camvid [--work-dir bench-rooms]

A five-fold cross-validation: two rooms a fold, so that each of ten rooms is a test room exactly once. For each fold,
fine-tuning and its control on the other eight rooms, and probes trained on the labels of those eight. The control has
its own features as targets, mirrored, and the same targets of depth and normals. The recipe and the share of fine-tuned
weights are chosen inside the fold: trainings of their own on six of the eight rooms, judged on the two that are left
(`benchmarks.recipe_choice`). Two folds are fine-tuned with a second seed. One fold's backbones are probed on CamVid, as
data of another domain, if it is given. Stage 1 is done once with each of three seeds; exports are of the first. --once
leaves out what repeats: the second seeds of fine-tuning, and the figures of stage 1, which are of three seeds. --preset
leaves out the choice: the recommended preset as it is in every fold.

Every part is kept in the work folder and not done again by a second start (`benchmarks.tasks`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.links import link_all
from benchmarks.named_recipes import RECIPES, file_name
from benchmarks.recipe_choice import CANDIDATES, chosen_options
from benchmarks.rooms_table import Evidence, FoldFiles, write_table
from benchmarks.tasks import Task, run_all

METHOD = "fit3d-features-fast"
STAGE1_SEEDS = (42, 43, 44)
"""nerfstudio's own seed first; exports are made from it."""
PROBE_SEEDS = ("0", "1", "2")
ALL_TASKS = ("segmentation", "depth", "normals", "nearest-neighbours", "consistency")


@dataclass(frozen=True)
class Fold:
    """Which rooms are tested, and which of the others choose the recipe."""

    name: str
    test: tuple[Path, ...]
    validation: tuple[Path, ...]
    train: tuple[Path, ...]
    """All but the test rooms; the validation rooms are among them."""
    second_seed: bool = False

    @property
    def inner(self) -> tuple[Path, ...]:
        """The training rooms of the choice inside the fold."""
        return tuple(room for room in self.train if room not in self.validation)


def make_folds(rooms: Sequence[Path], size: int = 2) -> list[Fold]:
    """Neighbouring rooms by name make a fold; the next fold's rooms choose its recipe; the ends have a second seed."""
    groups = [tuple(rooms[i : i + size]) for i in range(0, len(rooms), size)]
    return [
        Fold(
            name="ABCDEFGHIJ"[index],
            test=group,
            validation=groups[(index + 1) % len(groups)],
            train=tuple(room for room in rooms if room not in group),
            second_seed=index in (0, len(groups) - 1),
        )
        for index, group in enumerate(groups)
    ]


def stage1_task(name: str, capture: Path, outputs: Path, run: str, *options: str) -> Task:
    """Train the Gaussians of a capture, which gives its name to the experiment."""
    command = (
        *("ns-train", METHOD, "--data", str(capture), "--output-dir", str(outputs), "--timestamp", run, *options),
        *("--vis", "tensorboard", "--pipeline.datamanager.backbone.weights", "offline"),
    )
    # The last checkpoint's name, so that a run which was cut short is not taken for a whole one.
    made = outputs / capture.name / METHOD / run / "nerfstudio_models" / "step-000002999.ckpt"
    return Task(f"train {name}", made, command)


def export_task(name: str, training: Task, runs: Path) -> Task:
    """Export what a training of stage 1 makes."""
    config = training.makes.parent.parent / "config.yml"
    command = ("fit3d-export", "--load-config", str(config), "--output-dir", str(runs), "--name", name)
    return Task(f"export {name}", runs / name / "scene.json", command, (training.makes,))


@dataclass(frozen=True)
class Programme:
    """All tasks of the benchmark, and where they leave what the table is made from."""

    rooms: tuple[Path, ...]
    camvid: Path | None
    work: Path
    once: bool = False
    """Without second seeds of fine-tuning, and without figures of stage 1."""
    preset: bool = False
    """The recommended preset as it is; nothing is chosen inside the folds."""

    @property
    def measured_seeds(self) -> tuple[int, ...]:
        """Those that the figures of stage 1 are of."""
        return () if self.once else STAGE1_SEEDS

    @property
    def folds(self) -> list[Fold]:
        folds = make_folds(self.rooms)
        return [replace(fold, second_seed=False) for fold in folds] if self.once else folds

    @property
    def candidates(self) -> tuple[str, ...]:
        """The recipes that a fold chooses from."""
        return () if self.preset else CANDIDATES

    @property
    def made(self) -> Path:
        """The folder of fine-tunings and probes: the preset's are others than those that were chosen."""
        return self.work / "preset" if self.preset else self.work

    # ---- stage 1

    def training(self, room: Path, seed: int) -> Task:
        name, run = f"{room.name} seed {seed}", f"seed-{seed}"
        return stage1_task(name, room, self.work / "outputs", run, "--machine.seed", str(seed))

    def evaluation(self, room: Path, seed: int) -> Task:
        trained, metrics = self.training(room, seed).makes, self.metrics(room, seed)
        config = trained.parent.parent / "config.yml"
        command = ("ns-eval", "--load-config", str(config), "--output-path", str(metrics))
        return Task(f"evaluate {room.name} seed {seed}", metrics, command, (trained,))

    def metrics(self, room: Path, seed: int) -> Path:
        return self.work / "metrics" / f"{room.name}-{seed}.json"

    def export(self, room: Path) -> Task:
        return export_task(room.name, self.training(room, STAGE1_SEEDS[0]), self.work / "runs")

    # ---- fine-tuning

    def exports_of(self, rooms: Sequence[Path]) -> Path:
        """The folder of links to the exports of some rooms (`link_exports`).

        Fine-tuning is pointed at them and not told to hold out the others (--val-scenes), whose views it would encode
        after every epoch for figures that nothing here is chosen by.
        """
        return self.work / "runs-of" / "-".join(room.name.removeprefix("room_") for room in rooms)

    def link_exports(self) -> None:
        """Make these folders, of exports which may still be to be made."""
        for fold in self.folds:
            for rooms in (fold.inner, fold.train):
                link_all(self.exports_of(rooms), [self.work / "runs" / room.name for room in rooms])

    def finetuning(
        self, name: str, exports: Path, needs: Sequence[Path], *options: str,
        late: Callable[[], tuple[str, ...]] = tuple,
    ) -> Task:  # fmt: skip
        """On all exports of a folder, with the recommended recipe and options of its own."""
        folder = self.made / "finetuned" / name
        return Task(
            f"fine-tune {name}",
            folder / "fit3d.json",
            (
                *("fit3d-finetune", "--exports", str(exports), "--output-dir", str(folder)),
                *("--preset", "recommended", "--val-fraction", "0", *options),
            ),
            tuple(needs),
            late,
        )

    def candidate(self, fold: Fold, recipe: str) -> Task:
        """A training inside a fold, with all of the weights: any share of them comes from it."""
        name, made = f"{fold.name}-inner-{file_name(recipe)}", [self.export(room).makes for room in fold.inner]
        return self.finetuning(name, self.exports_of(fold.inner), made, *RECIPES[recipe], "--weight-mix", "1.0")

    def trial(self, fold: Fold, recipe: str, training: Task | None = None) -> Task:
        """Probes of shares of a recipe's weights inside a fold; of another training than its candidate, if given."""
        full = (self.candidate(fold, recipe) if training is None else training).makes
        made = self.work / "trials" / fold.name / f"{file_name(recipe)}.json"
        return Task(
            f"try {fold.name} {recipe}",
            made,
            (
                *("python", "-m", "benchmarks.recipe_choice", "--recipe", recipe, "--full", str(full.parent)),
                *("--export", str(self.work / "runs" / fold.inner[0].name), "--train-data", *map(str, fold.inner)),
                *("--validation-data", *map(str, fold.validation), "--output", str(made)),
                *("--work-dir", str(self.work / "trials" / fold.name / "shares")),
            ),
            (full,),
        )

    def trials(self, fold: Fold) -> list[Path]:
        """What a fold chooses among; none where nothing is chosen."""
        return [self.trial(fold, recipe).makes for recipe in self.candidates]

    def trainings(self, fold: Fold) -> dict[str, Task]:
        """By kind: the fine-tuning, its control, and the second seed where there is one."""
        kinds = {"gaussians": ("gaussians", "0"), "mirror": ("mirror", "0")}
        if fold.second_seed:
            kinds["gaussians-1"] = ("gaussians", "1")
        trials, exports = self.trials(fold), [self.export(room).makes for room in fold.train]
        return {
            kind: self.finetuning(
                f"{fold.name}-{kind}", self.exports_of(fold.train), [*exports, *trials],
                "--targets", targets, "--seed", seed,
                late=partial(chosen_options, trials) if trials else tuple,
            )
            for kind, (targets, seed) in kinds.items()
        }  # fmt: skip

    # ---- probing

    def probing(self, fold: Fold, kind: str = "gaussians") -> Task:
        """All probes of a fold; without the control for a second seed, which shares the first one's."""
        tuned, control = (self.trainings(fold)[which].makes for which in (kind, "mirror"))
        return self._probing(
            f"{fold.name}-{kind}", tuned, control, map(str, fold.train), map(str, fold.test), ALL_TASKS
        )

    def streets(self) -> Task | None:
        """CamVid, if it is given, with the last fold's backbones."""
        if self.camvid is None:
            return None
        fold = self.folds[-1]
        tuned, control = (self.trainings(fold)[kind].makes for kind in ("gaussians", "mirror"))
        train, test = (f"camvid:{self.camvid / part}" for part in ("train", "val"))
        return self._probing("CamVid", tuned, control, [train], [test], ("segmentation",))

    def _probing(
        self, name: str, tuned: Path, control: Path, train: Sequence[str] | map[str], test: Sequence[str] | map[str],
        tasks: Sequence[str],
    ) -> Task:  # fmt: skip
        folder = self.made / "probes" / name
        return Task(
            f"probe {name}",
            folder / "results.json",
            (
                *("fit3d-probe", "--finetuned", str(tuned.parent), "--control", str(control.parent)),
                *("--train-data", *train, "--test-data", *test, "--tasks", *tasks, "--seeds", *PROBE_SEEDS),
                *("--precision", "auto"),
                *("--output-dir", str(folder)),
            ),
            (tuned, control),
        )

    # ---- the whole

    def tasks(self) -> list[Task]:
        """Everything, in an order that shows the folds' results early."""
        tasks = [self.training(room, STAGE1_SEEDS[0]) for room in self.rooms]
        tasks += [self.export(room) for room in self.rooms]
        for fold in self.folds:
            for recipe in self.candidates:
                tasks += [self.candidate(fold, recipe), self.trial(fold, recipe)]
            tasks += self.trainings(fold).values()
        tasks += [task for fold in self.folds for task in self._probings(fold)]
        if (streets := self.streets()) is not None:
            tasks.append(streets)
        tasks += [self.training(room, seed) for seed in self.measured_seeds[1:] for room in self.rooms]
        return tasks + [self.evaluation(room, seed) for seed in self.measured_seeds for room in self.rooms]

    def _probings(self, fold: Fold) -> list[Task]:
        kinds = [kind for kind in self.trainings(fold) if kind != "mirror"]
        return [self.probing(fold, kind) for kind in kinds]

    def evidence(self) -> Evidence:
        """Where the tasks leave what the table shows."""
        folds = []
        for fold in self.folds:
            first, *second = (task.makes for task in self._probings(fold))
            folds.append(FoldFiles(fold.name, first, self.trials(fold), second[0] if second else None))
        stage1 = {room.name: [self.metrics(room, seed) for seed in self.measured_seeds] for room in self.rooms}
        streets = self.streets()
        return Evidence(folds, None if streets is None else streets.makes, {} if self.once else stage1)


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=Path, required=True, help="folder of room_00 ... room_09")
    parser.add_argument("--camvid", type=Path)
    parser.add_argument("--work-dir", type=Path, default=Path("bench-rooms"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "rooms.md")
    parser.add_argument("--once", action="store_true", help="without repetitions by other seeds")
    parser.add_argument("--preset", action="store_true", help="the recommended preset, without a choice in each fold")
    arguments = parser.parse_args()
    rooms = tuple(sorted(arguments.rooms.resolve().glob("room_*")))
    work = arguments.work_dir.resolve()
    (work / "metrics").mkdir(parents=True, exist_ok=True)
    camvid = arguments.camvid and arguments.camvid.resolve()
    programme = Programme(rooms, camvid, work, arguments.once, arguments.preset)
    programme.link_exports()
    run_all(programme.tasks(), work / "logs")
    write_table(arguments.output, programme.evidence())
    print(f"Results: {arguments.output}")


if __name__ == "__main__":
    main()
