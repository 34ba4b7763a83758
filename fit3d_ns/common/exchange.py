"""Renames that the standard library lacks: two names swapped at once, and a rename that replaces nothing."""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache
from pathlib import Path
from typing import Any

_AT_FDCWD = -100
_NOREPLACE, _EXCHANGE = 1, 2  # of renameat2(2)
_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


def exchange(first: Path, second: Path) -> bool:
    """Swap what stands at two paths in one step, so that neither name is ever free.

    Returns:
        Whether it was done; False where the system or the file system cannot.

    Raises:
        OSError: one of them is missing, or the folder cannot be written.
    """
    return _renameat2(first, second, _EXCHANGE)


def rename_to_free_name(source: Path, target: Path) -> None:
    """Rename, unless anything stands at `target` already (`os.rename` takes the place of an empty folder).

    Raises:
        FileExistsError: something does.
    """
    if _renameat2(source, target, _NOREPLACE):
        return
    # Where the system has no such call, another process can still step in between these two lines.
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.rename(source, target)


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    call = _system_call()
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(source), None, str(target))


@cache
def _system_call() -> Any:
    """renameat2 of the C library; None where there is none (macOS, old Linux)."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    call.restype = ctypes.c_int
    return call
