"""What many scenes would take, by what scenes took on this machine before: nothing less than one shows it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from fit3d_ns.common.console import clock
from fit3d_ns.common.cores import usable_cores
from fit3d_ns.common.estimate import Estimate, Room, Step
from fit3d_ns.common.kept_rates import Entry, kept_rates
from fit3d_ns.scheduling.plan import Plan
from fit3d_ns.scheduling.process import Engine
from fit3d_ns.scheduling.worker import RATES, comparable


def preview_scenes(
    plan: Plan, engine: Engine, jobs: int | None, found: Sequence[str], waiting: Sequence[str]
) -> Estimate:
    """What is to be done, and what it takes if these scenes are as those before.

    Args:
        plan: with its method chosen.
        engine: who would do it.
        jobs: how many at a time on this machine; None: other machines do it.
        found: scenes that are exported already.
        waiting: the others.
    """
    work, output = Path(plan.work_dir), Path(plan.output_dir)
    known: list[Entry] = []
    if jobs is not None:
        known = kept_rates(RATES, **comparable(plan, max(1, usable_cores() // jobs)))
        why = (
            "no scene with this method, these options and so many at a time was done on this machine yet: let one end, "
            "and ask again"
        )
    else:
        why = "other machines do it, whose speed is not known here"
    step = Step(f"{len(waiting)} scenes, {engine.described}", 0.0 if not waiting else None, why if waiting else "none")
    rate = why
    memory = exports = runs = None
    if known and jobs is not None:
        seconds = [float(entry["seconds"]) for entry in known]
        rounds = math.ceil(len(waiting) / jobs)
        at_once = min(jobs, len(waiting))
        rate = f"measured on {len(known)} scenes before"
        if waiting:
            took = f"each {clock(mean(seconds))}, {clock(min(seconds))} to {clock(max(seconds))}"
            step = Step(step.what, rounds * mean(seconds), f"{took}, {rate}, with {_views(known)}")
        memory = at_once * max(float(entry["memory"]) for entry in known)
        exports = len(waiting) * mean(float(entry["export_bytes"]) for entry in known)
        runs = len(waiting) * mean(float(entry["run_bytes"]) for entry in known)
    elif not waiting:
        memory, exports, runs, rate = 0.0, 0.0, 0.0, "nothing to do"
    return Estimate(
        plan=(
            ("Scenes", f"{len(waiting)} to train, measure and export; {len(found)} are exported already"),
            ("Method", f"{plan.method}{' '.join(['', *plan.train_options])}"),
            ("Engine", engine.described),
            ("Output", f"{plan.output_dir}; runs and logs in {plan.work_dir}"),
        ),
        steps=(step,),
        memory=memory,
        memory_rate=f"of all at a time together, {rate}" if known else rate,
        rooms=(Room("exports", output, exports, rate), Room("runs", work, runs, rate)),
    )


def _views(known: Sequence[Entry]) -> str:
    counts = [int(entry["views"]) for entry in known]
    return f"{min(counts)} views" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)} views"
