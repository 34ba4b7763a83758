"""Which jobs have left Slurm's queue, whether or not it keeps accounts of them.

submitit asks sacct, which many small clusters do not have, and waits for ever for a job that is gone without a result
there; also for one that was preempted and is not to come back.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Collection
from dataclasses import dataclass, field

LISTED_EVERY = 30.0
"""Seconds between two looks at the queue: one question for all jobs."""
LOOKS = 2
"""In a row that miss a job before it has left: a shared file system may show its result only after a while."""


@dataclass
class SlurmQueue:
    """The queue of this user's jobs."""

    every: float = LISTED_EVERY
    _looked: float = float("-inf")
    _missed: dict[str, int] = field(default_factory=dict)

    def left(self, jobs: Collection[str]) -> set[str]:
        """Those of some jobs that are neither waiting nor running any more.

        Args:
            jobs: as Slurm names them; "7_1" is a part of an array.
        """
        if time.monotonic() - self._looked >= self.every:
            self._looked = time.monotonic()
            listed = _listed()
            if listed is not None:
                self._missed = {job: 0 if job in listed else self._missed.get(job, 0) + 1 for job in jobs}
        return {job for job in jobs if self._missed.get(job, 0) >= LOOKS}


def _listed() -> set[str] | None:
    """All jobs that wait or run; None: Slurm does not answer now."""
    words = ("squeue", "--noheader", "--array", "--format=%i", f"--user={os.getuid()}")
    done = subprocess.run(words, capture_output=True, text=True)
    return set(done.stdout.split()) if done.returncode == 0 else None


def state_of(job: str) -> str:
    """How Slurm says that a job ended: "OUT_OF_MEMORY"; "UNKNOWN" where it keeps no accounts."""
    words = ("sacct", "--noheader", "--allocations", "--parsable2", "--format=State", f"--jobs={job}")
    try:
        done = subprocess.run(words, capture_output=True, text=True)
    except FileNotFoundError:
        return "UNKNOWN"
    states = done.stdout.split() if done.returncode == 0 else []
    return states[0] if states else "UNKNOWN"
