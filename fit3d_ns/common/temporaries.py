"""Temporary names beside a file or folder: nobody else's, and swept once the process that made them is dead.

What is being written for `x` stands beside it as `.x.fit3d-<token>.tmp`; a folder that is being replaced may stand for
a moment in `.x.fit3d-<token>.old/`. A file `.x.fit3d-<token>.lock` comes first and goes last, and its writer holds a
lock (flock) on it: the system drops that lock when the process ends, however it ends, and in whatever container. So a
lock that can be taken means a dead writer, and what has no lock file of ours is not ours to sweep.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fit3d_ns.common.console import logger

try:
    import fcntl
except ImportError:  # no such locks on Windows: nothing is swept there
    fcntl = None  # type: ignore[assignment]

_LOCK = re.compile(r"(\..*\.fit3d-[0-9a-f]{16})\.lock", re.DOTALL)
_OWNER = b"fit3d writes beside this file; once its process has ended, the next fit3d command tidies up.\n"
_SHOWN_BYTES = 60
"""Of the target's name in temporary names, which must not grow longer than a name may be."""
_RETRIES = 12


@dataclass(frozen=True)
class Temporaries:
    """The temporary names of one write."""

    folder: Path
    stem: str

    @property
    def new(self) -> Path:
        """For what is being written."""
        return self.folder / f"{self.stem}.tmp"

    @property
    def old(self) -> Path:
        """A folder for what is being replaced, under its own name."""
        return self.folder / f"{self.stem}.old"

    @property
    def lock(self) -> Path:
        return self.folder / f"{self.stem}.lock"


class NoFilesThereError(FileNotFoundError):
    """A folder in which no file can be made, though nobody takes it away (/proc)."""


def retry_pauses() -> Iterator[float]:
    """Seconds to wait before each further attempt where another process took a folder away; 0.7 in all.

    Their lengths are random, apart from any seed: processes that wait in step would meet again and again.
    """
    for attempt in range(_RETRIES):
        yield min(0.002 * 2**attempt, 0.1) * secrets.SystemRandom().uniform(0.5, 1.5)


@contextmanager
def temporaries(target: Path) -> Iterator[Temporaries]:
    """Names beside `target`, whose folder is made if it is not there; whatever stands at them in the end is removed.

    If `Temporaries.old` holds the last copy of a folder, it is not removed but put right, see `sweep_leftovers`.
    """
    shown = os.fsencode(target.name)[:_SHOWN_BYTES].decode(errors="ignore")
    names = Temporaries(target.parent, f".{shown}.fit3d-{secrets.token_hex(8)}")
    handle = _locked_file(names.lock)
    try:
        yield names
    finally:
        if _clear(names):
            names.lock.unlink(missing_ok=True)
        os.close(handle)


def sweep_leftovers(folder: Path) -> None:
    """Remove what processes that were killed while writing left in `folder`; live processes and others' files stay.

    Where one was killed between the two renames that replace a folder, the new folder was complete: it is put in
    place (or the old one, if the new one is gone), and a line on the console says so.
    """
    try:
        found = [match for entry in os.scandir(folder) if (match := _LOCK.fullmatch(entry.name))]
    except (OSError, ValueError):
        return  # no folder, or none that may be read: nothing of ours to tidy up
    for match in found:
        names = Temporaries(Path(folder), match[1])
        with suppress(OSError):  # swept by another process first, or not ours to write
            _sweep(names)


def _sweep(names: Temporaries) -> None:
    if fcntl is None or not stat.S_ISREG(os.lstat(names.lock).st_mode):
        return
    handle = os.open(names.lock, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_still(names.lock, handle) or not _OWNER.startswith(os.read(handle, len(_OWNER) + 1)):
            return
        if _clear(names):
            names.lock.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _locked_file(path: Path) -> int:
    """Make the lock file in its folder, which is made too, and hold its lock; returns the descriptor."""
    pauses = retry_pauses()
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileNotFoundError:
            # Another process tried whether it could write here and took its empty folder away again.
            if (pause := next(pauses, None)) is None:
                raise NoFilesThereError(f"{path.parent}: no file can be made there") from None
            time.sleep(pause)
            continue
        try:
            if fcntl is not None:
                # Where a file system has no locks, nobody can take this one either: it is never swept.
                with suppress(OSError):
                    fcntl.flock(handle, fcntl.LOCK_EX)
            os.write(handle, _OWNER)
        except BaseException:
            os.close(handle)
            path.unlink(missing_ok=True)
            raise
        # A sweep may have come between making and locking the file, and taken it away.
        if _is_still(path, handle):
            return handle
        os.close(handle)
        if next(pauses, None) is None:
            raise OSError(f"{path.parent}: no lock file stays there")


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _clear(names: Temporaries) -> bool:
    """Put right and remove whatever stands at these names; False if something had to stay."""
    try:
        _put_right(names)
        for path in (names.old, names.new):
            _remove(path)
    except OSError as error:
        logger.warning("%s could not be tidied up (%s); the next command tries again.", names.new, error)
        return False
    return True


def _put_right(names: Temporaries) -> None:
    aside = list(names.old.iterdir()) if names.old.is_dir() and not names.old.is_symlink() else []
    if len(aside) != 1 or os.path.lexists(target := names.folder / aside[0].name):
        return
    if os.path.lexists(names.new):
        os.rename(names.new, target)
        logger.warning("%s was being replaced when the program was killed: the new one is complete and there.", target)
    else:
        os.rename(aside[0], target)
        logger.warning("%s was being replaced when the program was killed: the old one is back.", target)


def _remove(path: Path) -> None:
    try:
        kind = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(kind):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
