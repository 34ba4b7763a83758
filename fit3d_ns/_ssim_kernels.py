"""Numba kernels of `fit3d_ns.ssim`: a separable 11-tap window, one image row at a time.

Every inner loop reads one flat buffer at fixed offsets and writes another, which is what LLVM turns into vector
instructions; two-dimensional indexing or more base pointers would not vectorise.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

WINDOW = 11
_FAST = {"contract", "reassoc", "nsz", "arcp"}  # not nnan/ninf: a NaN in an image must come out as NaN


@njit(cache=True, nogil=True, fastmath=_FAST)
def _filter_row(row, taps, out, out_at, count):  # type: ignore[no-untyped-def]
    """out[out_at + x] = sum_k taps[k] row[x + k]."""
    t0, t1, t2, t3, t4, t5 = taps[0], taps[1], taps[2], taps[3], taps[4], taps[5]
    for x in range(count):
        out[out_at + x] = (
            t0 * (row[x] + row[x + 10])
            + t1 * (row[x + 1] + row[x + 9])
            + t2 * (row[x + 2] + row[x + 8])
            + t3 * (row[x + 3] + row[x + 7])
            + t4 * (row[x + 4] + row[x + 6])
            + t5 * row[x + 5]
        )


@njit(cache=True, nogil=True, fastmath=_FAST)
def _add_pairs(a, b, c, d, tap, next_tap, out):  # type: ignore[no-untyped-def]
    for x in range(out.size):
        out[x] += tap * (a[x] + b[x]) + next_tap * (c[x] + d[x])


@njit(cache=True, nogil=True, fastmath=_FAST)
def _filter_column(rows, at, stride, taps, out):  # type: ignore[no-untyped-def]
    """out[x] = sum_k taps[k] rows[at + k stride + x]."""
    n = out.size
    # More than about five arrays in one loop and LLVM no longer proves that they do not overlap.
    middle = rows[at + 5 * stride : at + 5 * stride + n]
    for x in range(n):
        out[x] = taps[5] * middle[x]
    for k in range(0, 4, 2):
        a, b = at + k * stride, at + (10 - k) * stride
        c, d = a + stride, b - stride
        _add_pairs(rows[a : a + n], rows[b : b + n], rows[c : c + n], rows[d : d + n], taps[k], taps[k + 1], out)
    a, b = at + 4 * stride, at + 6 * stride
    _add_scaled(rows[a : a + n], taps[4], out)
    _add_scaled(rows[b : b + n], taps[4], out)


@njit(cache=True, nogil=True, fastmath=_FAST)
def _add_scaled(values, factor, out):  # type: ignore[no-untyped-def]
    for x in range(out.size):
        out[x] += factor * values[x]


@njit(cache=True, nogil=True, fastmath=_FAST)
def _products(a, b, out):  # type: ignore[no-untyped-def]
    for x in range(out.size):
        out[x] = a[x] * b[x]


@njit(cache=True, nogil=True, fastmath=_FAST)
def _compare_row(moments, n, c1, c2, partials):  # type: ignore[no-untyped-def]
    """Sum of SSIM over one row of moments (5 x n, flat); its partial derivatives into `partials` (3 x n, flat)."""
    two, one = np.float32(2), np.float32(1)  # an int times a float32 is a float64 in Numba
    total = np.float32(0)
    for i in range(n):
        x = np.uint64(i)  # unsigned: Numba need not look out for negative indices, and the loop vectorises
        m = np.uint64(n)
        mx, my = moments[x], moments[m + x]
        a1 = two * mx * my + c1
        a2 = two * (moments[np.uint64(4) * m + x] - mx * my) + c2
        b1 = mx * mx + my * my + c1
        b2 = moments[np.uint64(2) * m + x] - mx * mx + moments[np.uint64(3) * m + x] - my * my + c2
        inverse_b1, inverse_b2 = one / b1, one / b2
        inverse = inverse_b1 * inverse_b2
        value = a1 * a2 * inverse
        d_xx = -value * inverse_b2
        d_xy = two * a1 * inverse
        partials[x] = two * (my * a2 * inverse - mx * value * inverse_b1 - mx * d_xx) - my * d_xy
        partials[m + x] = d_xx
        partials[np.uint64(2) * m + x] = d_xy
        total += value
    return total


@njit(cache=True, parallel=True, nogil=True)
def forward(x, y, channels, height, width, taps, c1, c2, parts, partials, sums):  # type: ignore[no-untyped-def]
    """SSIM sums per output row, and its derivatives by the local moments of x.

    Args:
        x, y: flat [channels * height * width].
        partials: flat [channels * rows * 3 * columns], out; d SSIM / d (mean x, mean xx, mean xy).
        sums: [channels * rows], out.
    """
    rows, columns = height - WINDOW + 1, width - WINDOW + 1
    for part in prange(parts):
        p = np.int64(part)
        first, last = rows * p // parts, rows * (p + 1) // parts
        span = last - first + WINDOW - 1
        filtered = np.empty(5 * span * columns, np.float32)
        product = np.empty(width, np.float32)
        moments = np.empty(5 * columns, np.float32)
        for channel in range(channels):
            for r in range(span):
                at = (channel * height + first + r) * width
                _filter_row(x[at : at + width], taps, filtered, r * columns, columns)
                _filter_row(y[at : at + width], taps, filtered, (span + r) * columns, columns)
                _products(x[at : at + width], x[at : at + width], product)
                _filter_row(product, taps, filtered, (2 * span + r) * columns, columns)
                _products(y[at : at + width], y[at : at + width], product)
                _filter_row(product, taps, filtered, (3 * span + r) * columns, columns)
                _products(x[at : at + width], y[at : at + width], product)
                _filter_row(product, taps, filtered, (4 * span + r) * columns, columns)
            for r in range(last - first):
                for moment in range(5):
                    out = moments[moment * columns : (moment + 1) * columns]
                    _filter_column(filtered, (moment * span + r) * columns, columns, taps, out)
                row = channel * rows + first + r
                out = partials[row * 3 * columns : (row + 1) * 3 * columns]
                sums[row] = _compare_row(moments, columns, c1, c2, out)


@njit(cache=True, nogil=True, fastmath=_FAST)
def _combine(x, y, mean, mean_xx, mean_xy, scale, grad):  # type: ignore[no-untyped-def]
    two = np.float32(2)
    for i in range(grad.size):
        grad[i] = mean_xx[i] * x[i]
    for i in range(grad.size):
        grad[i] = scale * (mean[i] + two * grad[i] + y[i] * mean_xy[i])


@njit(cache=True, parallel=True, nogil=True)
def backward(x, y, channels, height, width, taps, partials, scale, parts, grad):  # type: ignore[no-untyped-def]
    """d (scale * sum of SSIM) / d x into `grad`, flat [channels * height * width]: the window, transposed."""
    rows, columns = height - WINDOW + 1, width - WINDOW + 1
    margin = WINDOW - 1
    for part in prange(parts):
        p = np.int64(part)
        # Zeros either side turn the transposed filter into the plain one (the taps are symmetric).
        padded = np.zeros(3 * (columns + 2 * margin), np.float32)
        spread = np.empty(3 * width, np.float32)
        step = columns + 2 * margin
        for row in range(height * p // parts, height * (p + 1) // parts):
            first, last = max(0, row - margin), min(rows - 1, row)
            for channel in range(channels):
                for partial in range(3):
                    start = partial * step + margin
                    padded[start : start + columns] = 0
                    for r in range(first, last + 1):
                        at = ((channel * rows + r) * 3 + partial) * columns
                        _add_scaled(partials[at : at + columns], taps[row - r], padded[start : start + columns])
                    _filter_row(padded[partial * step : (partial + 1) * step], taps, spread, partial * width, width)
                at, end = (channel * height + row) * width, (channel * height + row + 1) * width
                mean, mean_xx, mean_xy = spread[:width], spread[width : 2 * width], spread[2 * width :]
                _combine(x[at:end], y[at:end], mean, mean_xx, mean_xy, scale, grad[at:end])
