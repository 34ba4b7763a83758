"""Writes that are there whole or not at all, also when the process is killed, and that delete nobody's files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fit3d_ns.common.errors import InputError
from fit3d_ns.common.exchange import exchange, rename_to_free_name
from fit3d_ns.common.temporaries import Temporaries, sweep_leftovers, temporaries

Obstacle = Callable[[Path], str | None]
"""Says of what stands at a path why it must stay there ("is a file"), or None if it may be replaced."""


def anything(path: Path) -> str | None:
    """The `Obstacle` for those who replace nothing."""
    return "is there already" if os.path.lexists(path) else None


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is renamed over `path`, else removed."""
    with temporaries(path) as names:
        os.close(os.open(names.new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        yield names.new
        _sync(names.new)
        # Some writers make their files private; a result is as readable as any file that the user creates.
        names.new.chmod(0o666 & ~_umask())
        os.replace(names.new, path)


@contextmanager
def atomic_directory(path: Path, obstacle: Obstacle = anything) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the place of `path`, else it is removed.

    A folder that stood at `path` before is replaced as a whole, at once where the file system can swap two names.
    Elsewhere it is moved aside first; who is killed in that moment leaves both folders complete, and the next call for
    that folder (or `sweep_leftovers`) puts the new one in place. At no moment is there a mixture of the two.

    Args:
        path: of the folder to be.
        obstacle: asked before the work, before the replacement, and of what was replaced before that is deleted.

    Raises:
        InputError: something stands at `path` that must stay; then nothing was changed.
    """
    path = Path(os.path.abspath(path))
    sweep_leftovers(path.parent)
    require_no_obstacle(path, path, obstacle)
    with temporaries(path) as names:
        names.new.mkdir()
        yield names.new
        for file in sorted(names.new.rglob("*")):  # some writers (safetensors) make private files
            file.chmod((0o777 if file.is_dir() else 0o666) & ~_umask())
            _sync(file)
        _sync(names.new)
        _publish(names, path, obstacle)
        _sync(path.parent)


def require_no_obstacle(path: Path, named: Path, obstacle: Obstacle) -> None:
    """Raise `InputError` if what stands at `path` must stay; the message calls it `named`."""
    reason = obstacle(path)
    if reason is not None:
        raise InputError(f"{named} {reason}: nothing of it was touched; move it away, or give another name or folder.")


def _publish(names: Temporaries, path: Path, obstacle: Obstacle) -> None:
    if not os.path.lexists(path):
        try:
            rename_to_free_name(names.new, path)
        except FileExistsError:
            require_no_obstacle(path, path, anything)
        return
    require_no_obstacle(path, path, obstacle)
    # Whatever is swapped out is asked about once more before it is deleted: somebody may have come in between.
    if exchange(names.new, path):
        try:
            require_no_obstacle(names.new, path, obstacle)
        except BaseException:
            exchange(names.new, path)
            raise
        return
    names.old.mkdir()
    aside = names.old / path.name
    os.rename(path, aside)
    try:
        require_no_obstacle(aside, path, obstacle)
    except BaseException:
        os.rename(aside, path)
        raise
    rename_to_free_name(names.new, path)


def _sync(path: Path) -> None:
    """Have the system write a file or folder to disk, so that a rename never survives a power cut that it did not."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
