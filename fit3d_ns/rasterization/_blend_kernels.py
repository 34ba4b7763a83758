# mypy: disable-error-code=no-untyped-def
# Numba infers the types of these functions; shapes are in the docstrings.
"""Front-to-back blending of up to four channels per tile, forward and backward (Numba)."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from fit3d_ns.rasterization._binning_kernels import STRIDE, TILE
from fit3d_ns.rasterization._microkernels import aligned
from fit3d_ns.rasterization._part_kernels import part_range
from fit3d_ns.rasterization._row_kernels import (
    COLOR_PLANE,
    GRADIENT_PLANE,
    GRADS,
    PIXELS,
    PLANE,
    REST_PLANE,
    blend_colors,
    blend_colors_backward,
    live_rows,
)

F0 = np.float32(0.0)
F1 = np.float32(1.0)
HALF = np.float32(0.5)
# Finished rows are looked for every so many Gaussians.
CHECK_EVERY = 16
_FORWARD_STATE = COLOR_PLANE + 4 * PLANE
_BACKWARD_STATE = GRADIENT_PLANE + 4 * PLANE


@njit(cache=True, nogil=True, error_model="numpy")
def start_tile(state, x0, y0, width, height):
    """Transmittance 1 inside the image; pixels beyond its border start finished."""
    for r in range(TILE):
        for j in range(TILE):
            inside = y0 + r < height and x0 + j < width
            state[r * TILE + j] = F1 if inside else -F1


@njit(cache=True, nogil=True, error_model="numpy")
def _blend_range(start, stop, offsets, lists, packed, size, tile_w, background, image, final_t):
    width, height = size
    channels = image.shape[2]
    state = aligned(_FORWARD_STATE)
    live = np.empty(TILE, np.int64)
    for tile in range(start, stop):
        x0 = (tile % tile_w) * TILE
        y0 = (tile // tile_w) * TILE
        state[PIXELS:] = F0
        start_tile(state, x0, y0, width, height)
        fx0 = np.float32(x0) + HALF
        fy0 = np.float32(y0) + HALF
        for at in range(offsets[tile], offsets[tile + 1]):
            if (at - offsets[tile]) % CHECK_EVERY == 0 and live_rows(state, live) == 0:
                break
            blend_colors(packed, lists[at] * STRIDE, fx0, fy0, live, state)
        for r in range(min(TILE, height - y0)):
            for j in range(min(TILE, width - x0)):
                t = abs(state[r * TILE + j])
                final_t[y0 + r, x0 + j] = t
                for c in range(channels):
                    image[y0 + r, x0 + j, c] = state[COLOR_PLANE + c * PLANE + r * TILE + j] + t * background[c]


@njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def blend(bounds, offsets, lists, packed, size, tile_w, background, image, final_t):
    """image [H, W, 1..4] and final_t [H, W] of one camera."""
    for thread in prange(bounds.size - 1):
        part = np.int64(thread)
        _blend_range(bounds[part], bounds[part + 1], offsets, lists, packed, size, tile_w, background, image, final_t)


@njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def pack_colors(parts, ids, colors, packed):
    """Put up to four colour channels behind the geometry of each packed Gaussian, zero where there are fewer."""
    n = ids.size
    for thread in prange(parts):
        first, last = part_range(thread, parts, n)
        for i in range(first, last):
            for c in range(4):
                packed[i * STRIDE + 8 + c] = colors[ids[i], c] if c < colors.shape[1] else F0


@njit(cache=True, nogil=True, error_model="numpy")
def _backward_range(start, stop, offsets, lists, packed, size, tile_w, image, final_t, g_image, g_alpha, slots, grads):
    width, height = size
    channels = image.shape[2]
    state = aligned(_BACKWARD_STATE)
    live = np.empty(TILE, np.int64)
    for tile in range(start, stop):
        if offsets[tile] == offsets[tile + 1]:
            continue
        x0 = (tile % tile_w) * TILE
        y0 = (tile // tile_w) * TILE
        state[PIXELS:] = F0
        start_tile(state, x0, y0, width, height)
        for r in range(min(TILE, height - y0)):
            for j in range(min(TILE, width - x0)):
                at = r * TILE + j
                # `image` holds the background too: its part cancels against the background's part of d/dT.
                rest = -final_t[y0 + r, x0 + j] * g_alpha[y0 + r, x0 + j]
                for c in range(channels):
                    g = g_image[y0 + r, x0 + j, c]
                    state[GRADIENT_PLANE + c * PLANE + at] = g
                    rest += image[y0 + r, x0 + j, c] * g
                state[REST_PLANE + at] = rest
        fx0 = np.float32(x0) + HALF
        fy0 = np.float32(y0) + HALF
        for at in range(offsets[tile], offsets[tile + 1]):
            if (at - offsets[tile]) % CHECK_EVERY == 0 and live_rows(state, live) == 0:
                break
            i = lists[at]
            blend_colors_backward(packed, i * STRIDE, fx0, fy0, live, state, grads, slots[i])


@njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def blend_backward(bounds, offsets, lists, packed, size, tile_w, image, final_t, g_image, g_alpha, slots, grads):
    """grads [slots, 16] (flat): the sums that `scatter_gradients` turns into gradients; slots: see `part_slots`."""
    for thread in prange(bounds.size - 1):
        part = np.int64(thread)
        _backward_range(bounds[part], bounds[part + 1], offsets, lists, packed, size, tile_w, image, final_t, g_image,
                        g_alpha, slots[part], grads)  # fmt: skip


@njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def scatter_gradients(parts, ids, packed, slots, grads, g_means2d, g_abs, g_ldl, g_opacities, g_colors):
    """Sum the slots of each seen Gaussian in order and write its gradients; g_colors may have no channels."""
    n = ids.size
    for thread in prange(parts):
        total = np.empty(GRADS)
        first, last = part_range(thread, parts, n)
        for i in range(first, last):
            for c in range(GRADS):
                total[c] = grads[GRADS * i + c]
            for p in range(1, slots.shape[0]):
                if slots[p, i] >= ids.size:
                    for c in range(GRADS):
                        total[c] += grads[GRADS * slots[p, i] + c]
            g = ids[i]
            o = i * STRIDE
            a, k, d = 16.0 * packed[o + 2], np.float64(packed[o + 3]), 16.0 * packed[o + 4]
            g_ldl[g, 0] = 0.5 * total[2]
            g_ldl[g, 1] = a * total[4]
            g_ldl[g, 2] = 0.5 * total[5]
            g_means2d[g, 0] = a * total[1]
            g_means2d[g, 1] = a * k * total[1] + d * total[3]
            g_abs[g, 0] = total[6]
            g_abs[g, 1] = total[7]
            g_opacities[g] = -total[0] / np.float64(packed[o + 5])
            for c in range(g_colors.shape[1]):
                g_colors[g, c] = total[8 + c]
