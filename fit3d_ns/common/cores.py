"""How many processor cores a process may use, and how a command is told."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0))


def thread_limits(threads: int) -> dict[str, str]:
    """Environment variables of a command that uses so many threads, torch's and the kernels' each."""
    return dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads))
