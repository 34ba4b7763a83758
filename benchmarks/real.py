"""Do photos of real places say the same as the synthetic rooms?

    python -m benchmarks.real --kitchen ../shared/data/redkitchen --fox ../shared/data/fox --msrc ../shared/data/msrc
        --camvid ../shared/data/camvid --rooms bench-rooms/runs [--work-dir bench-real]

Stage 1 on the first half of a Kinect sequence (7-Scenes, redkitchen) and on fox; fine-tuning on them with the exports
of the rooms, with half of the preset's share of the fine-tuned weights, and on the real scenes alone; probes of depth,
normals and matching on the sequence's second half, trained on its first one, and of segmentation on MSRC and CamVid,
which no fine-tuning saw. The sequence is split in time, with a gap, as neighbouring frames are alike. Every part is
kept in the work folder (`benchmarks.tasks`). --tunings and --probe do a part of it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.links import link_all
from benchmarks.real_table import write_table
from benchmarks.rooms import export_task, stage1_task
from benchmarks.tasks import Task, run_all

HALVES = {"kitchen": (0, 500), "kitchen-test": (600, 1_000)}
"""Frames of the sequence, by their numbers; those in between belong to neither."""
PROBE_SEEDS = ("0", "1", "2")
TUNINGS = {
    "recommended": ("rooms-and-real", ()),
    "control": ("rooms-and-real", ("--targets", "mirror")),
    "real-alone": ("real", ()),
    "recommended-35": ("rooms-and-real", ("--weight-mix", "0.35")),
}
"""By name: which exports, and the options beside the recommended recipe."""
DATA = ("kitchen", "MSRC", "CamVid")
FURTHER = {"real scenes alone": "real-alone", "35 % of the weights": "recommended-35"}
"""Arms beside fine-tuned and the 2D control."""


def write_half(sequence: Path, folder: Path, frames: tuple[int, int]) -> Path:
    """A capture of the frames first <= number < last of a sequence, its files where they are; returns the folder."""
    transforms = json.loads((sequence / "transforms.json").read_text())
    kept = [frame for frame in transforms["frames"] if frames[0] <= int(Path(frame["file_path"]).stem) < frames[1]]
    if not kept:
        raise SystemExit(f"{sequence} has no frame of {frames[0]} to {frames[1]}.")
    link_all(folder, [sequence / name for name in ("images", "depth")])
    (folder / "transforms.json").write_text(json.dumps({**transforms, "frames": kept}))
    return folder


@dataclass(frozen=True)
class Programme:
    """All tasks of the benchmark, and where they leave what the table is made from."""

    scenes: dict[str, Path]
    """Captures to train on, by name."""
    kitchen_test: Path
    msrc: Path
    camvid: Path
    work: Path
    tunings: tuple[str, ...] = tuple(TUNINGS)
    """Which are done; "recommended" always."""
    data: tuple[str, ...] = DATA
    """Which are probed on."""

    def training(self, name: str) -> Task:
        return stage1_task(name, self.scenes[name], self.work / "outputs", "run")

    def export(self, name: str) -> Task:
        return export_task(name, self.training(name), self.work / "runs" / "real")

    def tuning(self, name: str) -> Task:
        exports, options = TUNINGS[name]
        folder = self.work / "finetuned" / name
        return Task(
            f"fine-tune {name}",
            folder / "fit3d.json",
            (
                *("fit3d-finetune", "--exports", str(self.work / "runs" / exports), "--output-dir", str(folder)),
                *("--preset", "recommended", "--val-fraction", "0", *options),
            ),
            tuple(self.export(scene).makes for scene in self.scenes),
        )

    def probings(self) -> dict[str, Task]:
        """By data set, those that are probed on."""
        kitchen, msrc = str(self.scenes["kitchen"]), self.msrc
        streets = [f"camvid:{self.camvid / part}" for part in ("train", "val")]
        probings = {
            "kitchen": self._probing(
                "kitchen", [kitchen], [str(self.kitchen_test)], ["depth", "normals", "consistency", "matching"]
            ),
            "MSRC": self._probing("MSRC", [str(msrc / "train")], [str(msrc / "val")], ["segmentation"]),
            "CamVid": self._probing("CamVid", streets[:1], streets[1:], ["segmentation"]),
        }
        return {name: task for name, task in probings.items() if name in self.data}

    def _probing(self, name: str, train: Sequence[str], test: Sequence[str], tasks: Sequence[str]) -> Task:
        folder = self.work / "probes" / name
        made = {tuning: self.tuning(tuning).makes for tuning in self.tunings}
        control = ("--control", str(made["control"].parent)) if "control" in made else ()
        further = [f"{arm}={made[tuning].parent}" for arm, tuning in FURTHER.items() if tuning in made]
        return Task(
            f"probe {name}",
            folder / "results.json",
            (
                *("fit3d-probe", "--finetuned", str(made["recommended"].parent)),
                *(*control, *(("--arm", *further) if further else ())),
                *("--train-data", *train, "--test-data", *test, "--tasks", *tasks, "--seeds", *PROBE_SEEDS),
                *("--precision", "auto", "--output-dir", str(folder)),
            ),
            tuple(made.values()),
        )

    def made(self) -> tuple[dict[str, Path], dict[str, Path]]:
        """What the page is made from: results by data set, fine-tuned folders by their name."""
        results = {name: task.makes for name, task in self.probings().items()}
        return results, {name: self.tuning(name).makes.parent for name in self.tunings}

    def tasks(self) -> list[Task]:
        stage1 = [task for name in self.scenes for task in (self.training(name), self.export(name))]
        return [*stage1, *map(self.tuning, self.tunings), *self.probings().values()]


def link_exports(rooms: Path, runs: Path, scenes: Sequence[str]) -> None:
    """runs/rooms-and-real: links to the rooms' exports, and to those that this benchmark makes in runs/real."""
    found = sorted(folder for folder in rooms.iterdir() if (folder / "scene.json").is_file())
    if not found:
        raise SystemExit(f"{rooms} holds no exports: run benchmarks.rooms first, or export the rooms.")
    link_all(runs / "rooms-and-real", [*found, *(runs / "real" / name for name in scenes)])


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("kitchen", "fox", "msrc", "camvid"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--rooms", type=Path, required=True, help="exports of the rooms (benchmarks.rooms: runs/)")
    parser.add_argument("--tunings", nargs="+", choices=list(TUNINGS), default=list(TUNINGS))
    parser.add_argument("--probe", nargs="+", choices=DATA, default=DATA)
    parser.add_argument("--work-dir", type=Path, default=Path("bench-real"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "real.md")
    arguments = parser.parse_args()
    work = arguments.work_dir.resolve()
    halves = {name: write_half(arguments.kitchen.resolve(), work / "captures" / name, HALVES[name]) for name in HALVES}
    scenes = {"kitchen": halves["kitchen"], "fox": arguments.fox.resolve()}
    link_exports(arguments.rooms.resolve(), work / "runs", list(scenes))
    programme = Programme(
        scenes,
        halves["kitchen-test"],
        arguments.msrc.resolve(),
        arguments.camvid.resolve(),
        work,
        tuple(dict.fromkeys(("recommended", *arguments.tunings))),
        tuple(arguments.probe),
    )
    run_all(programme.tasks(), work / "logs")
    write_table(arguments.output, *programme.made())
    print(f"Results: {arguments.output}")


if __name__ == "__main__":
    main()
