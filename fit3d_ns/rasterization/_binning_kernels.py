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

from fit3d_ns.rasterization._part_kernels import part_range

TILE = 16
# A packed Gaussian: 0-1 mean, 2 a/16, 3 k, 4 d/16, 5 opacity, 6 s_max/8, 7 y reach, 8-11 colour.
# The exponent is stored divided by 8 because exp(-s) is evaluated as p(s/8)^8.
STRIDE = 12
MIN_ALPHA = 1.0 / 255.0
# The reach is widened by this many pixels; the blending kernels decide exactly.
_SLACK = 1e-2
# So many rows of tiles are looked at together: enough to fill vectors, and they stay in the first cache.
_BLOCK = 256
_FAST = {"contract", "nsz"}
_LOG_2 = math.log(2.0)
_SQRT_HALF = np.float64(math.sqrt(0.5)).view(np.uint64)


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


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _split(bits, exponents, mantissas):
    """Float64 bits of numbers from sqrt(1/2) on to exponent and mantissa in [sqrt(1/2), sqrt(2)), [n] each."""
    for i in range(bits.size):
        exponent = (bits[i] - _SQRT_HALF) >> np.uint64(52)
        exponents[i] = exponent
        mantissas[i] = bits[i] - (exponent << np.uint64(52))


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _reaches(exponents, mantissas, d, s_max, reach):
    """sigma at which alpha is 1 / 255, and how far from the mean in y that is, [n] each."""
    for i in range(d.size):
        # Logarithm as 2 artanh((m - 1) / (m + 1)): within 1e-12. A call of libm would keep the loop from vectors.
        z = (mantissas[i] - 1.0) / (mantissas[i] + 1.0)
        q = z * z
        series = 1.0 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11 + q * (1 / 13))))))
        s_max[i] = exponents[i] * _LOG_2 + 2.0 * z * series
        reach[i] = np.sqrt(max(2.0 * s_max[i], 0.0) / d[i]) + _SLACK


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _square(center, radius):
    """Range of tiles that gsplat's square reaches along one axis, in its float32."""
    return np.floor((center - radius) * np.float32(1 / TILE)), np.ceil((center + radius) * np.float32(1 / TILE))


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _rows_reached(y, radius, reach, tile_h, first_row, row_count):
    """Range of tile rows: gsplat's square, then the ellipse's own height; [n] each."""
    rows = np.float64(tile_h)
    for i in range(y.size):
        square_low, square_high = _square(y[i], radius[i])
        # Pixel centres lie at +0.5.
        center = np.float64(y[i]) - 0.5
        low = max(max(np.float64(square_low), np.floor((center - reach[i]) * (1 / TILE))), 0.0)
        high = min(min(np.float64(square_high), np.floor((center + reach[i]) * (1 / TILE)) + 1.0), rows)
        low = min(low, rows)
        first_row[i] = np.int32(low)
        row_count[i] = np.int32(max(high - low, 0.0))


@njit(cache=True, nogil=True, error_model="numpy")
def _pack_range(start, stop, ids, means2d, ldl, opacities, radii, tile_h, packed, first_row, row_count):
    scaled, d, exponents, s_max, reach = (np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK), np.empty(_BLOCK),
                                          np.empty(_BLOCK))  # fmt: skip
    y, radius = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    mantissas = np.empty(_BLOCK, np.uint64)
    for at in range(start, stop, _BLOCK):
        n = min(_BLOCK, stop - at)
        for i in range(n):
            g = ids[at + i]
            o = (at + i) * STRIDE
            packed[o] = means2d[g, 0]
            packed[o + 1] = means2d[g, 1]
            packed[o + 2] = ldl[g, 0] * np.float32(1 / 16)
            packed[o + 3] = ldl[g, 1]
            packed[o + 4] = ldl[g, 2] * np.float32(1 / 16)
            packed[o + 5] = opacities[g]
            scaled[i], d[i], y[i], radius[i] = 255.0 * np.float64(opacities[g]), ldl[g, 2], means2d[g, 1], radii[g]
        _split(scaled.view(np.uint64)[:n], exponents, mantissas)
        _reaches(exponents, mantissas.view(np.float64), d[:n], s_max, reach)
        _rows_reached(y[:n], radius, reach, tile_h, first_row[at : at + n], row_count[at : at + n])
        for i in range(n):
            o = (at + i) * STRIDE
            packed[o + 6] = s_max[i] / 8.0
            packed[o + 7] = reach[i]


@njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def pack(parts, ids, means2d, ldl, opacities, radii, tile_h, packed, first_row, row_count):
    """Gather the seen Gaussians of one camera in depth order; count the tile rows each reaches."""
    n = ids.size
    for thread in prange(parts):
        first, last = part_range(thread, parts, n)
        _pack_range(first, last, ids, means2d, ldl, opacities, radii, tile_h, packed, first_row, row_count)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _spans_of_rows(x, y, a, k, d, s, reach, radius, tile_row, height, tile_w, begin, end):
    """Range of tiles (row-major) that an ellipse reaches in one tile row, [n] each; one vector loop without branches.

    a, d and s as packed, float32. The arithmetic is float64: what long ellipses reach is a difference of large numbers.
    """
    columns = np.float64(tile_w)
    for i in range(x.size):
        mean_x, mean_y, shear = np.float64(x[i]), np.float64(y[i]), np.float64(k[i])
        hd, s_max = 8.0 * np.float64(d[i]), 8.0 * np.float64(s[i])
        by_ha, by_hd = 0.125 / np.float64(a[i]), 1.0 / hd
        # The rightmost point of the ellipse, relative to the mean: the leftmost is its mirror image.
        right_dy = -shear * by_hd * np.sqrt(s_max / (by_ha + shear * shear * by_hd))
        # Heights of the row's first and last pixel centres, as far as the ellipse goes.
        top = np.float64(tile_row[i] * TILE)
        low = max(top + 0.5 - mean_y, -np.float64(reach[i]))
        high = min(min(top + TILE, height) - 0.5 - mean_y, np.float64(reach[i]))
        right = min(max(right_dy, low), high)
        left = min(max(-right_dy, low), high)
        half_right = np.sqrt(max(s_max - hd * right * right, 0.0) * by_ha)
        half_left = np.sqrt(max(s_max - hd * left * left, 0.0) * by_ha)
        x_high = mean_x - shear * right + half_right + _SLACK
        x_low = mean_x - shear * left - half_left - _SLACK
        square_low, square_high = _square(x[i], radius[i])
        first = max(max(np.floor((x_low - 0.5) * (1 / TILE)), np.float64(square_low)), 0.0)
        last = min(min(np.floor((x_high - 0.5) * (1 / TILE)) + 1.0, np.float64(square_high)), columns)
        first = min(first, columns)
        last = max(last if low <= high else 0.0, first)
        begin[i] = tile_row[i] * tile_w + np.int32(first)
        end[i] = tile_row[i] * tile_w + np.int32(last)


@njit(cache=True, nogil=True, error_model="numpy")
def _spans_range(start, stop, ids, packed, radii, first_row, row_start, height, tile_w, spans, steps):
    rows = np.empty((8, _BLOCK + height // TILE + 1), np.float32)
    tile_rows = np.empty(rows.shape[1], np.int32)
    filled = 0
    for i in range(start, stop):
        o = i * STRIDE
        radius = np.float32(radii[ids[i]])
        for row in range(row_start[i + 1] - row_start[i]):
            rows[0, filled] = packed[o]
            rows[1, filled] = packed[o + 1]
            rows[2, filled] = packed[o + 2]
            rows[3, filled] = packed[o + 3]
            rows[4, filled] = packed[o + 4]
            rows[5, filled] = packed[o + 6]
            rows[6, filled] = packed[o + 7]
            rows[7, filled] = radius
            tile_rows[filled] = first_row[i] + row
            filled += 1
        if filled >= _BLOCK or i == stop - 1:
            at = row_start[i + 1] - filled
            begin, end = spans[0][at : at + filled], spans[1][at : at + filled]
            # One slice each: those of a slice of all rows would not count as contiguous.
            _spans_of_rows(rows[0][:filled], rows[1][:filled], rows[2][:filled], rows[3][:filled], rows[4][:filled],
                           rows[5][:filled], rows[6][:filled], rows[7][:filled], tile_rows[:filled], height, tile_w,
                           begin, end)  # fmt: skip
            for j in range(filled):
                steps[begin[j]] += 1
                steps[end[j]] -= 1
            filled = 0


@njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def tile_spans(parts, ids, packed, radii, first_row, row_start, height, tile_w, spans, steps):
    """For each Gaussian and tile row it reaches, the range of tiles; and where the lists of each part grow and shrink.

    spans: [2, rows], first tile and the one behind the last. steps: [parts, tiles + 1], zero before: the running total
    along a part is how many of its Gaussians each tile lists.
    """
    n = ids.size
    for thread in prange(parts):
        part = np.int64(thread)
        first, last = part_range(thread, parts, n)
        _spans_range(first, last, ids, packed, radii, first_row, row_start, height, tile_w, spans, steps[part])


@njit(cache=True, nogil=True, error_model="numpy")
def tile_offsets(steps):
    """Where each tile's list begins, [tiles + 1]; `steps` becomes where each part's share of it does."""
    parts, tiles = steps.shape[0], steps.shape[1] - 1
    offsets = np.empty(tiles + 1, np.int64)
    counts = np.zeros(parts, np.int64)
    total = 0
    for tile in range(tiles):
        offsets[tile] = total
        for part in range(parts):
            counts[part] += steps[part, tile]
            steps[part, tile] = total
            total += counts[part]
    offsets[tiles] = total
    return offsets


@njit(cache=True, nogil=True, error_model="numpy")
def _fill_range(start, stop, row_start, spans, cursors, lists):
    for i in range(start, stop):
        for row in range(row_start[i], row_start[i + 1]):
            for tile in range(spans[0, row], spans[1, row]):
                lists[cursors[tile]] = i
                cursors[tile] += 1


@njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def fill_tiles(parts, row_start, spans, cursors, lists):
    """Write packed indices into the tiles' lists, front to back; cursors: [parts, tiles + 1] of `tile_offsets`."""
    n = row_start.size - 1
    for thread in prange(parts):
        part = np.int64(thread)
        first, last = part_range(thread, parts, n)
        _fill_range(first, last, row_start, spans, cursors[part], lists)


@njit(cache=True, nogil=True, error_model="numpy")
def exclusive_sum(counts):
    """[n] -> [n + 1] int64 running totals, starting at 0."""
    out = np.zeros(counts.size + 1, np.int64)
    for i in range(counts.size):
        out[i + 1] = out[i] + counts[i]
    return out
