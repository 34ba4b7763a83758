# mypy: disable-error-code=no-untyped-def
"""Products of small dense blocks in vector registers, as Numba intrinsics.

What blending many channels costs is multiply-adds, and a Gaussian reaches few pixels of a tile: a matrix product of
whole tiles (BLAS) spends most of its time on weights that are zero. The blocks here are half rows of a tile (8 pixels),
small enough that most of it counts, and they take their Gaussians where they lie, by index. A tile has 32 such blocks,
and for each a list of the Gaussians that reach it:

    add_outer      sums[p, :]      += sum_k W[k, p] F[rows[k], :]     p < 8      features to pixels
    add_inner      G_F[rows[k], :] += sum_p W[k, p] G[p, :]           p < 8      gradients to features
    dot_channels   C[k, j]          = sum_c F[rows[k], c] G[c, j]     j < 16     gradients to weights (a whole row)
    transpose_row  G[c, j]          = T[j, c]                         j < 16     for dot_channels
    write_pixel    image[p, :]      = sums[p, :] + t background
    copy_row, dot_row, prefetch_row                                              one row of channels
    sparse_row     out[:]           = sum_k v[k] F[rows[k], :]                   a row of a sparse matrix product

Arrays are flat: float32, rows int32, counts int64. Channels are at least `LANES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import llvmlite.binding as llvm
import numpy as np
from numba import config, njit, types
from numba.extending import intrinsic

from fit3d_ns.rasterization._vector_code import Code, Floats, Ints, Variable, vector_function
from fit3d_ns.rasterization._vector_values import Number, Value, select, transposed

WIDE = "+avx512f" in (config.CPU_FEATURES or ("" if config.CPU_NAME else llvm.get_host_cpu_features().flatten()))
"""Whether the code is for a processor with 32 registers of 16 floats; otherwise blocks are cut to 16 registers of 8."""
LANES = 16 if WIDE else 8
HALF_ROW = 8
ROW = 16
LISTS = 32
"""Half rows of a tile."""


@njit(cache=True, nogil=True)
def aligned(size):
    """[size] float32, uninitialised, from a cache line's start on: a vector of 16 that crosses lines costs twice."""
    buffer = np.empty(size + 16, np.float32)
    skip = (-buffer.ctypes.data // 4) % 16
    return buffer[skip : skip + size]


def _load(array: Floats, at: Number, vectors: int, mask: Value | None = None) -> list[Value]:
    """That many vectors from `at` on, zero outside the mask."""
    values = [array.vector(at + v * LANES, LANES) for v in range(vectors)]
    return values if mask is None else [select(mask, value, 0.0) for value in values]


def _store(array: Floats, at: Number, values: list[Value]) -> None:
    for v, value in enumerate(values):
        array.store(at + v * LANES, value)


@contextmanager
def _lists(code: Code, counts: Ints) -> Iterator[tuple[Value, Value]]:
    """Loop over the half rows that a Gaussian reaches: number and length of the list."""
    with code.loop(0, LISTS) as number:
        count = counts.number(number)
        with code.when(count > 0):
            yield number, count


def _channel_blocks(code: Code, channels: Value, vectors: int, body: Callable[..., None]) -> None:
    """body(first channel, vectors, mask) until all channels had their turn.

    Blocks of `vectors` vectors, then single ones; what is left (less than a vector) is done in the last vector's place
    with a mask of its lanes: the others were done before.
    """
    step = vectors * LANES
    blocks = channels // step
    with code.loop(0, blocks) as block:
        body(block * step, vectors, None)
    with code.loop(0, (channels - blocks * step) // LANES) as single:
        body(blocks * step + single * LANES, 1, None)
    left = channels % LANES
    with code.when(left > 0):
        body(channels - LANES, 1, code.indices(*range(LANES, 0, -1)) <= left)


@intrinsic
def add_outer(typingctx, weights, rows, counts, capacity, features, channels, sums):
    """sums[8 l + p, c] += sum over k < counts[l] of weights[l, k, p] features[rows[l, k], c], for all lists l.

    weights: [32, capacity, 8], rows: [32, capacity], counts: [32], features: [any, channels], sums: [256, channels].
    """
    return vector_function(_add_outer, weights, rows, counts, capacity, features, channels, sums)


def _add_outer(code, weights, rows, counts, capacity, features, channels, sums):
    # Accumulators: 8 x 2 vectors of 16, or 4 x 2 vectors of 8.
    pixels = HALF_ROW if WIDE else HALF_ROW // 2

    def half_row(number, count, p0, first, vectors, mask):
        places = [(number * HALF_ROW + (p0 + p)) * channels + first for p in range(pixels)]
        totals = [[Variable(value) for value in _load(sums, place, vectors)] for place in places]
        with code.loop(0, count) as k:
            entry = number * capacity + k
            values = _load(features, rows.number(entry) * channels + first, vectors, mask)
            for p in range(pixels):
                weight = weights.number(entry * HALF_ROW + (p0 + p))
                for part, value in zip(totals[p], values, strict=True):
                    part.add(weight * value)
        for place, total in zip(places, totals, strict=True):
            _store(sums, place, [part.get() for part in total])

    def block(first, vectors, mask):
        with _lists(code, counts) as (number, count):
            for p0 in range(0, HALF_ROW, pixels):
                half_row(number, count, p0, first, vectors, mask)

    _channel_blocks(code, channels, 2, block)


@intrinsic
def add_inner(typingctx, weights, rows, counts, capacity, gradients, channels, sums):
    """sums[rows[l, k], c] += sum over p < 8 of weights[l, k, p] gradients[8 l + p, c], for all k < counts[l] and l.

    As `add_outer`; gradients: [256, channels], sums: [any, channels]. The rows of one list differ.
    """
    return vector_function(_add_inner, weights, rows, counts, capacity, gradients, channels, sums)


def _add_inner(code, weights, rows, counts, capacity, gradients, channels, sums):
    def entries(number, k, together, first, vectors, mask):
        """Some Gaussians at once, so that a gradient that was loaded serves all of them."""
        entry = number * capacity + k
        places = [rows.number(entry + e) * channels + first for e in range(together)]
        totals = [[Variable(value) for value in _load(sums, place, vectors)] for place in places]
        with code.loop(0, code.opaque(HALF_ROW)) as p:
            values = _load(gradients, (number * HALF_ROW + p) * channels + first, vectors, mask)
            for e in range(together):
                weight = weights.number((entry + e) * HALF_ROW + p)
                for part, value in zip(totals[e], values, strict=True):
                    part.add(weight * value)
        for place, total in zip(places, totals, strict=True):
            _store(sums, place, [part.get() for part in total])

    def block(first, vectors, mask):
        together = 4 if WIDE else 2
        with _lists(code, counts) as (number, count):
            groups = count // together
            with code.loop(0, groups) as group:
                entries(number, group * together, together, first, vectors, mask)
            with code.loop(groups * together, count) as k:
                entries(number, k, 1, first, vectors, mask)

    # Channels outermost: what a block of them reads and adds to stays in the first-level cache.
    _channel_blocks(code, channels, 4, block)


@intrinsic
def dot_channels(typingctx, features, rows, r0, count, gradients, g0, channels, out, o0):
    """out[o0 + 16 k + j] = sum over c of features[rows[r0 + k], c] gradients[g0 + 16 c + j], j < 16.

    For k < count (at least 1), and up to the next multiple of 8 with values that mean nothing.
    """
    return vector_function(_dot_channels, features, rows, r0, count, gradients, g0, channels, out, o0)


def _dot_channels(code, features, rows, r0, count, gradients, g0, channels, out, o0):
    vectors, together = ROW // LANES, LANES // 2
    with code.loop(0, (count + (together - 1)) // together) as group:
        entries = [group * together + e for e in range(together)]
        places = [rows.number(r0 + entry.at_most(count - 1)) * channels for entry in entries]
        totals = [[Variable(code.constant(*[0.0] * LANES)) for _ in range(vectors)] for _ in entries]
        with code.loop(0, channels) as channel:
            values = _load(gradients, g0 + channel * ROW, vectors)
            for place, total in zip(places, totals, strict=True):
                feature = features.number(place + channel)
                for part, value in zip(total, values, strict=True):
                    part.add(feature * value)
        for entry, total in zip(entries, totals, strict=True):
            _store(out, o0 + entry * ROW, [part.get() for part in total])


@intrinsic
def transpose_row(typingctx, pixels, p0, channels, out, o0):
    """out[o0 + 16 c + j] = pixels[p0 + j * channels + c] for j < 16 and all channels."""
    return vector_function(_transpose_row, pixels, p0, channels, out, o0)


def _transpose_row(code, pixels, p0, channels, out, o0):
    def block(first, vectors, mask):
        for j0 in range(0, ROW, LANES):
            rows = [pixels.vector(p0 + channels * (j0 + j) + first, LANES) for j in range(LANES)]
            for c, column in enumerate(transposed(rows)):
                out.store(o0 + (first + c) * ROW + j0, column)

    _channel_blocks(code, channels, 1, block)


@intrinsic
def write_pixel(typingctx, sums, s0, share, background, image, i0, channels):
    """image[i0 + c] = sums[s0 + c] + share * background[c]."""
    return vector_function(_write_pixel, sums, s0, share, background, image, i0, channels)


def _write_pixel(code, sums, s0, share, background, image, i0, channels):
    def block(first, vectors, mask):
        pairs = zip(_load(sums, s0 + first, vectors), _load(background, first, vectors), strict=True)
        _store(image, i0 + first, [value + share * behind for value, behind in pairs])

    _channel_blocks(code, channels, 4, block)


@intrinsic
def copy_row(typingctx, source, s0, target, t0, channels):
    """target[t0 + c] = source[s0 + c]."""
    return vector_function(_copy_row, source, s0, target, t0, channels)


def _copy_row(code, source, s0, target, t0, channels):
    def block(first, vectors, mask):
        _store(target, t0 + first, _load(source, s0 + first, vectors))

    _channel_blocks(code, channels, 4, block)


@intrinsic
def dot_row(typingctx, a, a0, b, b0, channels):
    """sum over c of a[a0 + c] b[b0 + c]."""
    return vector_function(_dot_row, a, a0, b, b0, channels, returns=types.float32)


def _dot_row(code, a, a0, b, b0, channels):
    total = Variable(code.constant(*[0.0] * LANES))

    def block(first, vectors, mask):
        for x, y in zip(_load(a, a0 + first, vectors, mask), _load(b, b0 + first, vectors, mask), strict=True):
            total.add(x * y)

    _channel_blocks(code, channels, 2, block)
    return total.get().total()


@intrinsic
def prefetch_row(typingctx, features, f0, channels):
    """Ask for features[f0 : f0 + channels], to be read soon."""
    return vector_function(_prefetch_row, features, f0, channels)


def _prefetch_row(code, features, f0, channels):
    with code.loop(0, (channels + 15) // 16) as line:
        features.prefetch(f0 + line * 16)


@intrinsic
def sparse_row(typingctx, values, rows, begin, end, dense, channels, out, o0):
    """out[o0 + c] = sum over begin <= k < end of values[k] dense[rows[k], c]."""
    return vector_function(_sparse_row, values, rows, begin, end, dense, channels, out, o0)


def _sparse_row(code, values, rows, begin, end, dense, channels, out, o0):
    chains = 2  # sums side by side: each addition would wait for the one before it

    def block(first, vectors, mask):
        totals = [[Variable(code.constant(*[0.0] * LANES)) for _ in range(vectors)] for _ in range(chains)]

        def add(k, total):
            weight = values.number(k)
            for part, value in zip(total, _load(dense, rows.number(k) * channels + first, vectors), strict=True):
                part.add(weight * value)

        pairs = (end - begin) // chains
        with code.loop(0, pairs) as pair:
            for chain, total in enumerate(totals):
                add(begin + pair * chains + chain, total)
        with code.loop(begin + pairs * chains, end) as k:
            add(k, totals[0])
        _store(out, o0 + first, [a.get() + b.get() for a, b in zip(totals[0], totals[1], strict=True)])

    _channel_blocks(code, channels, 4, block)
