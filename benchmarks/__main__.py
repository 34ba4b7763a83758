"""All benchmarks: one command, one table, one JSON.

    python -m benchmarks [--quick] [--only NAME ...] [--exports runs/room runs/fox]

Needs an export, better two (a room and a real capture): those of --exports, or made of --captures in the work folder,
once. Ratios are of things that run alternately in one process; absolute seconds depend on the machine, which the
table names. Takes about a quarter of an hour on 2 cores when the exports are there, --quick about two minutes. With a
CUDA GPU two whole trainings come on top (section stage1); on_gpu.sh beside this file starts there from nothing.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.exports import make_exports
from benchmarks.report import machine, to_screen, write
from benchmarks.rows import Outcome, Section, Setting, Skip
from benchmarks.sections import SECTIONS
from fit3d_ns.common.console import logger
from fit3d_ns.common.device import choose_device
from fit3d_ns.common.errors import InputError, exits_on_input_error
from fit3d_ns.scene.gaussians import SCENE_FILE

ROOM = Path(__file__).parent.parent / "examples" / "room"
RESULTS = Path(__file__).parent / "results"


def chosen(names: Sequence[str], sections: Sequence[Section] = SECTIONS) -> list[Section]:
    """The sections of these names, in their own order; all of them without names.

    Raises:
        InputError: a name that is none of theirs.
    """
    known = [section.name for section in sections]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"--only names {', '.join(unknown)}; choose from {', '.join(known)}.")
    return [section for section in sections if not names or section.name in names]


def run_section(section: Section, setting: Setting) -> Outcome:
    start = time.perf_counter()
    try:
        rows = tuple(section.measure(setting))
    except Skip as reason:
        return Outcome(section.name, section.title, skipped=str(reason))
    return Outcome(section.name, section.title, rows, seconds=time.perf_counter() - start)


@contextmanager
def measuring(threads: int) -> Iterator[None]:
    """Torch with the kernels' threads, so that both sides of every ratio have them, and no talk about each scene."""
    level, threads_before = logger.level, torch.get_num_threads()
    logger.setLevel(logging.WARNING)
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        logger.setLevel(level)
        torch.set_num_threads(threads_before)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work-dir", type=Path, default=Path("bench"), help="for what is made, and speed.json")
    parser.add_argument("--quick", action="store_true", help="fewer repeats and sizes; results go to the work folder")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help=", ".join(s.name for s in SECTIONS))
    parser.add_argument(
        "--exports", nargs="+", type=Path, help="export folders; the first serves single-scene sections"
    )
    parser.add_argument(
        "--captures",
        nargs="+",
        type=Path,
        default=[ROOM],
        help="make exports of these; the first is also trained for the sections step and stage1",
    )
    parser.add_argument("--labelled", nargs="+", default=[str(ROOM)], help="for probes, as fit3d-probe takes them")
    parser.add_argument("--stage1-steps", type=int, metavar="N", help="for stage1, instead of 30,000; schedules shrink")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--output", type=Path, help="folder of speed.md; default: benchmarks/results")
    return parser.parse_args(arguments)


@exits_on_input_error
def run(arguments: argparse.Namespace) -> None:
    """Measure the chosen sections; show and write what came of them, after each of them."""
    sections = chosen(arguments.only)
    if arguments.stage1_steps is not None and arguments.stage1_steps < 2:
        raise InputError(f"--stage1-steps is {arguments.stage1_steps}; a training that can be timed has 2 or more.")
    for export in arguments.exports or ():
        if not (export / SCENE_FILE).is_file():
            raise InputError(f"--exports {export} has no {SCENE_FILE}; give folders that fit3d-export wrote.")

    def exports() -> tuple[Path, ...]:
        given: list[Path] | None = arguments.exports
        return tuple(given) if given else make_exports(arguments.captures, arguments.work_dir, arguments.quick)

    setting = Setting(
        work_dir=arguments.work_dir,
        quick=arguments.quick,
        device=choose_device(arguments.device),
        make_exports=exports,
        labelled=tuple(arguments.labelled),
        capture=arguments.captures[0],
        asked=tuple(arguments.only),
        stage1_steps=arguments.stage1_steps,
    )
    here, console = machine(), Console(width=160)
    # Part of the sections, or a rehearsal, does not take the place of the whole table.
    whole = not arguments.quick and not arguments.only
    folder = arguments.output or (RESULTS if whole else arguments.work_dir)
    shown, data = folder / "speed.md", arguments.work_dir / "speed.json"
    outcomes: list[Outcome] = []
    with measuring(here.threads):
        for section in sections:
            console.print(f"{section.name} ...")
            outcomes.append(run_section(section, setting))
            to_screen(outcomes[-1:], here, console)
            write(outcomes, here, shown, data)
    print(f"Results: {shown}, all figures: {data}")


if __name__ == "__main__":
    run(parse())
