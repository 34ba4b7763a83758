"""Memory of large maps, used again.

A map of many channels at full size takes hundreds of megabytes. Fresh from the system, every page of it is found and
zeroed at its first touch, which can take longer than the rendering. So what a large map leaves is kept for the next
one, as CUDA's allocators do; arrays below the limit of `rasterization.allocator` are reused by the C library itself.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np

LARGE = 32 << 20
"""Bytes from which on arrays are pooled."""
KEPT_IN_ALL = 1 << 30
"""Bytes that the pool holds at most while nobody uses them."""
_WASTE = 1.25
"""A buffer serves arrays down to its size divided by this."""

_free: list[np.ndarray[Any, Any]] = []
"""Anybody may append at any time; only who holds `_taking` may remove."""
_taking = threading.Lock()


class _Lease:
    """Owns a buffer as long as an array (or a tensor made of it) refers to it; then the buffer goes to the pool."""

    def __init__(self, buffer: np.ndarray[Any, Any]) -> None:
        self._buffer = buffer
        self.__array_interface__ = buffer.__array_interface__

    def __del__(self) -> None:
        # A garbage collection runs this at any allocation, also at one of a thread that holds the lock: never wait.
        _free.append(self._buffer)
        _drop_excess()


def empty(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """An uninitialised float32 array of that shape."""
    size = math.prod(shape)
    if 4 * size < LARGE:
        return np.empty(shape, np.float32)
    lease = _Lease(_take(size))
    return np.asarray(lease)[:size].reshape(shape)


def zeros(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A float32 array of zeros. (np.zeros would take fresh memory in small pages.)"""
    array = empty(*shape)
    array.fill(0)
    return array


def _take(size: int) -> np.ndarray[Any, Any]:
    taken = None
    with _taking:
        fitting = [i for i, buffer in enumerate(_free) if size <= buffer.size <= _WASTE * size]
        if fitting:
            taken = _free.pop(min(fitting, key=lambda i: _free[i].size))
    _drop_excess()  # of leases that ended while the lock was held
    # NumPy asks for huge pages; torch's memory comes in pages of 4 KB.
    return np.empty(size, np.float32) if taken is None else taken


def _drop_excess() -> None:
    """Forget the oldest free buffers beyond the bound, unless somebody is removing some just now."""
    if not _taking.acquire(blocking=False):
        return
    try:
        while sum(buffer.nbytes for buffer in _free) > KEPT_IN_ALL:
            _free.pop(0)
    finally:
        _taking.release()
