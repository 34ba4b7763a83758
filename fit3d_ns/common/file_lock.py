"""Locks between processes, which the system lets go of however a process ends."""

from __future__ import annotations

import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # no such locks on Windows
    fcntl = None  # type: ignore[assignment]


def locked_file(path: Path, wait: bool = True) -> int:
    """Make a file if it is not there and hold its lock; returns the descriptor, whose closing lets go.

    Where the system has no locks, nothing is held.

    Args:
        path: in a folder that is there.
        wait: for whoever holds it.

    Raises:
        BlockingIOError: somebody holds it, and `wait` is False.
        OSError: the file cannot be made, or its file system has no locks.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(handle)
        raise
    return handle
