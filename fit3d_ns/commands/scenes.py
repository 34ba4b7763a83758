"""fit3d-scenes: train, measure and export many scenes; given again, it goes on where it was stopped."""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rich.live import Live

from fit3d_ns.common.command_line import read_arguments, resumable
from fit3d_ns.common.console import CONSOLE, logger, redraws
from fit3d_ns.common.ending import ends_in_one_sentence
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.output_place import require_writable
from fit3d_ns.common.temporaries import sweep_leftovers
from fit3d_ns.common.third_parties import quiet_third_parties
from fit3d_ns.scene.name import require_scene_name
from fit3d_ns.scheduling.plan import ENDED, Plan, Status
from fit3d_ns.scheduling.process import Engine
from fit3d_ns.scheduling.ray_cluster import RayEngine
from fit3d_ns.scheduling.slurm import SlurmEngine
from fit3d_ns.scheduling.summary import table, write_summary

REFRESH = 1.0
"""Seconds between two looks at the scenes' status."""


@dataclass
class ScenesArguments:
    """Train, measure and export many scenes, each in a process of its own.

    Scenes whose export is there are left as they are, and those that were stopped go on from their last checkpoint, so
    the same command continues, also on another machine with the same folders. One that fails stops no other one.
    """

    scenes: tuple[Path, ...]
    """The captures, as ns-train --data takes them; their folders' names are the scenes' names."""
    output_dir: Path = Path("runs")
    """Where the exports go, and the summary: scenes.json, scenes.html."""
    work_dir: Path = Path("outputs-scenes")
    """Where runs, logs and the scenes' status are kept."""
    engine: Literal["local", "ray", "slurm"] = "local"
    """Who schedules them: this machine, a Ray cluster or Slurm, whose machines must see the folders by these paths."""
    jobs: int | None = None
    """How many at a time. Default on this machine: one for each GPU; without a GPU as many as there are cores, and 3 GB
    for each. Elsewhere: as many as there is room for."""
    gpus_per_scene: float | None = None
    """ray, slurm: GPUs of each; 0.5 lets two share one (ray). Default: 1 (ray: 0 where the cluster has none)."""
    cpus_per_scene: int | None = None
    """ray, slurm: cores of each. Default: 1 (ray), or what the cluster gives (slurm)."""
    ray_address: str = "auto"
    """Of the cluster's head; auto: the cluster that this machine belongs to; local: one that is started here."""
    slurm_options: str = ""
    """Of sbatch: "partition=gpu time=120 account=vision"."""
    method: Literal["auto", "fit3d-features", "fit3d-features-fast", "fit3d-features-paper"] = "auto"
    """auto: fit3d-features with a GPU, fit3d-features-fast without."""
    train_options: str = ""
    """Of ns-train, for all scenes, as one word: --train-options="--max-num-iterations 2000"."""
    retry_options: str = "--pipeline.datamanager.camera-res-scale-factor 0.5"
    """Added for the second try of a scene that failed (half the resolution: a quarter of the pixels); "": none."""
    export_options: str = ""
    """Of fit3d-export, for all scenes: --export-options="--feature-storage int8"."""
    dataparser: str = ""
    """A dataparser for all scenes, with its options: "fit3d-scannetpp-data --undistorted True"; "": nerfstudio's own
    format."""
    dry_run: bool = False
    """Check everything as a start would, and print what is to be done and what it will take in time, memory and disk,
    by what scenes took on this machine before; write nothing."""


def run(arguments: ScenesArguments) -> list[Status]:
    """Do what the arguments say; returns what came of every scene, in their order (of --dry-run: nothing)."""
    from fit3d_ns.scheduling.worker import figures_of

    plan, engine, found, waiting = prepare(arguments)
    if arguments.dry_run:
        from fit3d_ns.scheduling.local import LocalEngine
        from fit3d_ns.scheduling.preview import preview_scenes

        jobs = engine.jobs if isinstance(engine, LocalEngine) else None
        preview_scenes(plan, engine, jobs, found, waiting).show()
        return []
    for scene in found:
        Status(scene, "done", figures=figures_of(plan, scene), found=True).save(plan)
    for scene in waiting:
        Status(scene).save(plan)
    logger.info(
        "%d scenes with %s, %s; %d are exported already", len(waiting), plan.method, engine.described, len(found)
    )
    _follow(plan, engine, waiting)
    statuses = [Status.load(plan, scene) for scene in plan.captures]
    CONSOLE.print(table(statuses))
    for status in statuses:
        if status.state == "failed":
            logger.error("%s: %s", status.scene, status.fault)
    logger.info("Summary: %s, %s", *write_summary(plan, statuses))
    return statuses


def prepare(arguments: ScenesArguments) -> tuple[Plan, Engine, list[str], list[str]]:
    """What is to be done and who does it; the scenes that are exported already, and the others.

    Raises:
        InputError: as `make_plan`, `make_engine` and `is_exported`, or an export has no place.
    """
    from fit3d_ns.scene.place import require_export_place

    plan = make_plan(arguments)
    found, waiting = [], []
    if not arguments.dry_run:
        sweep_leftovers(Path(plan.output_dir))
    for scene in plan.captures:
        if is_exported(plan, scene):
            found.append(scene)
        else:
            require_export_place(Path(plan.output_dir), scene)
            waiting.append(scene)
    engine = make_engine(arguments)
    if plan.method == "auto":
        plan = replace(plan, method="fit3d-features" if engine.gpus > 0 else "fit3d-features-fast")
    return plan, engine, found, waiting


def make_plan(arguments: ScenesArguments) -> Plan:
    """What is to be done; its method is "auto" where it depends on the engine.

    Raises:
        InputError: no scenes, captures that are not there or share a name, no places to write, or wrong options.
    """
    if not arguments.scenes:
        raise InputError("--scenes is empty: give the folders of captures.")
    captures: dict[str, str] = {}
    for capture in arguments.scenes:
        folder = capture.absolute()
        if not folder.exists():
            raise InputError(f"--scenes: {capture} is not there: give the folders of captures.")
        name = require_scene_name(folder.name, f"--scenes: the name of {capture}", "rename the folder")
        if name in captures:
            raise InputError(f"--scenes: {captures[name]} and {folder} have the same name: rename one.")
        captures[name] = str(folder)
    require_writable(arguments.output_dir)
    require_writable(arguments.work_dir, "--work-dir")
    return Plan(
        captures=captures,
        output_dir=str(arguments.output_dir.absolute()),
        work_dir=str(arguments.work_dir.absolute()),
        method=arguments.method,
        train_options=_words(arguments.train_options, "--train-options"),
        retry_options=_words(arguments.retry_options, "--retry-options"),
        export_options=_words(arguments.export_options, "--export-options"),
        dataparser=_words(arguments.dataparser, "--dataparser"),
    )


def make_engine(arguments: ScenesArguments) -> Engine:
    """Who does it.

    Raises:
        InputError: an option of another engine, or one that cannot be begun with.
    """
    of_engines = {
        "--gpus-per-scene": (arguments.gpus_per_scene, ("ray", "slurm"), 0),
        "--cpus-per-scene": (arguments.cpus_per_scene, ("ray", "slurm"), 1),
        "--ray-address": (None if arguments.ray_address == "auto" else arguments.ray_address, ("ray",), None),
        "--slurm-options": (arguments.slurm_options or None, ("slurm",), None),
        "--jobs": (arguments.jobs, ("local", "slurm"), 1),
    }
    for option, (value, engines, least) in of_engines.items():
        if value is not None and arguments.engine not in engines:
            raise InputError(f"{option} is an option of --engine {' and '.join(engines)}: leave it out.")
        if isinstance(value, float | int) and least is not None and value < least:
            raise InputError(f"{option} must be at least {least}, not {value}.")
    gpus, cpus = arguments.gpus_per_scene, arguments.cpus_per_scene
    if arguments.engine == "ray":
        return RayEngine(arguments.ray_address, gpus, cpus)
    if arguments.engine == "slurm":
        if gpus is not None and gpus != int(gpus):
            raise InputError(f"--gpus-per-scene {gpus:g}: Slurm gives whole GPUs; --engine ray shares them.")
        return SlurmEngine(arguments.jobs, None if gpus is None else int(gpus), cpus, arguments.slurm_options)
    from fit3d_ns.scheduling.local import LocalEngine

    return LocalEngine(arguments.jobs)


def is_exported(plan: Plan, scene: str) -> bool:
    """Whether the scene's export is there and whole; its images are looked at by whoever uses it.

    Raises:
        InputError: it is of another capture, or damaged.
    """
    from fit3d_ns.scene.gaussians import SCENE_FILE, FeatureGaussians

    folder = plan.export(scene)
    if not (folder / SCENE_FILE).is_file():
        return False
    root = Path(FeatureGaussians.load(folder, check_images=False, sweep=False).scene.images_root)
    capture = Path(plan.captures[scene])
    if root.name != capture.name and root != capture.parent:
        raise InputError(
            f"{folder} is the export of another capture, {root}: give another --output-dir, or rename {capture}."
        )
    return True


def _words(options: str, name: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(options))
    except ValueError as error:
        raise InputError(f"{name} {options!r} cannot be split into words ({error}): mend its quotes.") from error


def _follow(plan: Plan, engine: Engine, scenes: Sequence[str]) -> None:
    """Let the engine work, and show how far the scenes are."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            engine.run(plan, scenes)
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=work, name="engine")

    thread.start()
    try:
        with Live(console=CONSOLE, transient=True, auto_refresh=False) as live:
            shown = [Status.load(plan, scene) for scene in plan.captures]
            while thread.is_alive():
                start = time.monotonic()
                last, shown = shown, [Status.load(plan, scene) for scene in plan.captures]
                if redraws(CONSOLE):
                    live.update(table(shown), refresh=True)
                else:
                    for line in changes(last, shown):
                        logger.info("%s", line)
                # Looking at very many scenes takes a while itself, and must not take the machine.
                time.sleep(max(REFRESH, 10 * (time.monotonic() - start)))
    except BaseException:  # Ctrl-C as a rule
        engine.stop()
        raise
    finally:
        thread.join()
    if failures:
        raise failures[0]


def changes(before: Sequence[Status], after: Sequence[Status]) -> list[str]:
    """A line for every scene that stands elsewhere than it stood, for output that is no terminal."""
    ended = sum(status.state in ENDED for status in after)
    return [
        f"{new.scene}: {new.state}{f' (try {new.attempt})' if new.attempt > 1 else ''}; "
        f"{ended} of {len(after)} scenes have ended"
        for old, new in zip(before, after, strict=True)
        if (old.state, old.attempt) != (new.state, new.attempt)
    ]


def parse(words: Sequence[str] | None = None) -> ScenesArguments:
    """The arguments of the command line."""
    return read_arguments(ScenesArguments, "fit3d-scenes", words)


@ends_in_one_sentence
def main() -> None:
    """Console script `fit3d-scenes`; exit code 1 if a scene failed."""
    arguments = parse()
    quiet_third_parties()
    with resumable():
        statuses = run(arguments)
    if any(status.state != "done" for status in statuses):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
