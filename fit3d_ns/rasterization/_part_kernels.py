# mypy: disable-error-code=no-untyped-def
# Numba infers the types of these functions; shapes are in the docstrings.
"""How the tiles of an image are divided among threads, and where each thread keeps its sums (Numba)."""

from __future__ import annotations

import numpy as np
from numba import njit, prange


@njit(cache=True, nogil=True, error_model="numpy")
def part_range(thread, parts, n):
    """First and one past the last of n things that are a thread's part.

    prange counts unsigned, and unsigned * int64 is a float in Numba: hence int64 here, and wherever a kernel indexes by
    the number of its part.
    """
    part = np.int64(thread)
    return n * part // parts, n * (part + 1) // parts


@njit(cache=True, nogil=True, error_model="numpy")
def balanced_ranges(parts, offsets):
    """Contiguous tile ranges [parts + 1] with about equally many list entries each (a tile itself counts 8)."""
    tiles = offsets.size - 1
    total = offsets[tiles] + 8 * tiles
    bounds = np.zeros(parts + 1, np.int64)
    tile = 0
    for part in range(1, parts):
        while tile < tiles and (offsets[tile] + 8 * tile) * parts < total * part:
            tile += 1
        bounds[part] = tile
    bounds[parts] = tiles
    return bounds


@njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def _mark_met(bounds, offsets, lists, slots):
    for thread in prange(bounds.size - 1):
        part = np.int64(thread)
        for entry in range(offsets[bounds[part]], offsets[bounds[part + 1]]):
            slots[part, lists[entry]] = 0


@njit(cache=True, nogil=True, error_model="numpy")
def part_slots(bounds, offsets, lists, n):
    """Where each part keeps its sums for n packed Gaussians: slots [parts, n], and how many there are.

    The first part that meets Gaussian i has slot i, others slots of their own from n on: no two parts share one, and
    memory stays near one gradient, as only Gaussians on the border between parts have more than one. -1: never met.
    """
    slots = np.full((bounds.size - 1, n), -1, np.int32)
    _mark_met(bounds, offsets, lists, slots)
    used = n
    for i in range(n):
        owned = False
        for part in range(slots.shape[0]):
            if slots[part, i] == 0:
                if owned:
                    slots[part, i] = used
                    used += 1
                else:
                    slots[part, i] = i
                    owned = True
    return slots, used
