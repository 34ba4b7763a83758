"""The process of a scene: started by an engine on some machine, and what follows from how it ended."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fit3d_ns.common.cores import thread_limits
from fit3d_ns.scheduling.plan import ENDED, Plan, Status

WORKER = ("-m", "fit3d_ns.scheduling.worker")
"""What the Python of whichever machine runs."""
MOST_STARTS = 3
"""Of a scene whose machine is lost again and again."""


class Engine(Protocol):
    """Who does scenes, and where."""

    @property
    def gpus(self) -> float:
        """Of every scene; 0: none."""

    @property
    def described(self) -> str:
        """For the log: "2 at a time on this machine"."""

    def run(self, plan: Plan, scenes: Sequence[str]) -> None:
        """Do all scenes; what came of them stands in their status. Returns when all have ended, or `stop` was called.

        Raises:
            InputError: it cannot begin, or what it runs on is gone.
        """

    def stop(self) -> None:
        """End what runs, and start nothing more; from another thread."""


@dataclass(frozen=True)
class Ending:
    """How the process of a scene ended."""

    how: str
    """As "was killed by signal 9"."""
    lost: bool = False
    """With the machine that it ran on, or by order of who manages that: not the scene's doing."""


def ending_of(code: int) -> Ending:
    """By a subprocess's return code. SIGTERM is how a cluster clears a machine; want of memory is SIGKILL."""
    if code >= 0:
        return Ending(f"failed with exit code {code}")
    return Ending(f"was killed by signal {-code}", lost=-code == signal.SIGTERM)


def next_attempt(plan: Plan, scene: str, ending: Ending, starts: int) -> int | None:
    """With which attempt to start a scene again; None: it has ended, and its status says how.

    A process that is killed, for want of memory as a rule, cannot make the second, smaller try itself. One that is lost
    with its machine goes on as it was.

    Args:
        starts: of its process so far.
    """
    status = Status.load(plan, scene)
    if status.state in ENDED:
        return None
    if ending.lost and starts < MOST_STARTS:
        return status.attempt
    if not ending.lost and status.attempt == 1 and plan.retry_options:
        return 2
    fault = f"its process {ending.how}"
    dataclasses.replace(status, state="failed", fault=fault).save(plan)
    return None


def arguments_of(path: Path, scene: str, attempt: int) -> tuple[str, ...]:
    """Of Python, for a scene's process.

    Args:
        path: of the plan.
        attempt: to begin with.
    """
    return (*WORKER, str(path), scene, str(attempt))


def start(arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a scene's process, which leads a group of its own."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, start_new_session=True,
    )  # fmt: skip


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a scene's process and its commands to end."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)


def run_to_the_end(arguments: Sequence[str], threads: int | None) -> int:
    """Do a scene here and now; its return code. What engines of several machines call on one of them.

    The scene's process ends with this call, also where an exception leaves it.

    Args:
        arguments: `arguments_of` the scene.
        threads: of torch and of the kernels; None: as the environment says.
    """
    environment = {**os.environ, **({} if threads is None else thread_limits(threads))}
    process = start(arguments, environment)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            end(process)
            process.wait()
