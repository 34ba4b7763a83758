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
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rooms_table import Probe, write_table

METHOD = "fit3d-features-fast"
SEEDS = ("0", "1", "2")
ALL_TASKS = ("segmentation", "depth", "nearest-neighbours", "consistency")


@dataclass(frozen=True)
class Task:
    """A command that makes one file; it is done when the file is there."""

    name: str
    makes: Path
    command: tuple[str, ...]
    needs: tuple[Path, ...] = ()
    """Files that other tasks make."""


@dataclass(frozen=True)
class Split:
    """Which rooms are held out of fine-tuning and probe training."""

    name: str
    held_out: tuple[str, ...]


SPLITS = (Split("A", ("room_08", "room_09")), Split("B", ("room_00", "room_01")))


@dataclass(frozen=True)
class Variant:
    """Which features are lifted and tuned, and how thoroughly."""

    name: str
    backbone: tuple[str, ...]
    splits: tuple[Split, ...]
    control: bool = True
    """Whether the control without 3D is trained too."""
    camvid: bool = False
    """Whether the first split's backbones are probed on CamVid too."""


VARIANTS = (
    Variant("block 9", ("--backbone.weights", "offline"), SPLITS, camvid=True),
    Variant("last block", ("--backbone.weights", "offline", "--backbone.layer", "11"), SPLITS[:1], control=False),
    Variant(
        "random network",
        ("--backbone.weights", "random", "--backbone.name", "vit_small_patch14_dinov2", "--backbone.layer", "8"),
        SPLITS[:1],
        control=False,
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


def run_all(tasks: Sequence[Task], logs: Path, workers: int = 2) -> None:
    """Run all tasks, some at a time: always the first of those whose needs are there.

    Raises:
        SystemExit: a task failed; those that run already are waited for.
    """
    waiting, running, failures = list(tasks), 0, list[SystemExit]()
    changed = threading.Condition()

    def next_task() -> Task | None:
        """The next one to run, once there is one; None when nothing is left to do."""
        nonlocal running
        with changed:
            while waiting and not failures:
                ready = next((task for task in waiting if all(path.exists() for path in task.needs)), None)
                if ready is not None:
                    waiting.remove(ready)
                    running += 1
                    return ready
                if running == 0:
                    failures.append(SystemExit(f"nothing makes what {waiting[0].name} needs: {waiting[0].needs}"))
                    break
                changed.wait()
            return None

    def work() -> None:
        nonlocal running
        while (task := next_task()) is not None:
            try:
                run(task, logs)
            except SystemExit as failure:
                failures.append(failure)
            with changed:
                running -= 1
                changed.notify_all()

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


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
    command = ("ns-eval", "--load-config", str(config), "--output-path", str(metrics))
    return Task(f"evaluate {room.name}", metrics, command, (training(room, work).makes,))


def export(room: Path, work: Path, variant: Variant) -> Task:
    runs = work / "runs" / _slug(variant.name)
    config = work / "outputs" / room.name / METHOD / "run" / "config.yml"
    first = variant is VARIANTS[0]
    command = ("fit3d-export",) if first else ("fit3d-lift", *variant.backbone)
    return Task(
        f"export {variant.name} {room.name}",
        runs / room.name / "scene.json",
        (*command, "--load-config", str(config), "--output-dir", str(runs)),
        (training(room, work).makes,),
    )


def finetuning(rooms: Sequence[Path], work: Path, variant: Variant, split: Split, targets: str) -> Task:
    folder = finetuned(work, variant, split, targets)
    return Task(
        f"fine-tune {variant.name} {split.name} {targets}",
        folder / "fit3d.json",
        (
            *("fit3d-finetune", "--exports", str(work / "runs" / _slug(variant.name)), "--output-dir", str(folder)),
            *("--preset", "recommended", "--val-scenes", *split.held_out, "--targets", targets),
        ),
        tuple(export(room, work, variant).makes for room in rooms),
    )


def finetuned(work: Path, variant: Variant, split: Split, targets: str) -> Path:
    return work / "finetuned" / f"{_slug(variant.name)}-{split.name}-{targets}"


@dataclass(frozen=True)
class Data:
    """What probes are trained and tested on, and for which tasks."""

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    tasks: tuple[str, ...]


def probing(work: Path, variant: Variant, split: Split, data: Data) -> Task:
    folder = work / "probes" / f"{_slug(variant.name)}-{split.name}-{data.name}"
    tuned, control = (finetuned(work, variant, split, targets) for targets in ("gaussians", "mirror"))
    return Task(
        f"probe {variant.name} {split.name} {data.name}",
        folder / "results.json",
        (
            *("fit3d-probe", "--finetuned", str(tuned), *(("--control", str(control)) if variant.control else ())),
            *("--train-data", *data.train, "--test-data", *data.test, "--tasks", *data.tasks, "--seeds", *SEEDS),
            *("--output-dir", str(folder)),
        ),
        tuple(folder / "fit3d.json" for folder in (tuned, control)[: 1 + variant.control]),
    )


def programme(
    rooms: Sequence[Path], camvid: Path, work: Path, variants: Sequence[Variant]
) -> tuple[list[Task], list[Probe]]:
    """All tasks, one variant after the other, and the probing runs that the table shows."""
    tasks = [training(room, work) for room in rooms]
    probes: list[Probe] = []
    streets = Data("CamVid", (f"camvid:{camvid / 'train'}",), (f"camvid:{camvid / 'val'}",), ("segmentation",))
    for variant in variants:
        tasks += [export(room, work, variant) for room in rooms]
        probings: list[Task] = []
        for split in variant.splits:
            kinds = ("gaussians", "mirror") if variant.control else ("gaussians",)
            tasks += [finetuning(rooms, work, variant, split, kind) for kind in kinds]
            train = tuple(str(room) for room in rooms if room.name not in split.held_out)
            test = tuple(str(room) for room in rooms if room.name in split.held_out)
            all_data = [Data("rooms", train, test, ALL_TASKS)]
            if variant.camvid and split is variant.splits[0]:
                all_data.append(streets)
            for data in all_data:
                probings.append(probing(work, variant, split, data))
                probes.append(Probe(variant.name, split.name, data.name, probings[-1].makes))
        tasks += probings
    return [*tasks, *(evaluation(room, work) for room in rooms)], probes


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
    arguments = parser.parse_args()
    rooms = sorted(arguments.rooms.resolve().glob("room_*"))
    work = arguments.work_dir.resolve()
    (work / "metrics").mkdir(parents=True, exist_ok=True)
    chosen = [variant for variant in VARIANTS if variant.name in arguments.variants]
    tasks, probes = programme(rooms, arguments.camvid.resolve(), work, chosen)
    run_all(tasks, work / "logs")
    write_table(arguments.output, probes, work / "metrics")
    print(f"Results: {arguments.output}")


if __name__ == "__main__":
    main()
