# mypy: disable-error-code=no-untyped-def
# Numba infers the types of these functions; shapes are in the docstrings.
"""Numba kernels of `fit3d_ns.photometric`: RGB images [H, W, 3] as they are rendered, without a copy per channel.

SSIM's window is separable, and with interleaved channels both of its passes are one loop over neighbouring floats:
taps lie 3 apart along a row and, in a strip of STRIP floats that a thread filters from top to bottom, STRIP apart
down a column. Both distances are constants: LLVM then sees one buffer read at fixed offsets, and vectorises; with
distances known only at run time, or a pointer per row, it does not.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from fit3d_ns.rasterization._part_kernels import part_range

WINDOW = 11
MARGIN = 3 * (WINDOW - 1)
"""Floats that the window reaches beyond the first, along a row."""
STRIP = 128
_LOADED = STRIP + MARGIN
_FAST = {"contract", "reassoc", "nsz", "arcp"}  # not nnan/ninf: a NaN in an image must come out as NaN


@njit(cache=True, nogil=True, fastmath=_FAST)
def _filter_row(row, taps, out):
    """out[x] = sum_k taps[k] row[x + 3 k] for a strip."""
    t0, t1, t2, t3, t4, t5 = taps[0], taps[1], taps[2], taps[3], taps[4], taps[5]
    for x in range(STRIP):
        out[x] = (
            t0 * (row[x] + row[x + 30])
            + t1 * (row[x + 3] + row[x + 27])
            + t2 * (row[x + 6] + row[x + 24])
            + t3 * (row[x + 9] + row[x + 21])
            + t4 * (row[x + 12] + row[x + 18])
            + t5 * row[x + 15]
        )


@njit(cache=True, nogil=True, fastmath=_FAST)
def _filter_column(rows, taps, out):
    """out[x] = sum_k taps[k] rows[x + k STRIP] for a strip."""
    t0, t1, t2, t3, t4, t5 = taps[0], taps[1], taps[2], taps[3], taps[4], taps[5]
    for x in range(STRIP):
        out[x] = (
            t0 * (rows[x] + rows[x + 10 * STRIP])
            + t1 * (rows[x + STRIP] + rows[x + 9 * STRIP])
            + t2 * (rows[x + 2 * STRIP] + rows[x + 8 * STRIP])
            + t3 * (rows[x + 3 * STRIP] + rows[x + 7 * STRIP])
            + t4 * (rows[x + 4 * STRIP] + rows[x + 6 * STRIP])
            + t5 * rows[x + 5 * STRIP]
        )


@njit(cache=True, nogil=True, fastmath=_FAST)
def _load(values, loaded):
    for x in range(values.size):
        loaded[x] = values[x]


@njit(cache=True, nogil=True, fastmath=_FAST)
def _products(x, y, squares, product):
    for i in range(_LOADED):
        squares[i] = x[i] * x[i] + y[i] * y[i]
    for i in range(_LOADED):
        product[i] = x[i] * y[i]


# Python's check for a division by zero would be a branch in the loop.
@njit(cache=True, nogil=True, fastmath=_FAST, error_model="numpy")
def _compare(moments, c1, c2, partials, values):
    """SSIM of a strip and its partial derivatives by the moments of x: mean, mean of squares, mean product.

    Args:
        moments: [4 STRIP], the means of x, y, x x + y y and x y in the window.
        partials: [3 STRIP], out.
        values: [STRIP], out.
    """
    two, one = np.float32(2), np.float32(1)  # an int times a float32 is a float64 in Numba
    for i in range(STRIP):
        mx, my = moments[i], moments[i + STRIP]
        mxy = mx * my
        means = mx * mx + my * my
        a1 = two * mxy + c1
        a2 = two * (moments[i + 3 * STRIP] - mxy) + c2
        inverse_b1 = one / (means + c1)
        inverse_b2 = one / (moments[i + 2 * STRIP] - means + c2)
        inverse = inverse_b1 * inverse_b2
        value = a1 * a2 * inverse
        partials[i] = two * (my * (a2 - a1) * inverse - mx * value * (inverse_b1 - inverse_b2))
        partials[i + STRIP] = -value * inverse_b2
        partials[i + 2 * STRIP] = two * a1 * inverse
        values[i] = value


@njit(cache=True, nogil=True, fastmath=_FAST)
def _sum(values):
    total = np.float32(0)
    for i in range(values.size):
        total += values[i]
    return total


@njit(cache=True, nogil=True, fastmath=_FAST)
def _sum_differences(x, y):
    """Sums of |x - y| and of (x - y)^2."""
    absolute, squared = np.float32(0), np.float32(0)
    for i in range(x.size):
        difference = x[i] - y[i]
        absolute += abs(difference)
        squared += difference * difference
    return absolute, squared


@njit(cache=True, parallel=True, nogil=True)
def forward(x, y, height, width, taps, c1, c2, parts, partials, sums):
    """Sums over the image of SSIM, |x - y| and (x - y)^2, and SSIM's derivatives by the local moments of x.

    Args:
        x, y: flat [height * width * 3].
        partials: flat [3, height + 10, width * 3 + 30], out; d SSIM / d (mean x, mean xx, mean xy) of each place of
            the window, 10 rows and 30 floats in from the borders, with zeros around.
        sums: [parts, 3] float64, out; to be summed over parts.
    """
    length = 3 * width
    rows, columns = height - WINDOW + 1, length - MARGIN
    padded = length + MARGIN
    slope_size = (height + WINDOW - 1) * padded
    for slope in range(3):
        top = slope * slope_size
        partials[top : top + (WINDOW - 1) * padded] = 0
        partials[top + height * padded : top + slope_size] = 0
    for thread in prange(parts):
        part = np.int64(thread)
        first, last = part_range(thread, parts, height)
        for row in range(first, last):
            at = row * length
            absolute, squared = _sum_differences(x[at : at + length], y[at : at + length])
            sums[part, 1] += absolute
            sums[part, 2] += squared
        first, last = part_range(thread, parts, rows)
        span = last - first + WINDOW - 1
        filtered = np.empty(4 * span * STRIP, np.float32)
        strips = np.zeros(4 * _LOADED, np.float32)
        x_strip, y_strip = strips[:_LOADED], strips[_LOADED : 2 * _LOADED]
        squares, product = strips[2 * _LOADED : 3 * _LOADED], strips[3 * _LOADED :]
        moments = np.empty(4 * STRIP, np.float32)
        slopes = np.empty(3 * STRIP, np.float32)
        values = np.empty(STRIP, np.float32)
        for row in range(first + WINDOW - 1, last + WINDOW - 1):
            for slope in range(3):
                at = slope * slope_size + row * padded
                partials[at : at + MARGIN] = 0
                partials[at + length : at + padded] = 0
        for left in range(0, columns, STRIP):
            count = min(STRIP, columns - left)
            for r in range(span):
                at = (first + r) * length + left
                _load(x[at : at + count + MARGIN], x_strip)
                _load(y[at : at + count + MARGIN], y_strip)
                _products(x_strip, y_strip, squares, product)
                for moment in range(4):
                    to = (moment * span + r) * STRIP
                    _filter_row(strips[moment * _LOADED : (moment + 1) * _LOADED], taps, filtered[to : to + STRIP])
            for r in range(last - first):
                for moment in range(4):
                    at = (moment * span + r) * STRIP
                    out = moments[moment * STRIP : (moment + 1) * STRIP]
                    _filter_column(filtered[at : at + WINDOW * STRIP], taps, out)
                _compare(moments, c1, c2, slopes, values)
                sums[part, 0] += _sum(values[:count])
                for slope in range(3):
                    to = slope * slope_size + (first + r + WINDOW - 1) * padded + MARGIN + left
                    _load(slopes[slope * STRIP : slope * STRIP + count], partials[to : to + count])


@njit(cache=True, nogil=True, fastmath=_FAST)
def _combine(x, y, spread, ssim_scale, l1_scale, grad):
    two = np.float32(2)
    for i in range(grad.size):
        similarity = spread[i] + two * spread[i + STRIP] * x[i] + spread[i + 2 * STRIP] * y[i]
        difference = x[i] - y[i]
        sign = np.float32(difference > 0) - np.float32(difference < 0)
        grad[i] = ssim_scale * similarity + l1_scale * sign


@njit(cache=True, parallel=True, nogil=True)
def backward(x, y, height, width, taps, partials, ssim_scale, l1_scale, parts, grad):
    """d (ssim_scale * sum of SSIM + l1_scale * sum of |x - y|) / d x into `grad`, flat [height * width * 3].

    The window, transposed: with zeros around `partials` (as `forward` leaves it) and symmetric taps it is the plain
    filter again.
    """
    length = 3 * width
    padded = length + MARGIN
    for thread in prange(parts):
        first, last = part_range(thread, parts, height)
        span = last - first + WINDOW - 1
        filtered = np.empty(3 * span * STRIP, np.float32)
        loaded = np.zeros(_LOADED, np.float32)
        spread = np.empty(3 * STRIP, np.float32)
        for left in range(0, length, STRIP):
            count = min(STRIP, length - left)
            for slope in range(3):
                for r in range(span):
                    at = (slope * (height + WINDOW - 1) + first + r) * padded + left
                    _load(partials[at : at + count + MARGIN], loaded)
                    to = (slope * span + r) * STRIP
                    _filter_row(loaded, taps, filtered[to : to + STRIP])
            for r in range(last - first):
                for slope in range(3):
                    at = (slope * span + r) * STRIP
                    out = spread[slope * STRIP : (slope + 1) * STRIP]
                    _filter_column(filtered[at : at + WINDOW * STRIP], taps, out)
                at = (first + r) * length + left
                _combine(x[at : at + count], y[at : at + count], spread, ssim_scale, l1_scale, grad[at : at + count])


@njit(cache=True, nogil=True, fastmath=_FAST)
def _over_background(image, alpha, background, out):
    one = np.float32(1)
    red, green, blue = background[0], background[1], background[2]
    for p in range(alpha.size):
        through = one - alpha[p]
        out[3 * p] = image[3 * p] + through * red
        out[3 * p + 1] = image[3 * p + 1] + through * green
        out[3 * p + 2] = image[3 * p + 2] + through * blue


@njit(cache=True, nogil=True, fastmath=_FAST)
def _clamp(values):
    zero, one = np.float32(0), np.float32(1)
    for i in range(values.size):
        values[i] = zero if values[i] < zero else (one if values[i] > one else values[i])


@njit(cache=True, nogil=True, fastmath=_FAST)
def _pass_unclamped(rgb, g_rgb, g_image):
    zero, one = np.float32(0), np.float32(1)
    for i in range(rgb.size):
        g_image[i] = g_rgb[i] if rgb[i] > zero and rgb[i] < one else zero


@njit(cache=True, nogil=True, fastmath=_FAST)
def _alpha_gradient(g_image, background, g_alpha):
    red, green, blue = background[0], background[1], background[2]
    for p in range(g_alpha.size):
        g_alpha[p] = -(g_image[3 * p] * red + g_image[3 * p + 1] * green + g_image[3 * p + 2] * blue)


@njit(cache=True, nogil=True)
def composite(image, alpha, background, height, rgb):
    """rgb = clamp(image + (1 - alpha) background, 0, 1); image and rgb flat [pixels * 3], alpha [pixels].

    On one thread: a row at a time it is over sooner than threads are woken.
    """
    width = alpha.size // height
    for row in range(height):
        start, stop = row * width, (row + 1) * width
        out = rgb[3 * start : 3 * stop]
        _over_background(image[3 * start : 3 * stop], alpha[start:stop], background, out)
        _clamp(out)


@njit(cache=True, nogil=True)
def composite_backward(rgb, background, g_rgb, height, g_image, g_alpha):
    """Gradients of `composite`, whose result is rgb; none passes where the colour was clamped."""
    width = g_alpha.size // height
    for row in range(height):
        start, stop = row * width, (row + 1) * width
        out = g_image[3 * start : 3 * stop]
        _pass_unclamped(rgb[3 * start : 3 * stop], g_rgb[3 * start : 3 * stop], out)
        _alpha_gradient(out, background, g_alpha[start:stop])
