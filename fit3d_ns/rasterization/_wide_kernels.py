# mypy: disable-error-code=no-untyped-def
# Numba infers the types of these functions; shapes are in the docstrings.
"""Blending of many channels: the weights of a tile once, then one matrix product per tile (Numba + BLAS).

For a tile with pixels p and Gaussians i:  image[p, :] = sum_i W[i, p] F[i, :].  W is found a chunk of
Gaussians at a time with the same arithmetic as `_blend_kernels` and BLAS does the rest:

    forward             image = W^T F
    gradient of F       gF = W G                    (G: gradient of the image)
    gradient of W       gW = F G^T, then the same front-to-back recursion as for colours
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from fit3d_ns.rasterization._binning_kernels import STRIDE, TILE
from fit3d_ns.rasterization._blend_kernels import (
    E0,
    E1,
    E2,
    E3,
    E4,
    E5,
    F0,
    F1,
    FAST,
    GRADS,
    HALF,
    LAST,
    MAX_ALPHA,
    MIN_T,
    PIXELS,
    SUM_PLANE,
    X_CLAMP,
    add_sums,
    carry_sums,
    clear_sums,
    live_rows,
    start_tile,
)

# Gaussians per matrix product: W is 256 KB then, which fits the second-level cache beside F.
CHUNK = 256
_MASK = CHUNK - 1
# State: transmittance, weights of one Gaussian, rest, gradient of its weights, and its eight planes of sums.
_W = PIXELS
_REST = 2 * PIXELS
_GW = 3 * PIXELS
_SUMS = 4 * PIXELS
_PLANES = 8
_STATE = _SUMS + _PLANES * SUM_PLANE


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _weights(o, packed, fx0, fy0, state, live):
    """Weights of one Gaussian for the 256 pixels into the state; False if it touches none."""
    mx = packed[o] - fx0
    my = packed[o + 1] - fy0
    ha = packed[o + 2]
    k = packed[o + 3]
    hd = packed[o + 4]
    opacity = packed[o + 5]
    x_max = packed[o + 6]
    reach = packed[o + 7]
    touched = False
    for r in range(int(max(my - reach, F0)), int(min(my + reach, LAST)) + 1):
        dy = my - np.float32(r)
        q = hd * dy * dy
        ux = mx + k * dy
        nearest = ux - min(max(ux, F0), LAST)
        if ha * nearest * nearest + q > x_max or live[r] == 0:
            continue
        if not touched:
            touched = True
            for j in range(PIXELS):
                state[_W + j] = F0
        b = (r & 15) * TILE
        for j in range(TILE):
            u = ux - np.float32(j)
            x = min(ha * u * u + q, X_CLAMP)
            e = E0 + x * (E1 + x * (E2 + x * (E3 + x * (E4 + x * E5))))
            e = e * e
            e = e * e
            e = e * e
            alpha = min(opacity * e, MAX_ALPHA)
            t = state[b + j]
            left = t - t * alpha
            hit = x <= x_max
            ok = hit & (left > MIN_T)
            state[_W + b + j] = t * alpha if ok else F0
            state[b + j] = left if ok else (-abs(t) if hit else t)
    return touched


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _weights_backward(i, packed, fx0, fy0, state, live, grads):
    """As `_weights`, and from the gradient of the weights the sums for the geometry gradient."""
    o = i * STRIDE
    mx = packed[o] - fx0
    my = packed[o + 1] - fy0
    ha = packed[o + 2]
    k = packed[o + 3]
    hd = packed[o + 4]
    opacity = packed[o + 5]
    x_max = packed[o + 6]
    reach = packed[o + 7]
    a = np.float32(16.0) * ha
    d = np.float32(16.0) * hd
    for j in range(PIXELS):
        state[_W + j] = F0
    bottom = 0
    for r in range(int(max(my - reach, F0)), int(min(my + reach, LAST)) + 1):
        dy = my - np.float32(r)
        q = hd * dy * dy
        ux = mx + k * dy
        nearest = ux - min(max(ux, F0), LAST)
        b = (r & 15) * TILE
        if ha * nearest * nearest + q > x_max or live[r] == 0:
            # A row without a touched pixel hands the sums on.
            if bottom > 0:
                carry_sums(state, _SUMS, b, _PLANES)
            continue
        if bottom == 0:
            clear_sums(state, _SUMS, b, _PLANES)
        bottom = r + 1
        s = _SUMS + b
        ddy = d * dy
        for j in range(TILE):
            u = ux - np.float32(j)
            x = min(ha * u * u + q, X_CLAMP)
            e = E0 + x * (E1 + x * (E2 + x * (E3 + x * (E4 + x * E5))))
            e = e * e
            e = e * e
            e = e * e
            raw = opacity * e
            alpha = min(raw, MAX_ALPHA)
            t = state[b + j]
            left = t - t * alpha
            hit = x <= x_max
            ok = hit & (left > MIN_T)
            w = t * alpha if ok else F0
            state[_W + b + j] = w
            state[b + j] = left if ok else (-abs(t) if hit else t)
            cg = state[_GW + b + j]
            rest = state[_REST + b + j] - w * cg
            state[_REST + b + j] = rest
            v = -raw * (t * cg - rest / (F1 - alpha))
            v = v if ok & (raw <= MAX_ALPHA) else F0
            vu = v * u
            vy = v * dy
            gx = a * vu
            state[s + TILE + j] = state[s + j] + v
            state[s + SUM_PLANE + TILE + j] = state[s + SUM_PLANE + j] + vu
            state[s + 2 * SUM_PLANE + TILE + j] = state[s + 2 * SUM_PLANE + j] + vu * u
            state[s + 3 * SUM_PLANE + TILE + j] = state[s + 3 * SUM_PLANE + j] + vy
            state[s + 4 * SUM_PLANE + TILE + j] = state[s + 4 * SUM_PLANE + j] + vu * dy
            state[s + 5 * SUM_PLANE + TILE + j] = state[s + 5 * SUM_PLANE + j] + vy * dy
            state[s + 6 * SUM_PLANE + TILE + j] = state[s + 6 * SUM_PLANE + j] + abs(gx)
            state[s + 7 * SUM_PLANE + TILE + j] = state[s + 7 * SUM_PLANE + j] + abs(k * gx + v * ddy)
    if bottom == 0:
        return False
    add_sums(state, _SUMS, bottom, _PLANES, grads, GRADS * i)
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def _wide_range(start, stop, offsets, lists, ids, packed, size, tile_w, colors, background, image, final_t):
    width, height = size
    channels = colors.shape[1]
    state = np.empty(_STATE, np.float32)
    live = np.empty(TILE, np.int64)
    weights = np.empty((CHUNK, PIXELS), np.float32)
    flat_weights = weights.reshape(CHUNK * PIXELS)
    features = np.empty((CHUNK, channels), np.float32)
    total = np.empty((PIXELS, channels), np.float32)
    product = np.empty((PIXELS, channels), np.float32)
    for tile in range(start, stop):
        x0 = (tile % tile_w) * TILE
        y0 = (tile // tile_w) * TILE
        start_tile(state, x0, y0, width, height)
        fx0 = np.float32(x0) + HALF
        fy0 = np.float32(y0) + HALF
        at = offsets[tile]
        empty = True
        while at < offsets[tile + 1] and live_rows(state, live) > 0:
            m = 0
            until = min(at + CHUNK, offsets[tile + 1])
            for entry in range(at, until):
                if (entry - at) % 32 == 31 and live_rows(state, live) == 0:
                    break
                i = lists[entry]
                if _weights(i * STRIDE, packed, fx0, fy0, state, live):
                    for j in range(PIXELS):
                        flat_weights[(m & _MASK) * PIXELS + j] = state[_W + j]
                    features[m, :] = colors[ids[i], :]
                    m += 1
            at = until
            if m == 0:
                continue
            if empty:
                np.dot(weights[:m].T, features[:m], total)
                empty = False
            else:
                np.dot(weights[:m].T, features[:m], product)
                total += product
        if empty:
            total[:, :] = F0
        for r in range(min(TILE, height - y0)):
            for j in range(min(TILE, width - x0)):
                t = abs(state[r * TILE + j])
                final_t[y0 + r, x0 + j] = t
                for c in range(channels):
                    image[y0 + r, x0 + j, c] = total[r * TILE + j, c] + t * background[c]


@njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def wide_blend(bounds, offsets, lists, ids, packed, size, tile_w, colors, background, image, final_t):
    """image [H, W, D] and final_t [H, W] of one camera from colors [N, D]."""
    for thread in prange(bounds.size - 1):
        part = np.int64(thread)  # prange counts unsigned, and unsigned * int64 is a float in Numba
        _wide_range(bounds[part], bounds[part + 1], offsets, lists, ids, packed, size, tile_w, colors, background,
                    image, final_t)  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def part_slots(bounds, offsets, lists, n):
    """Where each part keeps its sums: slots [parts, n], -1 for Gaussians the part never meets; and how many slots.

    Only Gaussians on the border between two parts get two slots, so memory stays near one gradient.
    """
    parts = bounds.size - 1
    slots = np.full((parts, n), -1, np.int32)
    used = 0
    for part in range(parts):
        for entry in range(offsets[bounds[part]], offsets[bounds[part + 1]]):
            i = lists[entry]
            if slots[part, i] < 0:
                slots[part, i] = used
                used += 1
    return slots, used


@njit(cache=True, nogil=True, error_model="numpy")
def _wide_backward_range(
    start,
    stop,
    offsets,
    lists,
    ids,
    packed,
    size,
    tile_w,
    colors,
    image,
    final_t,
    g_image,
    g_alpha,
    slots,
    g_features,
    grads,
    geometry,
):
    width, height = size
    channels = g_image.shape[2]
    state = np.empty(_STATE, np.float32)
    live = np.empty(TILE, np.int64)
    weights = np.empty((CHUNK, PIXELS), np.float32)
    flat_weights = weights.reshape(CHUNK * PIXELS)
    features = np.empty((CHUNK, channels), np.float32)
    g_weights = np.empty((CHUNK, PIXELS), np.float32)
    flat_g_weights = g_weights.reshape(CHUNK * PIXELS)
    product = np.empty((CHUNK, channels), np.float32)
    chosen = np.empty(CHUNK, np.int64)
    g_tile = np.empty((PIXELS, channels), np.float32)
    for tile in range(start, stop):
        if offsets[tile] == offsets[tile + 1]:
            continue
        x0 = (tile % tile_w) * TILE
        y0 = (tile // tile_w) * TILE
        start_tile(state, x0, y0, width, height)
        fx0 = np.float32(x0) + HALF
        fy0 = np.float32(y0) + HALF
        for r in range(TILE):
            for j in range(TILE):
                p = r * TILE + j
                state[_REST + p] = F0
                if y0 + r >= height or x0 + j >= width:
                    g_tile[p, :] = F0
                    continue
                g_tile[p, :] = g_image[y0 + r, x0 + j]
                if geometry:
                    rest = 0.0
                    for c in range(channels):
                        rest += image[y0 + r, x0 + j, c] * g_tile[p, c]
                    state[_REST + p] = rest - final_t[y0 + r, x0 + j] * g_alpha[y0 + r, x0 + j]
        at = offsets[tile]
        while at < offsets[tile + 1] and live_rows(state, live) > 0:
            m = 0
            until = min(at + CHUNK, offsets[tile + 1])
            if geometry:
                for entry in range(at, until):
                    features[entry - at, :] = colors[ids[lists[entry]], :]
                np.dot(features[: until - at], g_tile.T, g_weights[: until - at])
            for entry in range(at, until):
                if (entry - at) % 32 == 31 and live_rows(state, live) == 0:
                    break
                i = lists[entry]
                if geometry:
                    for j in range(PIXELS):
                        state[_GW + j] = flat_g_weights[((entry - at) & _MASK) * PIXELS + j]
                    if not _weights_backward(i, packed, fx0, fy0, state, live, grads):
                        continue
                elif not _weights(i * STRIDE, packed, fx0, fy0, state, live):
                    continue
                for j in range(PIXELS):
                    flat_weights[(m & _MASK) * PIXELS + j] = state[_W + j]
                chosen[m] = slots[i]
                m += 1
            at = until
            if m > 0:
                np.dot(weights[:m], g_tile, product[:m])
                for e in range(m):
                    for c in range(channels):
                        g_features[chosen[e], c] += product[e, c]


@njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def wide_blend_backward(
    bounds,
    offsets,
    lists,
    ids,
    packed,
    size,
    tile_w,
    colors,
    image,
    final_t,
    g_image,
    g_alpha,
    slots,
    g_features,
    grads,
    geometry,
):
    """g_features [slots, D] always; grads [parts, M * 12] (first 8 of 12 used) when `geometry`."""
    for thread in prange(bounds.size - 1):
        part = np.int64(thread)  # prange counts unsigned, and unsigned * int64 is a float in Numba
        _wide_backward_range(bounds[part], bounds[part + 1], offsets, lists, ids, packed, size, tile_w, colors, image,
                             final_t, g_image, g_alpha, slots[part], g_features, grads[part if geometry else 0],
                             geometry)  # fmt: skip


@njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def scatter_features(parts, ids, slots, g_features, g_colors):
    """g_colors [N, D]: the parts' sums of each seen Gaussian, added in order."""
    n = ids.size
    for thread in prange(parts):
        part = np.int64(thread)  # prange counts unsigned, and unsigned * int64 is a float in Numba
        for i in range(n * part // parts, n * (part + 1) // parts):
            for p in range(slots.shape[0]):
                if slots[p, i] >= 0:
                    for c in range(g_colors.shape[1]):
                        g_colors[ids[i], c] += g_features[slots[p, i], c]


@njit(cache=True, nogil=True, error_model="numpy")
def count_pairs(offsets, lists, packed, size):
    """How many (pixel, Gaussian) pairs have a weight: the useful work of blending, for benchmarks."""
    width, height = size
    tile_w = (width + TILE - 1) // TILE
    state = np.empty(_STATE, np.float32)
    live = np.ones(TILE, np.int64)
    pairs = 0
    for tile in range(offsets.size - 1):
        x0 = (tile % tile_w) * TILE
        y0 = (tile // tile_w) * TILE
        start_tile(state, x0, y0, width, height)
        for entry in range(offsets[tile], offsets[tile + 1]):
            o = lists[entry] * STRIDE
            if _weights(o, packed, np.float32(x0) + HALF, np.float32(y0) + HALF, state, live):
                for j in range(PIXELS):
                    if state[_W + j] > F0:
                        pairs += 1
    return pairs
