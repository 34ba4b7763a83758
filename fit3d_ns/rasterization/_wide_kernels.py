# mypy: disable-error-code=no-untyped-def
# Numba infers the types of these functions; shapes are in the docstrings.
"""Blending of many channels: weights first, then products over the half rows that a Gaussian reaches (Numba).

For a tile with pixels p and Gaussians i:  image[p, :] = sum_i W[i, p] F[i, :].  W is found a chunk of Gaussians at a
time with the same arithmetic as `_blend_kernels` and kept as lists, one per half row (8 pixels), of the Gaussians that
reach it: most of what they hold is not zero, while of whole tiles most is. `_microkernels` multiplies them:

    forward             image = W^T F           add_outer
    gradient of F       gF = W G                add_inner      (G: gradient of the image)
    gradient of W       gW = F G^T              dot_channels, then the same front-to-back recursion as for colours

Features have at least `FEWEST_CHANNELS` channels (the caller pads them with zeros), images any number up to theirs.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from fit3d_ns.rasterization._binning_kernels import STRIDE, TILE
from fit3d_ns.rasterization._blend_kernels import F0, HALF, start_tile
from fit3d_ns.rasterization._microkernels import (
    HALF_ROW,
    LANES,
    LISTS,
    add_inner,
    add_outer,
    aligned,
    copy_row,
    dot_channels,
    dot_row,
    prefetch_row,
    transpose_row,
    write_pixel,
)
from fit3d_ns.rasterization._part_kernels import part_range
from fit3d_ns.rasterization._row_kernels import (
    PIXELS,
    REST_PLANE,
    collect_weights,
    collect_weights_backward,
    live_rows,
    reached_rows,
)

FEWEST_CHANNELS = LANES
# Gaussians of one turn: their weights take 128 KB at most, which fit the second-level cache beside F.
CHUNK = 128
STATE = REST_PLANE + PIXELS
# Finished rows are looked for every so many Gaussians.
_CHECK_EVERY = 32


@njit(cache=True, nogil=True, error_model="numpy")
def collect_chunk(begin, end, lists, targets, packed, fx0, fy0, live, state, rows, counts, weights, table, width):
    """Weights of a chunk of a tile's Gaussians, as one list per half row (see `_microkernels.add_outer`).

    Args:
        begin, end: range of `lists`, at most CHUNK long.
        targets: [CHUNK] int32, what to write into `rows` for each of them.
        state: its transmittance moves on.
        rows, counts, weights: [32 * CHUNK], [32], [32 * CHUNK * 8], written.
        table, width: the array of that many columns whose rows the targets are; they are fetched meanwhile.
    """
    counts[:] = 0
    for entry in range(begin, end):
        prefetch_row(table, targets[entry - begin] * width, width)
        if (entry - begin) % _CHECK_EVERY == _CHECK_EVERY - 1 and live_rows(state, live) == 0:
            break
        collect_weights(packed, lists[entry] * STRIDE, fx0, fy0, live, state, targets[entry - begin], CHUNK, rows,
                        counts, weights)  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def _weight_gradients(begin, end, lists, ids, packed, fx0, fy0, features, across, channels, rows, reached, g_weights):
    """Gradients of the weights of a chunk: g_weights [16, CHUNK, 16], as `collect_weights_backward` takes them.

    across [16, channels, 16]: the image's gradient, pixels last.
    """
    reached[:] = 0
    for entry in range(begin, end):
        i = lists[entry]
        reached_rows(packed, i * STRIDE, fx0, fy0, ids[i], CHUNK, rows, reached)
    for r in range(TILE):
        if reached[r] > 0:
            dot_channels(features, rows, r * CHUNK, reached[r], across, r * TILE * channels, channels, g_weights,
                         r * CHUNK * TILE)  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def _collect_chunk_backward(begin, end, lists, slots, targets, packed, fx0, fy0, live, state, rows, counts, weights,
                            g_weights, reached, grads):  # fmt: skip
    counts[:] = 0
    reached[:] = 0
    for entry in range(begin, end):
        if (entry - begin) % _CHECK_EVERY == _CHECK_EVERY - 1 and live_rows(state, live) == 0:
            break
        i = lists[entry]
        collect_weights_backward(packed, i * STRIDE, fx0, fy0, live, state, targets[entry - begin], CHUNK, rows, counts,
                                 weights, g_weights, reached, grads, slots[i])  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def _wide_range(start, stop, offsets, lists, ids, packed, size, tile_w, colors, background, image, final_t):
    width, height = size
    channels, padded = image.shape[2], colors.shape[1]
    state = aligned(STATE)
    live = np.empty(TILE, np.int64)
    targets = np.empty(CHUNK, np.int32)
    rows, counts = np.empty(LISTS * CHUNK, np.int32), np.empty(LISTS, np.int64)
    weights = aligned(LISTS * CHUNK * HALF_ROW)
    total = aligned(PIXELS * padded)
    features, pixels = colors.reshape(colors.size), image.reshape(image.size)
    for tile in range(start, stop):
        x0 = (tile % tile_w) * TILE
        y0 = (tile // tile_w) * TILE
        start_tile(state, x0, y0, width, height)
        total[:] = F0
        at = offsets[tile]
        while at < offsets[tile + 1] and live_rows(state, live) > 0:
            until = min(at + CHUNK, offsets[tile + 1])
            for entry in range(at, until):
                targets[entry - at] = ids[lists[entry]]
            collect_chunk(at, until, lists, targets, packed, np.float32(x0) + HALF, np.float32(y0) + HALF, live, state,
                          rows, counts, weights, features, padded)  # fmt: skip
            add_outer(weights, rows, counts, CHUNK, features, padded, total)
            at = until
        for r in range(min(TILE, height - y0)):
            for j in range(min(TILE, width - x0)):
                t = abs(state[r * TILE + j])
                final_t[y0 + r, x0 + j] = t
                at = ((y0 + r) * width + x0 + j) * channels
                if channels == padded:
                    write_pixel(total, (r * TILE + j) * padded, t, background, pixels, at, channels)
                else:
                    for c in range(channels):
                        pixels[at + c] = total[(r * TILE + j) * padded + c] + t * background[c]


@njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def wide_blend(bounds, offsets, lists, ids, packed, size, tile_w, colors, background, image, final_t):
    """image [H, W, D] and final_t [H, W] of one camera from colors [N, at least D]."""
    for thread in prange(bounds.size - 1):
        part = np.int64(thread)
        _wide_range(bounds[part], bounds[part + 1], offsets, lists, ids, packed, size, tile_w, colors, background,
                    image, final_t)  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def _load_gradient(x0, y0, size, channels, padded, image, final_t, g_image, g_alpha, geometry, g_tile, state):
    """The gradient of a tile, zero outside the image; with `geometry` also what is left of (colour . gradient).

    image, g_image: flat [H * W * channels].
    """
    width, height = size
    if padded > channels or y0 + TILE > height or x0 + TILE > width:
        g_tile[:] = F0
    for r in range(min(TILE, height - y0)):
        for j in range(min(TILE, width - x0)):
            p = r * TILE + j
            at = ((y0 + r) * width + x0 + j) * channels
            rest = F0
            if padded == channels:
                copy_row(g_image, at, g_tile, p * padded, channels)
                if geometry:
                    rest = dot_row(image, at, g_image, at, channels)
            else:
                for c in range(channels):
                    g_tile[p * padded + c] = g_image[at + c]
                    rest += image[at + c] * g_image[at + c]
            state[REST_PLANE + p] = rest - final_t[y0 + r, x0 + j] * g_alpha[y0 + r, x0 + j]


@njit(cache=True, nogil=True, error_model="numpy")
def _wide_backward_range(start, stop, offsets, lists, ids, packed, size, tile_w, colors, image, final_t, g_image,
                         g_alpha, slots, g_features, grads, geometry):  # fmt: skip
    width, height = size
    channels, padded = g_image.shape[2], g_features.shape[1]
    state = aligned(STATE)
    live = np.empty(TILE, np.int64)
    targets = np.empty(CHUNK, np.int32)
    rows, counts = np.empty(LISTS * CHUNK, np.int32), np.empty(LISTS, np.int64)
    weights = aligned(LISTS * CHUNK * HALF_ROW)
    g_tile = aligned(PIXELS * padded)
    across = aligned(PIXELS * padded if geometry else 0)
    g_weights = aligned(TILE * CHUNK * TILE if geometry else 0)
    reached_by, reached = np.empty(TILE * CHUNK, np.int32), np.empty(TILE, np.int64)
    features, sums = colors.reshape(colors.size), g_features.reshape(g_features.size)
    pixels, g_pixels = image.reshape(image.size), g_image.reshape(g_image.size)
    behind = colors.shape[0] - ids.size
    for tile in range(start, stop):
        if offsets[tile] == offsets[tile + 1]:
            continue
        x0 = (tile % tile_w) * TILE
        y0 = (tile // tile_w) * TILE
        fx0 = np.float32(x0) + HALF
        fy0 = np.float32(y0) + HALF
        start_tile(state, x0, y0, width, height)
        _load_gradient(x0, y0, size, channels, padded, pixels, final_t, g_pixels, g_alpha, geometry, g_tile, state)
        if geometry:
            for r in range(TILE):
                transpose_row(g_tile, r * TILE * padded, padded, across, r * TILE * padded)
        at = offsets[tile]
        while at < offsets[tile + 1] and live_rows(state, live) > 0:
            until = min(at + CHUNK, offsets[tile + 1])
            for entry in range(at, until):
                # Slots of the packed Gaussians' own come first, see `part_slots`; so do all Gaussians' own rows.
                slot = slots[lists[entry]]
                targets[entry - at] = ids[slot] if slot < ids.size else slot + behind
            if geometry:
                _weight_gradients(at, until, lists, ids, packed, fx0, fy0, features, across, padded, reached_by,
                                  reached, g_weights)  # fmt: skip
                _collect_chunk_backward(at, until, lists, slots, targets, packed, fx0, fy0, live, state, rows, counts,
                                        weights, g_weights, reached, grads)  # fmt: skip
            else:
                collect_chunk(at, until, lists, targets, packed, fx0, fy0, live, state, rows, counts, weights, sums,
                              padded)  # fmt: skip
            add_inner(weights, rows, counts, CHUNK, g_tile, padded, sums)
            at = until


@njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def wide_blend_backward(bounds, offsets, lists, ids, packed, size, tile_w, colors, image, final_t, g_image, g_alpha,
                        slots, g_features, grads, geometry):  # fmt: skip
    """Sums of all parts, by their slots.

    g_features [N + used - M, D]: rows of the Gaussians, then of the slots behind the M packed ones' own; grads [used,
    16] (flat, the first 8 used) when `geometry`.
    """
    for thread in prange(bounds.size - 1):
        part = np.int64(thread)
        _wide_backward_range(bounds[part], bounds[part + 1], offsets, lists, ids, packed, size, tile_w, colors, image,
                             final_t, g_image, g_alpha, slots[part], g_features, grads, geometry)  # fmt: skip


@njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def add_slots(parts, ids, slots, g_features, n):
    """Add the rows of g_features behind the first n to their Gaussians' rows, part after part."""
    behind = n - ids.size
    for thread in prange(parts):
        first, last = part_range(thread, parts, ids.size)
        for i in range(first, last):
            for p in range(1, slots.shape[0]):
                if slots[p, i] >= ids.size:
                    for c in range(g_features.shape[1]):
                        g_features[ids[i], c] += g_features[slots[p, i] + behind, c]
