# mypy: disable-error-code=no-untyped-def
# Numba infers the types of these functions; shapes are in the docstrings.
"""Front-to-back blending of up to four channels per tile, forward and backward (Numba).

3DGS eq. 3 with gsplat 1.4.0's constants: alpha is clamped at 0.999, contributions below 1/255 are skipped,
a pixel ends before the Gaussian that would bring its transmittance to 1e-4 or less.

A row of a tile is 16 pixels, one AVX-512 register. LLVM vectorises the inner loops only when all state lives
in one flat buffer at constant distances: with 2-D indexing or several arrays it must assume that they alias.
The transmittance of a finished pixel is kept with a minus sign, which makes every later test on it fail.

The backward pass walks front to back too: transmittance and alpha come out exactly as in the forward pass,
and what lies behind a Gaussian is the pixel's final colour less what has been blended so far.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from fit3d_ns.rasterization._binning_kernels import STRIDE, TILE

# No NaN or infinity assumptions: degenerate input must stay confined to its own Gaussian.
FAST = {"contract", "nsz", "arcp", "reassoc"}

F0 = np.float32(0.0)
F1 = np.float32(1.0)
HALF = np.float32(0.5)
LAST = np.float32(TILE - 1)
MAX_ALPHA = np.float32(0.999)
MIN_T = np.float32(1e-4)
PIXELS = TILE * TILE
# exp(-8x) = p(x)^8 for 0 <= x <= 0.72 (opacity <= 1 needs ln(255)/8 = 0.693), relative error 2e-6 in float32.
E0 = np.float32(0.9999999058849154)
E1 = np.float32(-0.9999914347720185)
E2 = np.float32(0.499869163089888)
E3 = np.float32(-0.16591689515474148)
E4 = np.float32(0.03967375461723558)
E5 = np.float32(-0.005787095115466059)
# Outside its range the polynomial passes zero, and subnormal numbers cost a hundred times more than others.
X_CLAMP = np.float32(0.72)
# Finished rows are looked for every so many Gaussians.
CHECK_EVERY = 16
# Sums kept per packed Gaussian in the backward pass, see `scatter_gradients`.
GRADS = 12


@njit(cache=True, nogil=True, error_model="numpy")
def start_tile(state, x0, y0, width, height):
    """Transmittance 1 inside the image; pixels beyond its border start finished."""
    for r in range(TILE):
        for j in range(TILE):
            inside = y0 + r < height and x0 + j < width
            state[r * TILE + j] = F1 if inside else -F1


@njit(cache=True, nogil=True, error_model="numpy")
def live_rows(state, live):
    """Mark the rows that still have an unfinished pixel; returns how many."""
    rows = 0
    for r in range(TILE):
        alive = 0
        for j in range(TILE):
            if state[r * TILE + j] > F0:
                alive += 1
        live[r] = alive
        if alive > 0:
            rows += 1
    return rows


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _blend_tile(lists, begin, end, packed, x0, y0, state, live):
    """state: transmittance and four colour planes, [5 * 256]."""
    fx0 = np.float32(x0) + HALF
    fy0 = np.float32(y0) + HALF
    for at in range(begin, end):
        if (at - begin) % CHECK_EVERY == 0 and live_rows(state, live) == 0:
            break
        o = lists[at] * STRIDE
        mx = packed[o] - fx0
        my = packed[o + 1] - fy0
        ha = packed[o + 2]
        k = packed[o + 3]
        hd = packed[o + 4]
        opacity = packed[o + 5]
        x_max = packed[o + 6]
        reach = packed[o + 7]
        c0 = packed[o + 8]
        c1 = packed[o + 9]
        c2 = packed[o + 10]
        c3 = packed[o + 11]
        first = int(max(my - reach, F0))
        last = int(min(my + reach, LAST))
        for r in range(first, last + 1):
            dy = my - np.float32(r)
            q = hd * dy * dy
            ux = mx + k * dy
            nearest = ux - min(max(ux, F0), LAST)
            if ha * nearest * nearest + q > x_max or live[r] == 0:
                continue
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
                w = t * alpha if ok else F0
                state[b + j] = left if ok else (-abs(t) if hit else t)
                state[PIXELS + b + j] += w * c0
                state[2 * PIXELS + b + j] += w * c1
                state[3 * PIXELS + b + j] += w * c2
                state[4 * PIXELS + b + j] += w * c3


@njit(cache=True, nogil=True, error_model="numpy")
def _blend_range(start, stop, offsets, lists, packed, size, tile_w, background, image, final_t):
    width, height = size
    channels = image.shape[2]
    state = np.empty(5 * PIXELS, np.float32)
    live = np.empty(TILE, np.int64)
    for tile in range(start, stop):
        x0 = (tile % tile_w) * TILE
        y0 = (tile // tile_w) * TILE
        state[PIXELS:] = F0
        start_tile(state, x0, y0, width, height)
        _blend_tile(lists, offsets[tile], offsets[tile + 1], packed, x0, y0, state, live)
        for r in range(min(TILE, height - y0)):
            for j in range(min(TILE, width - x0)):
                t = abs(state[r * TILE + j])
                final_t[y0 + r, x0 + j] = t
                for c in range(channels):
                    image[y0 + r, x0 + j, c] = state[(c + 1) * PIXELS + r * TILE + j] + t * background[c]


@njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def blend(bounds, offsets, lists, packed, size, tile_w, background, image, final_t):
    """image [H, W, 1..4] and final_t [H, W] of one camera."""
    for thread in prange(bounds.size - 1):
        part = np.int64(thread)  # prange counts unsigned, and unsigned * int64 is a float in Numba
        _blend_range(bounds[part], bounds[part + 1], offsets, lists, packed, size, tile_w, background, image, final_t)


@njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def pack_colors(parts, ids, colors, packed):
    """Put up to four colour channels behind the geometry of each packed Gaussian, zero where there are fewer."""
    n = ids.size
    for thread in prange(parts):
        part = np.int64(thread)  # prange counts unsigned, and unsigned * int64 is a float in Numba
        for i in range(n * part // parts, n * (part + 1) // parts):
            for c in range(4):
                packed[i * STRIDE + 8 + c] = colors[ids[i], c] if c < colors.shape[1] else F0


# Layout of the backward state: transmittance, what is left of (colour . gradient), the image's four gradient
# planes; then one plane of running sums per entry of `grads`. A row of a sum plane holds the sums over the rows
# down to it, after a row 0 of zeros: so every address in the inner loop is the row's start plus a constant.
_REST = PIXELS
_GRAD = 2 * PIXELS
_SUMS = 6 * PIXELS
SUM_PLANE = PIXELS + TILE
_STATE = _SUMS + GRADS * SUM_PLANE


@njit(cache=True, nogil=True, error_model="numpy")
def clear_sums(state, sums, b, planes):
    """Zero the running sums above the row that starts at `b`."""
    for i in range(planes):
        for j in range(TILE):
            state[sums + i * SUM_PLANE + b + j] = F0


@njit(cache=True, nogil=True, error_model="numpy")
def carry_sums(state, sums, b, planes):
    """Copy the running sums past a row that adds nothing."""
    for i in range(planes):
        for j in range(TILE):
            state[sums + i * SUM_PLANE + b + TILE + j] = state[sums + i * SUM_PLANE + b + j]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def add_sums(state, sums, bottom, planes, grads, o):
    """Add the lanes of the last row's running sums to `grads[o:]`."""
    last = sums + (bottom & 31) * TILE
    for i in range(planes):
        total = F0
        for j in range(TILE):
            total += state[last + i * SUM_PLANE + j]
        grads[o + i] += total


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _blend_tile_backward(lists, begin, end, packed, x0, y0, state, live, grads):
    fx0 = np.float32(x0) + HALF
    fy0 = np.float32(y0) + HALF
    for at in range(begin, end):
        if (at - begin) % CHECK_EVERY == 0 and live_rows(state, live) == 0:
            break
        o = lists[at] * STRIDE
        mx = packed[o] - fx0
        my = packed[o + 1] - fy0
        ha = packed[o + 2]
        k = packed[o + 3]
        hd = packed[o + 4]
        opacity = packed[o + 5]
        x_max = packed[o + 6]
        reach = packed[o + 7]
        c0 = packed[o + 8]
        c1 = packed[o + 9]
        c2 = packed[o + 10]
        c3 = packed[o + 11]
        a = np.float32(16.0) * ha
        d = np.float32(16.0) * hd
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
                    carry_sums(state, _SUMS, b, GRADS)
                continue
            if bottom == 0:
                clear_sums(state, _SUMS, b, GRADS)
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
                state[b + j] = left if ok else (-abs(t) if hit else t)
                cg = (
                    c0 * state[_GRAD + b + j]
                    + c1 * state[_GRAD + PIXELS + b + j]
                    + c2 * state[_GRAD + 2 * PIXELS + b + j]
                    + c3 * state[_GRAD + 3 * PIXELS + b + j]
                )
                rest = state[_REST + b + j] - w * cg
                state[_REST + b + j] = rest
                # d loss / d sigma; a clamped alpha does not depend on the geometry.
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
                state[s + 8 * SUM_PLANE + TILE + j] = state[s + 8 * SUM_PLANE + j] + w * state[_GRAD + b + j]
                state[s + 9 * SUM_PLANE + TILE + j] = state[s + 9 * SUM_PLANE + j] + w * state[_GRAD + PIXELS + b + j]
                state[s + 10 * SUM_PLANE + TILE + j] = (
                    state[s + 10 * SUM_PLANE + j] + w * state[_GRAD + 2 * PIXELS + b + j]
                )
                state[s + 11 * SUM_PLANE + TILE + j] = (
                    state[s + 11 * SUM_PLANE + j] + w * state[_GRAD + 3 * PIXELS + b + j]
                )
        if bottom > 0:
            add_sums(state, _SUMS, bottom, GRADS, grads, lists[at] * GRADS)


@njit(cache=True, nogil=True, error_model="numpy")
def _backward_range(start, stop, offsets, lists, packed, size, tile_w, image, final_t, g_image, g_alpha, grads):
    width, height = size
    channels = image.shape[2]
    state = np.empty(_STATE, np.float32)
    live = np.empty(TILE, np.int64)
    for tile in range(start, stop):
        if offsets[tile] == offsets[tile + 1]:
            continue
        x0 = (tile % tile_w) * TILE
        y0 = (tile // tile_w) * TILE
        state[PIXELS:_SUMS] = F0
        start_tile(state, x0, y0, width, height)
        for r in range(min(TILE, height - y0)):
            for j in range(min(TILE, width - x0)):
                at = r * TILE + j
                # `image` holds the background too: its part cancels against the background's part of d/dT.
                rest = -final_t[y0 + r, x0 + j] * g_alpha[y0 + r, x0 + j]
                for c in range(channels):
                    g = g_image[y0 + r, x0 + j, c]
                    state[_GRAD + c * PIXELS + at] = g
                    rest += image[y0 + r, x0 + j, c] * g
                state[_REST + at] = rest
        _blend_tile_backward(lists, offsets[tile], offsets[tile + 1], packed, x0, y0, state, live, grads)


@njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def blend_backward(bounds, offsets, lists, packed, size, tile_w, image, final_t, g_image, g_alpha, grads):
    """grads [parts, M * 12]: per packed Gaussian the sums that `scatter_gradients` turns into gradients."""
    for thread in prange(bounds.size - 1):
        part = np.int64(thread)  # prange counts unsigned, and unsigned * int64 is a float in Numba
        _backward_range(bounds[part], bounds[part + 1], offsets, lists, packed, size, tile_w, image, final_t, g_image,
                        g_alpha, grads[part])  # fmt: skip


@njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def scatter_gradients(parts, ids, packed, grads, g_means2d, g_abs, g_ldl, g_opacities, g_colors):
    """Sum the parts in order and write the gradients of each seen Gaussian; g_colors may have no channels."""
    n = ids.size
    for thread in prange(parts):
        part = np.int64(thread)  # prange counts unsigned, and unsigned * int64 is a float in Numba
        total = np.empty(GRADS)
        for i in range(n * part // parts, n * (part + 1) // parts):
            for c in range(GRADS):
                total[c] = 0.0
                for p in range(grads.shape[0]):
                    total[c] += grads[p, GRADS * i + c]
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
