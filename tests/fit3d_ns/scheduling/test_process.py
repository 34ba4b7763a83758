"""What follows from how a scene's process ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fit3d_ns.scheduling.plan import Status
from fit3d_ns.scheduling.process import MOST_STARTS, Ending, arguments_of, ending_of, next_attempt, run_to_the_end
from tests.fit3d_ns.scheduling.conftest import plan_of, starts_of

KILLED, LOST = ending_of(-9), Ending("was lost with its node", lost=True)
CLEARED = ending_of(-15)
"""As a cluster clears a machine: scancel, preemption."""


@pytest.mark.parametrize(
    ("ending", "attempt", "retry", "starts", "expected"),
    [
        (KILLED, 1, ("--half",), 1, 2),
        (KILLED, 2, ("--half",), 2, None),
        (KILLED, 1, (), 1, None),
        (LOST, 1, ("--half",), 1, 1),
        (LOST, 2, ("--half",), 2, 2),
        (LOST, 1, (), MOST_STARTS, None),
        (CLEARED, 1, ("--half",), 1, 1),
        (CLEARED, 1, ("--half",), MOST_STARTS, None),
    ],
)
def test_who_is_started_again(
    tmp_path: Path, ending: Ending, attempt: int, retry: tuple[str, ...], starts: int, expected: int | None
) -> None:
    plan = plan_of(tmp_path, "room", retry=retry)
    Status("room", "training", attempt).save(plan)
    assert next_attempt(plan, "room", ending, starts) == expected
    status = Status.load(plan, "room")
    assert (status.state, status.fault) == (("training", "") if expected else ("failed", f"its process {ending.how}"))


@pytest.mark.parametrize("state", ["done", "failed"])
def test_what_a_scene_said_of_its_end_stands(tmp_path: Path, state: str) -> None:
    plan = plan_of(tmp_path, "room", retry=("--half",))
    said = Status("room", state, fault="its own words")  # type: ignore[arg-type]
    said.save(plan)
    assert next_attempt(plan, "room", KILLED, 1) is None
    assert Status.load(plan, "room") == said


def test_a_scene_ends_with_the_call_that_does_it(tmp_path: Path, stand_in: None) -> None:
    plan = plan_of(tmp_path, "slow")
    script = (
        "import signal, sys\n"
        "signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
        "from fit3d_ns.scheduling.process import run_to_the_end\n"
        "run_to_the_end(sys.argv[1:], 3)\n"
    )
    arguments = arguments_of(plan.save(), "slow", 1)
    caller = subprocess.Popen([sys.executable, "-c", script, *arguments], stderr=subprocess.DEVNULL)
    while not (starts := starts_of(plan, "slow")):
        time.sleep(0.05)
    assert (plan.folder("slow") / "threads").read_text() == "3"
    caller.send_signal(signal.SIGTERM)
    caller.wait(timeout=20)
    with pytest.raises(ProcessLookupError):
        os.kill(int(starts[0][0]), 0)


def test_a_call_returns_how_the_process_ended(tmp_path: Path, stand_in: None) -> None:
    plan = plan_of(tmp_path, "killed", "a")
    assert [run_to_the_end(arguments_of(plan.save(), scene, 1), None) for scene in ("killed", "a")] == [-9, 0]
