# mypy: disable-error-code=no-untyped-def
# Numba infers the types of these functions; shapes are in the docstrings.
"""From projected ellipses to depth-ordered lists per 16x16 tile (Numba).

One global depth sort, then a counting sort into tiles in which every thread counts and places its own share of the
Gaussians, behind those of the threads before it: the result does not depend on the number of threads. A Gaussian is
listed in a tile iff gsplat 1.4.0 would list it there (the square of its 3-sigma radius touches the tile) and its
ellipse alpha = 1/255 reaches a pixel centre of the tile, so what is left out contributes nothing in gsplat either.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

TILE = 16
# A packed Gaussian: 0-1 mean, 2 a/16, 3 k, 4 d/16, 5 opacity, 6 s_max/8, 7 y reach, 8-11 colour.
# The exponent is stored divided by 8 because exp(-s) is evaluated as p(s/8)^8.
STRIDE = 12
MIN_ALPHA = 1.0 / 255.0
# The reach is widened by this many pixels; the blending kernels decide exactly.
_SLACK = 1e-2


@njit(cache=True, nogil=True, error_model="numpy")
def depth_order(depths, radii, opacities):
    """Indices of the Gaussians that can be seen, front to back; equal depths in index order (as gsplat).

    depths: [N] as uint32 bit patterns: positive floats sort like their bits.
    """
    n = 0
    for i in range(depths.size):
        if radii[i] > 0 and opacities[i] >= MIN_ALPHA:
            n += 1
    keys = np.empty(n, np.uint32)
    ids = np.empty(n, np.int32)
    n = 0
    histogram = np.zeros((3, 2048), np.int64)
    for i in range(depths.size):
        if radii[i] > 0 and opacities[i] >= MIN_ALPHA:
            key = depths[i]
            keys[n] = key
            ids[n] = i
            histogram[0, key & 2047] += 1
            histogram[1, (key >> 11) & 2047] += 1
            histogram[2, key >> 22] += 1
            n += 1
    other_keys = np.empty(n, np.uint32)
    other_ids = np.empty(n, np.int32)
    for digit in range(3):
        total = 0
        for b in range(2048):
            count = histogram[digit, b]
            histogram[digit, b] = total
            total += count
        for i in range(n):
            b = (keys[i] >> (11 * digit)) & 2047
            to = histogram[digit, b]
            histogram[digit, b] = to + 1
            other_keys[to] = keys[i]
            other_ids[to] = ids[i]
        keys, other_keys = other_keys, keys
        ids, other_ids = other_ids, ids
    return ids


@njit(cache=True, nogil=True, error_model="numpy")
def _pack_range(start, stop, ids, means2d, ldl, opacities, radii, tile_h, packed, first_row, row_count):
    for i in range(start, stop):
        g = ids[i]
        a, k, d = np.float64(ldl[g, 0]), ldl[g, 1], np.float64(ldl[g, 2])
        s_max = math.log(255.0 * np.float64(opacities[g]))
        reach = math.sqrt(2.0 * s_max / d) + _SLACK
        o = i * STRIDE
        packed[o] = means2d[g, 0]
        packed[o + 1] = means2d[g, 1]
        packed[o + 2] = a / 16.0
        packed[o + 3] = k
        packed[o + 4] = d / 16.0
        packed[o + 5] = opacities[g]
        packed[o + 6] = s_max / 8.0
        packed[o + 7] = reach
        y = means2d[g, 1]
        radius = np.float32(radii[g])
        # gsplat's square, then the ellipse's own height (pixel centres lie at +0.5).
        low = max(math.floor((y - radius) / np.float32(TILE)), math.floor((y - reach - 0.5) / TILE))
        high = min(math.ceil((y + radius) / np.float32(TILE)), math.floor((y + reach - 0.5) / TILE) + 1)
        low = max(low, 0)
        high = min(high, tile_h)
        first_row[i] = low
        row_count[i] = max(high - low, 0)


@njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def pack(parts, ids, means2d, ldl, opacities, radii, tile_h, packed, first_row, row_count):
    """Gather the seen Gaussians of one camera in depth order; count the tile rows each reaches."""
    n = ids.size
    for thread in prange(parts):
        part = np.int64(thread)  # prange counts unsigned, and unsigned * int64 is a float in Numba
        _pack_range(n * part // parts, n * (part + 1) // parts, ids, means2d, ldl, opacities, radii, tile_h, packed,
                    first_row, row_count)  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def _spans_range(start, stop, ids, packed, radii, first_row, row_start, height, tile_w, spans, counts):
    for i in range(start, stop):
        o = i * STRIDE
        x, y = np.float64(packed[o]), np.float64(packed[o + 1])
        ha, k, hd = 8.0 * packed[o + 2], np.float64(packed[o + 3]), 8.0 * packed[o + 4]
        s_max = 8.0 * packed[o + 6]
        reach = np.float64(packed[o + 7])
        radius = np.float32(radii[ids[i]])
        square_low = max(math.floor((packed[o] - radius) / np.float32(TILE)), 0)
        square_high = min(math.ceil((packed[o] + radius) / np.float32(TILE)), tile_w)
        # The rightmost point of the ellipse, relative to the mean: the leftmost is its mirror image.
        by_ha, by_hd = 1.0 / ha, 1.0 / hd
        cov_xx = 0.5 * by_ha + 0.5 * k * k * by_hd
        right_dy = -k * by_hd * math.sqrt(0.5 * s_max / cov_xx)
        for row in range(row_start[i + 1] - row_start[i]):
            ty = first_row[i] + row
            low = max(ty * TILE + 0.5 - y, -reach)
            high = min(min(ty * TILE + TILE, height) - 0.5 - y, reach)
            begin = 0
            end = 0
            if low <= high:
                dy = min(max(right_dy, low), high)
                x_high = x - k * dy + math.sqrt(max(s_max - hd * dy * dy, 0.0) * by_ha) + _SLACK
                dy = min(max(-right_dy, low), high)
                x_low = x - k * dy - math.sqrt(max(s_max - hd * dy * dy, 0.0) * by_ha) - _SLACK
                begin = max(math.floor(max(x_low - 0.5, -1e6) / TILE), square_low)
                end = min(math.floor(min(x_high - 0.5, 1e9) / TILE) + 1, square_high)
            at = 2 * (row_start[i] + row)
            spans[at] = begin
            spans[at + 1] = max(begin, end)
            for tile in range(ty * tile_w + begin, ty * tile_w + end):
                counts[tile] += 1


@njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def tile_spans(parts, ids, packed, radii, first_row, row_start, height, tile_w, spans, counts):
    """For each Gaussian and tile row it reaches, the range [begin, end) of tile columns; counts them per part and tile.

    counts: [parts, tiles], zero before.
    """
    n = ids.size
    for thread in prange(parts):
        part = np.int64(thread)  # prange counts unsigned, and unsigned * int64 is a float in Numba
        _spans_range(n * part // parts, n * (part + 1) // parts, ids, packed, radii, first_row, row_start, height,
                     tile_w, spans, counts[part])  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def tile_offsets(counts):
    """Where each tile's list begins, [tiles + 1]; `counts` becomes where each part's share of it does."""
    parts, tiles = counts.shape
    offsets = np.empty(tiles + 1, np.int64)
    total = 0
    for tile in range(tiles):
        offsets[tile] = total
        for part in range(parts):
            count = counts[part, tile]
            counts[part, tile] = total
            total += count
    offsets[tiles] = total
    return offsets


@njit(cache=True, nogil=True, error_model="numpy")
def _fill_range(start, stop, first_row, row_start, spans, tile_w, cursors, lists):
    for i in range(start, stop):
        for row in range(row_start[i + 1] - row_start[i]):
            at = 2 * (row_start[i] + row)
            start = (first_row[i] + row) * tile_w
            for tile in range(start + spans[at], start + spans[at + 1]):
                lists[cursors[tile]] = i
                cursors[tile] += 1


@njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def fill_tiles(parts, first_row, row_start, spans, tile_w, cursors, lists):
    """Write packed indices into the tiles' lists, front to back; cursors: [parts, tiles] of `tile_offsets`."""
    n = first_row.size
    for thread in prange(parts):
        part = np.int64(thread)  # prange counts unsigned, and unsigned * int64 is a float in Numba
        _fill_range(n * part // parts, n * (part + 1) // parts, first_row, row_start, spans, tile_w, cursors[part],
                    lists)  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def exclusive_sum(counts):
    """[n] -> [n + 1] int64 running totals, starting at 0."""
    out = np.zeros(counts.size + 1, np.int64)
    for i in range(counts.size):
        out[i + 1] = out[i] + counts[i]
    return out


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
        part = np.int64(thread)  # prange counts unsigned, and unsigned * int64 is a float in Numba
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
