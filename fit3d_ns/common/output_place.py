"""Where results go, found fit before the work begins: it can be written, and no file of a user's is in the way."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from fit3d_ns.common.atomic import atomic_file
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.temporaries import NoFilesThereError, retry_pauses, sweep_leftovers, temporaries

_TRIED_BYTES = 1 << 16


def require_writable(
    folder: Path, option: str = "--output-dir", name: str | None = None, needed_bytes: int = 0
) -> None:
    """Check that a folder can be made and written by doing so; what was made for it is removed again.

    On the way, what processes that were killed left in the folder is swept.

    Args:
        folder: the output folder to be.
        option: that named it, for the message.
        name: of a file or folder that is to be in it.
        needed_bytes: what will be written at least.

    Raises:
        InputError: it cannot: a file in the way, no permission, a read-only or full disk, a name too long, /proc ...
    """
    pauses = retry_pauses()
    while True:
        try:
            _try_to_write(Path(os.path.abspath(folder)), name, needed_bytes)
            return
        except (OSError, ValueError) as error:
            # Another command that tried the same place may just have taken its empty folder away.
            gone = isinstance(error, FileNotFoundError) and not isinstance(error, NoFilesThereError)
            pause = next(pauses, None) if gone else None
            if pause is None:
                raise InputError(f"{option} {folder}: {_explained(error, folder)}; give another place.") from error
            time.sleep(pause)


def _try_to_write(folder: Path, name: str | None, needed_bytes: int) -> None:
    made: list[Path] = []
    try:
        for part in reversed((folder, *folder.parents)):
            if not part.is_dir() and _make(part):
                made.append(part)
        if not made:
            sweep_leftovers(folder)
        if name is not None:
            with suppress(FileNotFoundError):
                os.lstat(folder / name)  # says when a name is too long
        with temporaries(folder / "write-test") as names, open(names.new, "wb") as file:
            file.write(bytes(_TRIED_BYTES))
            file.flush()
            os.fsync(file.fileno())
        free = shutil.disk_usage(folder).free
        if free < needed_bytes:
            raise OSError(f"about {needed_bytes / 1e6:.0f} MB will be written, and {free / 1e6:.0f} MB are free there")
    finally:
        for part in reversed(made):
            with suppress(OSError):  # somebody else has begun to write there
                part.rmdir()


def _make(folder: Path) -> bool:
    """Make a folder; False if another process did so first."""
    try:
        folder.mkdir()
    except FileExistsError:
        if folder.is_dir():
            return False
        if not os.path.lexists(folder):
            raise FileNotFoundError(f"{folder} came and went") from None
        raise
    return True


def _explained(error: OSError | ValueError, folder: Path) -> str:
    if isinstance(error, FileExistsError | NotADirectoryError):
        folder = Path(os.path.abspath(folder))
        for part in reversed((folder, *folder.parents)):
            if os.path.lexists(part) and not part.is_dir():
                return f"{part} is {'a dangling link' if part.is_symlink() else 'a file'}, not a folder"
    if isinstance(error, FileNotFoundError):
        return "no files can be made there"
    return f"it cannot be written ({getattr(error, 'strerror', None) or error})"


def free_bytes(folder: Path) -> int:
    """What is free on the disk that a folder is on, or will be."""
    place = next(part for part in (folder, *folder.absolute().parents) if part.exists())
    return shutil.disk_usage(place).free


def marker_file(command: str) -> str:
    """Name of the file by which a folder says that `command` writes there."""
    return f".{command}"


def require_own_files(
    folder: Path, writes: Collection[str], command: str, is_ours: Callable[[Path], bool], option: str = "--output-dir"
) -> None:
    """Check that a command would replace no file in `folder` that it did not write.

    Args:
        folder: the output folder; it need not be there.
        writes: names of all files that the command writes in it, with forward slashes.
        command: e.g. "fit3d-probe".
        is_ours: whether a folder without the marker (of release 0.1) is the command's all the same.
        option: that named the folder, for the message.

    Raises:
        InputError: something stands at one of these names, and is not the command's own file.
    """
    present = [name for name in writes if os.path.lexists(folder / name)]
    if not present:
        return
    for name in present:
        if not stat.S_ISREG(os.lstat(folder / name).st_mode):
            raise InputError(f"{option} {folder}: {folder / name} is no regular file; give another place.")
    if not (folder / marker_file(command)).is_file() and not is_ours(folder):
        raise InputError(
            f"{option} {folder}: {folder / present[0]} is there already and {command} did not write it, but would "
            "replace it; give another place."
        )


def mark_own_folder(folder: Path, command: str) -> None:
    """Let `folder` say, before the first file is written to it, that `command` may replace its own files there."""
    marker = folder / marker_file(command)
    if not marker.is_file():
        with atomic_file(marker) as temporary:
            temporary.write_text(f"{command} writes its results here, and replaces those that it wrote before.\n")


def default_cache_dir() -> Path:
    """$FIT3D_CACHE_DIR, else ~/.cache/fit3d."""
    return Path(os.environ.get("FIT3D_CACHE_DIR") or "~/.cache/fit3d").expanduser()


def prepare_cache_folder(folder: Path) -> None:
    """Make the folder of a cache, and sweep out what killed runs left half-written.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep_leftovers(folder)
    except OSError as error:
        raise InputError(
            f"The cache folder {folder} cannot be used ({error}): set FIT3D_CACHE_DIR to another place."
        ) from error
