"""The evidence: does fine-tuning on 3D-consistent features help on rooms and streets that it never saw?

    python -m benchmarks.rooms --rooms ../shared/data/rooms --camvid ../shared/data/camvid [--work-dir bench-rooms]

Stage 1 on all rooms, then for each split: fine-tuning on eight rooms, the control without 3D with the same budget,
and linear probes trained on those eight rooms' labels and tested on the two others. CamVid is probed as data of
another domain. The last block and a random network repeat it with other features on the same Gaussians.

Every part is kept in the work folder and not done again by a second start. Two single-threaded processes share the
machine at any time, which takes less time than one after the other with all threads.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rooms_table import Probe, write_table

METHOD = "fit3d-features-fast"
SEEDS = ("0", "1", "2")


@dataclass(frozen=True)
class Task:
    """A command that makes one file; it is done when the file is there."""

    name: str
    makes: Path
    command: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """Which rooms are held out of fine-tuning and probe training."""

    name: str
    held_out: tuple[str, ...]


SPLITS = (Split("A", ("room_08", "room_09")), Split("B", ("room_00", "room_01")))


@dataclass(frozen=True)
class Variant:
    """Which features are lifted and tuned."""

    name: str
    backbone: tuple[str, ...]
    splits: tuple[Split, ...]


VARIANTS = (
    Variant("block 9", ("--backbone.weights", "offline"), SPLITS),
    Variant("last block", ("--backbone.weights", "offline", "--backbone.layer", "11"), SPLITS[:1]),
    Variant(
        "random network",
        ("--backbone.weights", "random", "--backbone.name", "vit_small_patch14_dinov2", "--backbone.layer", "8"),
        SPLITS[:1],
    ),
)


def run(task: Task, logs: Path) -> None:
    """Run one task with one thread, its output in a log of its own; stop everything if it fails."""
    if task.makes.exists():
        print(f"{task.name}: done before", flush=True)
        return
    print(f"{task.name}: {' '.join(task.command)}", flush=True)
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{task.name.replace(' ', '-').replace(':', '')}.log"
    threads = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    script = Path(sys.executable).with_name(task.command[0])
    with open(log, "w") as output:
        result = subprocess.run(
            [str(script), *task.command[1:]], stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **threads}
        )
    if result.returncode != 0 or not task.makes.exists():
        raise SystemExit(f"{task.name} failed with exit code {result.returncode}; see {log}")


def run_all(tasks: Sequence[Task], logs: Path) -> None:
    """Run tasks that do not depend on each other, two at a time."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        for future in [pool.submit(run, task, logs) for task in tasks]:
            future.result()


def training(room: Path, work: Path) -> Task:
    folder = work / "outputs" / room.name / METHOD / "run"
    command = (
        *("ns-train", METHOD, "--data", str(room), "--output-dir", str(work / "outputs"), "--timestamp", "run"),
        *("--vis", "tensorboard", "--pipeline.datamanager.backbone.weights", "offline"),
    )
    # The last checkpoint's name, so that a run which was cut short is not taken for a whole one.
    return Task(f"train {room.name}", folder / "nerfstudio_models" / "step-000002999.ckpt", command)


def evaluation(room: Path, work: Path) -> Task:
    config = work / "outputs" / room.name / METHOD / "run" / "config.yml"
    metrics = work / "metrics" / f"{room.name}.json"
    return Task(
        f"evaluate {room.name}", metrics, ("ns-eval", "--load-config", str(config), "--output-path", str(metrics))
    )


def export(room: Path, work: Path, variant: Variant) -> Task:
    runs = work / "runs" / _slug(variant.name)
    config = work / "outputs" / room.name / METHOD / "run" / "config.yml"
    first = variant is VARIANTS[0]
    command = ("fit3d-export",) if first else ("fit3d-lift", *variant.backbone)
    return Task(
        f"export {variant.name} {room.name}",
        runs / room.name / "scene.json",
        (*command, "--load-config", str(config), "--output-dir", str(runs)),
    )


def finetuning(work: Path, variant: Variant, split: Split, targets: str, options: Sequence[str]) -> Task:
    folder = finetuned(work, variant, split, targets)
    return Task(
        f"fine-tune {variant.name} {split.name} {targets}",
        folder / "fit3d.json",
        (
            *("fit3d-finetune", "--exports", str(work / "runs" / _slug(variant.name)), "--output-dir", str(folder)),
            *("--preset", "recommended", "--val-scenes", *split.held_out, "--targets", targets, *options),
        ),
    )


def finetuned(work: Path, variant: Variant, split: Split, targets: str) -> Path:
    return work / "finetuned" / f"{_slug(variant.name)}-{split.name}-{targets}"


def probing(work: Path, variant: Variant, split: Split, data: str, train: Sequence[str], test: Sequence[str]) -> Task:
    folder = work / "probes" / f"{_slug(variant.name)}-{split.name}-{data}"
    tasks = ("segmentation", "depth", "nearest-neighbours", "consistency") if data == "rooms" else ("segmentation",)
    return Task(
        f"probe {variant.name} {split.name} {data}",
        folder / "results.json",
        (
            *("fit3d-probe", "--finetuned", str(finetuned(work, variant, split, "gaussians"))),
            *("--control", str(finetuned(work, variant, split, "mirror")), "--output-dir", str(folder)),
            *("--train-data", *train, "--test-data", *test, "--tasks", *tasks, "--seeds", *SEEDS),
        ),
    )


def _slug(name: str) -> str:
    return name.replace(" ", "-")


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=Path, required=True, help="folder of room_00 ... room_09")
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, default=Path("bench-rooms"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "rooms.md")
    parser.add_argument("--variants", nargs="+", choices=[v.name for v in VARIANTS], default=[v.name for v in VARIANTS])
    parser.add_argument("--finetune-options", nargs=argparse.REMAINDER, default=[], help="e.g. --epochs 2")
    arguments = parser.parse_args()
    rooms = sorted(arguments.rooms.resolve().glob("room_*"))
    work, logs = arguments.work_dir.resolve(), arguments.work_dir.resolve() / "logs"
    chosen = [variant for variant in VARIANTS if variant.name in arguments.variants]
    (work / "metrics").mkdir(parents=True, exist_ok=True)

    run_all([training(room, work) for room in rooms], logs)
    run_all([evaluation(room, work) for room in rooms], logs)
    probes: list[Probe] = []
    for variant in chosen:
        run_all([export(room, work, variant) for room in rooms], logs)
        jobs = [(split, kind) for split in variant.splits for kind in ("gaussians", "mirror")]
        run_all([finetuning(work, variant, s, kind, arguments.finetune_options) for s, kind in jobs], logs)
        tasks = []
        for split in variant.splits:
            train = [str(room) for room in rooms if room.name not in split.held_out]
            test = [str(room) for room in rooms if room.name in split.held_out]
            tasks.append(probing(work, variant, split, "rooms", train, test))
            probes.append(Probe(variant.name, split.name, "rooms", tasks[-1].makes))
        camvid = [f"camvid:{arguments.camvid.resolve() / part}" for part in ("train", "val")]
        tasks.append(probing(work, variant, variant.splits[0], "camvid", camvid[:1], camvid[1:]))
        probes.append(Probe(variant.name, variant.splits[0].name, "camvid", tasks[-1].makes))
        run_all(tasks, logs)
        write_table(arguments.output, probes, work / "metrics")
    print(f"Results: {arguments.output}")


if __name__ == "__main__":
    main()
