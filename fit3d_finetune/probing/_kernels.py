"""Numba kernels of the probes: pixels among patches, depth from bins, and the depth losses with their gradients.

Inner loops run over contiguous rows, which is what LLVM turns into vector instructions. Work is split over items that
share nothing, so the results do not depend on the number of threads.

Pieces are inlined by force. Otherwise a process that compiles a kernel calls a piece's own code, and one that reads the
kernel from Numba's cache calls the copy saved in it, which is optimised in another way and rounds differently.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

_FAST = {"contract", "reassoc", "nsz", "arcp"}  # not nnan/ninf: a NaN must come out as NaN


@njit(cache=True, forceinline=True, nogil=True, error_model="numpy")
def corners(place, cells):  # type: ignore[no-untyped-def]
    """The two cells around a place in cells (first cell's centre at 0.5), and the second one's share."""
    at = min(max(place - 0.5, 0.0), cells - 1.0)
    first = int(at)
    return first, min(first + 1, cells - 1), at - first


@njit(cache=True, forceinline=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _mix(a, b, share, out):  # type: ignore[no-untyped-def]
    """out = (1 - share) a + share b."""
    for k in range(out.size):
        out[k] = a[k] + share * (b[k] - a[k])


@njit(cache=True, forceinline=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _add_mix(values, share, a, b):  # type: ignore[no-untyped-def]
    """The adjoint of `_mix`."""
    for k in range(values.size):
        a[k] += (1 - share) * values[k]
    for k in range(values.size):
        b[k] += share * values[k]


@njit(cache=True, forceinline=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _mix_four(a, b, c, d, x, y, out):  # type: ignore[no-untyped-def]
    for k in range(out.size):
        top = a[k] + x * (b[k] - a[k])
        out[k] = top + y * (c[k] + x * (d[k] - c[k]) - top)


@njit(cache=True, nogil=True, error_model="numpy", parallel=True)
def sample(map, places, out):  # type: ignore[no-untyped-def]
    """Bilinear interpolation of a map [h, w, C] at places [n, 2] (x, y in 0..1), border values going on: out [n, C]."""
    h, w = map.shape[0], map.shape[1]
    for i in prange(len(places)):
        x0, x1, x = corners(places[i, 0] * w, w)
        y0, y1, y = corners(places[i, 1] * h, h)
        _mix_four(map[y0, x0], map[y0, x1], map[y1, x0], map[y1, x1], map.dtype.type(x), map.dtype.type(y), out[i])


@njit(cache=True, nogil=True, error_model="numpy")
def sample_backward(gradient, places, out):  # type: ignore[no-untyped-def]
    """The adjoint of `sample`: adds gradient [n, C] to out [h, w, C]."""
    h, w = out.shape[0], out.shape[1]
    for i in range(len(places)):
        x0, x1, x = corners(places[i, 0] * w, w)
        y0, y1, y = corners(places[i, 1] * h, h)
        for row, share in ((y0, 1 - y), (y1, y)):
            for column, part in ((x0, 1 - x), (x1, x)):
                weight = out.dtype.type(share * part)
                target, values = out[row, column], gradient[i]
                for k in range(target.size):
                    target[k] += weight * values[k]


@njit(cache=True, nogil=True, error_model="numpy")
def count_labelled(labels, void, counts):  # type: ignore[no-untyped-def]
    """How many pixels of each row of labels [H, W] are not void, added up from the first row: counts [H]."""
    total = 0
    for r in range(labels.shape[0]):
        row = labels[r]
        found = 0
        for c in range(row.size):
            found += row[c] != void
        total += found
        counts[r] = total


@njit(cache=True, nogil=True, error_model="numpy")
def find_labelled(labels, void, counts, ranks, found):  # type: ignore[no-untyped-def]
    """Flat indices of the labelled pixels of the given ranks (from 0), in reading order; counts of `count_labelled`."""
    width = labels.shape[1]
    for i in range(ranks.size):
        r = np.searchsorted(counts, ranks[i], side="right")
        left = ranks[i] - (counts[r - 1] if r > 0 else 0)
        row = labels[r]
        c = 0
        while True:
            if row[c] != void:
                if left == 0:
                    break
                left -= 1
            c += 1
        found[i] = r * width + c


@njit(cache=True, forceinline=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _mean_bin(a, b, share, bins):  # type: ignore[no-untyped-def]
    """Mean of the bins weighted by relu(output) + 0.1, and the sum of the weights; outputs between those of a and b."""
    total = weighted = bins.dtype.type(0)
    floor = bins.dtype.type(0.1)
    for k in range(bins.size):
        weight = max(a[k] + share * (b[k] - a[k]), bins.dtype.type(0)) + floor
        total += weight
        weighted += weight * bins[k]
    return weighted / total, total


@njit(cache=True, forceinline=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _mean_bin_backward(a, b, share, bins, mean, slope, a_slopes, b_slopes):  # type: ignore[no-untyped-def]
    """Adds the gradients with respect to a and b; slope is that of the mean over the sum of the weights."""
    for k in range(bins.size):
        output = a[k] + share * (b[k] - a[k])
        here = slope * (bins[k] - mean) if output > 0 else bins.dtype.type(0)
        a_slopes[k] += (1 - share) * here
        b_slopes[k] += share * here


@njit(cache=True, nogil=True, error_model="numpy", parallel=True)
def binned_depth(outputs, bins, factor, depth, totals):  # type: ignore[no-untyped-def]
    """Depth [h factor, w factor, n, arms] of outputs [n, h, w, arms, K] that are upsampled bilinearly first."""
    n, h, w, arms, K = outputs.shape
    for item in prange(n * arms):
        i, a = item // arms, item % arms
        rows = np.empty((w, K), outputs.dtype)
        for Y in range(h * factor):
            y0, y1, y = corners((Y + 0.5) / factor, h)
            for x in range(w):
                _mix(outputs[i, y0, x, a], outputs[i, y1, x, a], outputs.dtype.type(y), rows[x])
            for X in range(w * factor):
                x0, x1, x_share = corners((X + 0.5) / factor, w)
                mean, total = _mean_bin(rows[x0], rows[x1], outputs.dtype.type(x_share), bins)
                depth[Y, X, i, a], totals[Y, X, i, a] = mean, total


@njit(cache=True, nogil=True, error_model="numpy", parallel=True)
def binned_depth_backward(outputs, bins, factor, depth, totals, gradient, out):  # type: ignore[no-untyped-def]
    """The gradient of `binned_depth` with respect to its outputs, added to out."""
    n, h, w, arms, K = outputs.shape
    for item in prange(n * arms):
        i, a = item // arms, item % arms
        rows, slopes = np.empty((w, K), outputs.dtype), np.empty((w, K), outputs.dtype)
        for Y in range(h * factor):
            y0, y1, y = corners((Y + 0.5) / factor, h)
            for x in range(w):
                _mix(outputs[i, y0, x, a], outputs[i, y1, x, a], outputs.dtype.type(y), rows[x])
            slopes[:] = 0
            for X in range(w * factor):
                x0, x1, x_share = corners((X + 0.5) / factor, w)
                share = outputs.dtype.type(x_share)
                slope = gradient[Y, X, i, a] / totals[Y, X, i, a]
                _mean_bin_backward(rows[x0], rows[x1], share, bins, depth[Y, X, i, a], slope, slopes[x0], slopes[x1])
            for x in range(w):
                _add_mix(slopes[x], outputs.dtype.type(y), out[i, y0, x, a], out[i, y1, x, a])


@njit(cache=True, forceinline=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _differences(first, second, both, slope, signs):  # type: ignore[no-untyped-def]
    """Sum of |second - first| where both are known; signs get slope times the sign."""
    total = first.dtype.type(0)
    for k in range(first.size):
        difference = (second[k] - first[k]) * both[k]
        total += abs(difference)
        signs[k] = slope * ((difference > 0) - (difference < 0))
    return total


@njit(cache=True, forceinline=True, nogil=True, error_model="numpy")
def _gradient_loss(g, known, scales, weight, slopes):  # type: ignore[no-untyped-def]
    """Weighted sum over scales of the mean absolute difference of neighbours; adds its gradient to slopes."""
    H, W = g.shape
    loss = g.dtype.type(0)
    signs, both = np.empty(W, g.dtype), np.empty(W, g.dtype)
    for scale in range(scales):
        step = 2**scale
        count = max(known[::step, ::step].sum(), 1.0)
        slope = g.dtype.type(weight / count)
        total = g.dtype.type(0)
        for r in range(0, H, step):
            row, seen, slopes_row = g[r, ::step], known[r, ::step], slopes[r, ::step]
            last = row.size - 1
            for k in range(last):
                both[k] = seen[k] * seen[k + 1]
            total += _differences(row[:last], row[1:], both[:last], slope, signs[:last])
            for k in range(last):
                slopes_row[k + 1] += signs[k]
            for k in range(last):
                slopes_row[k] -= signs[k]
            if r + step < H:
                below, seen_below, slopes_below = g[r + step, ::step], known[r + step, ::step], slopes[r + step, ::step]
                for k in range(row.size):
                    both[k] = seen[k] * seen_below[k]
                total += _differences(row, below, both[: row.size], slope, signs[: row.size])
                for k in range(row.size):
                    slopes_below[k] += signs[k]
                for k in range(row.size):
                    slopes_row[k] -= signs[k]
        loss += slope * total
    return loss


@njit(cache=True, forceinline=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _silog_loss(g, count, variance_weight, slopes):  # type: ignore[no-untyped-def]
    """sqrt(mean(g^2) - weight mean(g)^2) over `count` known pixels (elsewhere g is 0); adds its gradient to slopes."""
    total = squares = g.dtype.type(0)
    for k in range(g.size):
        total += g[k]
        squares += g[k] * g[k]
    mean = total / count
    inside = squares / count - variance_weight * mean * mean
    if inside < 1e-8:
        return g.dtype.type(1e-4)
    loss = np.sqrt(inside)
    a, b = g.dtype.type(1 / (count * loss)), g.dtype.type(variance_weight * mean / (count * loss))
    for k in range(g.size):
        slopes[k] += a * g[k] - b
    return loss


@njit(cache=True, nogil=True, error_model="numpy", parallel=True)
def depth_loss(predicted, truth, known, scales, gradient_weight, variance_weight, losses, gradient):  # type: ignore[no-untyped-def]
    """Losses [n, arms] between logarithms: predicted [n, arms, H, W], truth [n, H, W]; known [n, H, W] is 1 or 0."""
    n, arms = predicted.shape[:2]
    for item in prange(n * arms):
        i, a = item // arms, item % arms
        g = (predicted[i, a] - truth[i]) * known[i]
        slopes = gradient[i, a]
        slopes[:] = 0
        count = max(known[i].sum(), 1.0)
        losses[i, a] = _silog_loss(g.reshape(-1), count, variance_weight, slopes.reshape(-1))
        slopes *= known[i]
        losses[i, a] += _gradient_loss(g, known[i], scales, gradient_weight, slopes)
