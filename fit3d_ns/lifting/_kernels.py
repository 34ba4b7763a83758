# mypy: disable-error-code=no-untyped-def
# Numba infers the types of these functions; shapes are in the docstrings.
"""Blending weights averaged over the cells of a patch grid, as sparse rows, and products with them (Numba).

For one view, B[cell, i] = sum over pixels p of share[cell, p] w[p, i], with w the blending weights of the rasteriser
(the same code: `_wide_kernels.collect_chunk`) and share the part of the cell's mean that a pixel gives. A 16x16 tile
touches few cells, so its part of B is one small matrix product per chunk of Gaussians, as for gradients of features; a
cell then adds up its tiles. Nothing of the size of pixels x Gaussians is ever stored.

Every sum is taken in an order that does not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from fit3d_ns.rasterization._binning_kernels import TILE
from fit3d_ns.rasterization._blend_kernels import F0, HALF, start_tile
from fit3d_ns.rasterization._microkernels import HALF_ROW, LANES, LISTS, add_inner, aligned, sparse_row
from fit3d_ns.rasterization._part_kernels import part_range
from fit3d_ns.rasterization._row_kernels import PIXELS, live_rows
from fit3d_ns.rasterization._wide_kernels import CHUNK, STATE, collect_chunk


@njit(cache=True, nogil=True, error_model="numpy")
def _tile_shares(x0, y0, size, rows, columns, share_y, share_x, mask, width, shares):
    """shares [256, width]: what each pixel of a tile adds to each cell of the ranges rows x columns, rows first."""
    image_width, image_height = size
    across = columns[1] - columns[0]
    shares[: PIXELS * width] = F0
    for r in range(min(TILE, image_height - y0)):
        for j in range(min(TILE, image_width - x0)):
            for cy in range(rows[0], rows[1]):
                for cx in range(columns[0], columns[1]):
                    shares[(r * TILE + j) * width + (cy - rows[0]) * across + cx - columns[0]] = (
                        share_y[cy, y0 + r] * share_x[cx, x0 + j] * mask[y0 + r, x0 + j]
                    )


@njit(cache=True, nogil=True, error_model="numpy")
def _tile_range(start, stop, offsets, lists, packed, size, tile_w, cells_y, cells_x, share_y, share_x, mask, starts,
                values):  # fmt: skip
    state = aligned(STATE)
    live = np.empty(TILE, np.int64)
    places = np.arange(CHUNK).astype(np.int32)
    rows, counts = np.empty(LISTS * CHUNK, np.int32), np.empty(LISTS, np.int64)
    weights = aligned(LISTS * CHUNK * HALF_ROW)
    most = max(np.max(cells_y[:, 1] - cells_y[:, 0]) * np.max(cells_x[:, 1] - cells_x[:, 0]), LANES)
    shares, sums = aligned(PIXELS * most), aligned(CHUNK * most)
    for tile in range(start, stop):
        if offsets[tile] == offsets[tile + 1]:
            continue
        tx, ty = tile % tile_w, tile // tile_w
        x0, y0 = tx * TILE, ty * TILE
        start_tile(state, x0, y0, size[0], size[1])
        cells = (cells_y[ty, 1] - cells_y[ty, 0]) * (cells_x[tx, 1] - cells_x[tx, 0])
        width = max(cells, LANES)
        _tile_shares(x0, y0, size, cells_y[ty], cells_x[tx], share_y, share_x, mask, width, shares)
        at = offsets[tile]
        while at < offsets[tile + 1] and live_rows(state, live) > 0:
            until = min(at + CHUNK, offsets[tile + 1])
            sums[: CHUNK * width] = F0
            collect_chunk(at, until, lists, places, packed, np.float32(x0) + HALF, np.float32(y0) + HALF, live, state,
                          rows, counts, weights, sums, 0)  # fmt: skip
            add_inner(weights, rows, counts, CHUNK, shares, width, sums)
            for entry in range(at, until):
                to = starts[tile] + (entry - offsets[tile]) * cells
                for c in range(cells):
                    values[to + c] = sums[(entry - at) * width + c]
            at = until


@njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def tile_weights(bounds, offsets, lists, packed, size, tile_w, cells_y, cells_x, share_y, share_x, mask, starts,
                 values):  # fmt: skip
    """Each tile's part of B: values[starts[tile]:], one row of cells per entry of the tile's list; zero on entry.

    cells_y [tile rows, 2], cells_x [tile columns, 2]: the range of cells that a tile touches.
    share_y [h, H], share_x [w, W]: what a pixel row or column adds to a cell row or column. mask [H, W].
    """
    for thread in prange(bounds.size - 1):
        part = np.int64(thread)
        _tile_range(bounds[part], bounds[part + 1], offsets, lists, packed, size, tile_w, cells_y, cells_x, share_y,
                    share_x, mask, starts, values)  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def _gather_row(cy, cx, offsets, lists, tile_w, tiles_y, tiles_x, cells_y, cells_x, starts, values, sums, met, found):
    """Add up the tiles of one cell: `sums` of the packed Gaussians met[:n], in the order met; returns n."""
    n = 0
    for ty in range(tiles_y[cy, 0], tiles_y[cy, 1]):
        for tx in range(tiles_x[cx, 0], tiles_x[cx, 1]):
            tile = ty * tile_w + tx
            across = cells_x[tx, 1] - cells_x[tx, 0]
            cells = (cells_y[ty, 1] - cells_y[ty, 0]) * across
            at = starts[tile] + (cy - cells_y[ty, 0]) * across + cx - cells_x[tx, 0]
            for entry in range(offsets[tile], offsets[tile + 1]):
                value = values[at]
                at += cells
                if value > F0:
                    i = lists[entry]
                    if not found[i]:
                        found[i] = True
                        sums[i] = F0
                        met[n] = i
                        n += 1
                    sums[i] += value
    for k in range(n):
        found[met[k]] = False
    return n


@njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def cell_rows(parts, grid, ids, offsets, lists, tile_w, tiles_y, tiles_x, cells_y, cells_x, starts, values, indptr,
              columns, data):  # fmt: skip
    """Rows of B. With columns of size 0: counts into indptr[1:]; else indptr holds the offsets and rows are written.

    tiles_y [h, 2], tiles_x [w, 2]: the range of tiles under a cell. ids [M]: index of each packed Gaussian.
    """
    h, w = grid
    for thread in prange(parts):
        sums = np.empty(ids.size, np.float32)
        met = np.empty(ids.size, np.int32)
        found = np.zeros(ids.size, np.bool_)
        first, last = part_range(thread, parts, h * w)
        for cell in range(first, last):
            n = _gather_row(cell // w, cell % w, offsets, lists, tile_w, tiles_y, tiles_x, cells_y, cells_x, starts,
                            values, sums, met, found)  # fmt: skip
            if columns.size == 0:
                indptr[cell + 1] = n
            else:
                to = indptr[cell]
                for k in range(n):
                    columns[to + k] = ids[met[k]]
                    data[to + k] = sums[met[k]]


@njit(cache=True, parallel=True, nogil=True, error_model="numpy")
def multiply(bounds, indptr, indices, data, dense, out):
    """out [R, D] = a sparse matrix [R, M] (CSR) times dense [M, D], D >= `LANES`; bounds: row ranges of the threads."""
    channels = dense.shape[1]
    flat, sums = dense.reshape(dense.size), out.reshape(out.size)
    for thread in prange(bounds.size - 1):
        part = np.int64(thread)
        for row in range(bounds[part], bounds[part + 1]):
            sparse_row(data, indices, indptr[row], indptr[row + 1], flat, channels, sums, row * channels)
