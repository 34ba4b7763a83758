"""fit3d-scenes: train, measure and export many scenes; given again, it goes on where it was stopped."""

from __future__ import annotations

import shlex
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from rich.live import Live

from fit3d_ns.common.console import CONSOLE, logger
from fit3d_ns.common.errors import EXIT_INTERRUPTED, InputError, exits_on_input_error
from fit3d_ns.common.output_place import require_writable
from fit3d_ns.scene.gaussians import FeatureGaussians
from fit3d_ns.scene.name import require_scene_name
from fit3d_ns.scene.place import SCENE_FILE, require_export_place
from fit3d_ns.scheduling.local import LocalEngine
from fit3d_ns.scheduling.plan import Plan, Status
from fit3d_ns.scheduling.summary import table, write_summary
from fit3d_ns.scheduling.worker import figures_of

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
    engine: Literal["local"] = "local"
    """Who schedules them: this machine."""
    jobs: int | None = None
    """How many at a time. Default: one for each GPU; without a GPU as many as there are cores, and 3 GB for each."""
    method: Literal["auto", "fit3d-features", "fit3d-features-fast", "fit3d-features-paper"] = "auto"
    """auto: fit3d-features with a GPU, fit3d-features-fast without."""
    train_options: str = ""
    """Of ns-train, for all scenes, as one word: "--max-num-iterations 2000"."""
    retry_options: str = "--pipeline.datamanager.camera-res-scale-factor 0.5"
    """Added for the second try of a scene that failed (half the resolution: a quarter of the pixels); "": none."""
    export_options: str = ""
    """Of fit3d-export, for all scenes: "--feature-storage int8"."""


def run(arguments: ScenesArguments) -> list[Status]:
    """Do what the arguments say; returns what came of every scene, in their order."""
    plan = make_plan(arguments)
    found, waiting = [], []
    for scene in plan.captures:
        if is_exported(plan, scene):
            found.append(scene)
        else:
            require_export_place(Path(plan.output_dir), scene)
            waiting.append(scene)
    for scene in found:
        Status(scene, "done", figures=figures_of(plan, scene), found=True).save(plan)
    for scene in waiting:
        Status(scene).save(plan)
    engine = LocalEngine(arguments.jobs)
    logger.info(
        "%d scenes with %s, %d at a time; %d are exported already", len(waiting), plan.method, engine.jobs, len(found)
    )
    _follow(plan, engine, waiting)
    statuses = [Status.load(plan, scene) for scene in plan.captures]
    CONSOLE.print(table(statuses))
    for status in statuses:
        if status.state == "failed":
            logger.error("%s: %s", status.scene, status.fault)
    logger.info("Summary: %s, %s", *write_summary(plan, statuses))
    return statuses


def make_plan(arguments: ScenesArguments) -> Plan:
    """What is to be done.

    Raises:
        InputError: no scenes, captures that are not there or share a name, no places to write, or wrong options.
    """
    if not arguments.scenes:
        raise InputError("--scenes is empty: give the folders of captures.")
    if arguments.jobs is not None and arguments.jobs < 1:
        raise InputError(f"--jobs must be at least 1, not {arguments.jobs}.")
    captures: dict[str, str] = {}
    for capture in arguments.scenes:
        folder = capture.absolute()
        if not folder.exists():
            raise InputError(f"--scenes: {capture} is not there: give the folders of captures.")
        name = require_scene_name(folder.name, f"--scenes: the name of {capture}", "rename the folder")
        if name in captures:
            raise InputError(f"--scenes: {captures[name]} and {folder} have the same name: rename one.")
        captures[name] = str(folder)
    require_writable(arguments.work_dir)
    method = arguments.method
    if method == "auto":
        method = "fit3d-features" if torch.cuda.is_available() else "fit3d-features-fast"
    return Plan(
        captures=captures,
        output_dir=str(arguments.output_dir.absolute()),
        work_dir=str(arguments.work_dir.absolute()),
        method=method,
        train_options=_words(arguments.train_options, "--train-options"),
        retry_options=_words(arguments.retry_options, "--retry-options"),
        export_options=_words(arguments.export_options, "--export-options"),
    )


def is_exported(plan: Plan, scene: str) -> bool:
    """Whether the scene's export is there and whole.

    Raises:
        InputError: it is of another capture, or damaged.
    """
    folder = plan.export(scene)
    if not (folder / SCENE_FILE).is_file():
        return False
    root = Path(FeatureGaussians.load(folder).scene.images_root)
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


def _follow(plan: Plan, engine: LocalEngine, scenes: Sequence[str]) -> None:
    """Let the engine work, and show how far the scenes are."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            engine.run(plan, scenes)
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=work, name="engine")

    def shown() -> object:
        return table([Status.load(plan, scene) for scene in plan.captures])

    thread.start()
    try:
        with Live(console=CONSOLE, transient=True, auto_refresh=False) as live:
            while thread.is_alive():
                live.update(shown(), refresh=True)  # type: ignore[arg-type]
                time.sleep(REFRESH)
    except BaseException:  # Ctrl-C as a rule
        engine.stop()
        raise
    finally:
        thread.join()
    if failures:
        raise failures[0]


@exits_on_input_error
def main() -> None:
    """Console script `fit3d-scenes`; exit code 1 if a scene failed."""
    arguments = tyro.cli(Annotated[ScenesArguments, tyro.conf.arg(name="")], prog="fit3d-scenes")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        statuses = run(arguments)
    except KeyboardInterrupt:
        logger.warning("stopped; the same command goes on from there")
        raise SystemExit(EXIT_INTERRUPTED) from None
    if any(status.state != "done" for status in statuses):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
