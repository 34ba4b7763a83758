"""The rows of one view's blending weights on its patch grid, from the CPU rasteriser's tile lists."""

from __future__ import annotations

import numpy as np
import torch

from fit3d_ns.features.patch_grid import pool_to_patch_grid
from fit3d_ns.rasterization import EPS2D, FAR_PLANE, TILE_SIZE
from fit3d_ns.scene.render import NEAR_PLANE
from fit3d_ns.scene.splats import Splats
from fit3d_ns.scene.views import PinholeView

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
"""A sparse matrix by rows (CSR): indptr int64, columns int32 and values float32."""


def view_rows(splats: Splats, view: PinholeView) -> Rows:
    """B of one view in CSR: indptr [h * w + 1], columns (Gaussians) and values; memory of the tile lists' entries."""
    from fit3d_ns.rasterization.binning import bin_gaussians
    from fit3d_ns.rasterization.kernel_cache import load_kernels
    from fit3d_ns.rasterization.threads import kernel_launch, thread_count

    kernels = load_kernels("fit3d_ns.lifting._kernels")
    means2d, ldl, opacities, depths, radii = _projected(splats, view)
    h, w = view.grid
    share_y, share_x = _shares(h, view.height), _shares(w, view.width)
    mask = np.ones((view.height, view.width), np.float32)
    scale = np.ones(h * w, np.float32)
    if view.mask is not None:
        mask = view.mask.float().cpu().contiguous().numpy()
        covered = pool_to_patch_grid(torch.from_numpy(mask)[..., None], view.grid)[0].reshape(-1).numpy()
        # A cell is the mean of its unmasked pixels, as in `pool_to_patch_grid`.
        scale = np.where(covered > 0, 1 / np.where(covered > 0, covered, 1), 0).astype(np.float32)
    cells_y, tiles_y = _overlapping(share_y)
    cells_x, tiles_x = _overlapping(share_x)
    tile_w = len(cells_x)
    with kernel_launch():
        tiles = bin_gaussians(means2d, ldl, opacities, depths, radii, view.width, view.height)
        cells = np.outer(cells_y[:, 1] - cells_y[:, 0], cells_x[:, 1] - cells_x[:, 0]).reshape(-1)
        starts = np.concatenate([[0], np.cumsum(np.diff(tiles.offsets) * cells)]).astype(np.int64)
        values = np.zeros(int(starts[-1]), np.float32)
        size = (view.width, view.height)
        kernels.tile_weights(tiles.bounds, tiles.offsets, tiles.lists, tiles.packed, size, tile_w, cells_y, cells_x,
                             share_y, share_x, mask, starts, values)  # fmt: skip
        indptr = np.zeros(h * w + 1, np.int64)
        rows = (thread_count(), view.grid, tiles.ids, tiles.offsets, tiles.lists, tile_w, tiles_y, tiles_x, cells_y,
                cells_x, starts, values)  # fmt: skip
        kernels.cell_rows(*rows, indptr, np.empty(0, np.int32), np.empty(0, np.float32))
        np.cumsum(indptr, out=indptr)
        columns, data = np.empty(int(indptr[-1]), np.int32), np.empty(int(indptr[-1]), np.float32)
        if columns.size:
            kernels.cell_rows(*rows, indptr, columns, data)
    data *= np.repeat(scale, np.diff(indptr))
    return indptr, columns, data


def _projected(splats: Splats, view: PinholeView) -> tuple[np.ndarray, ...]:
    """means2d [N, 2], ldl [N, 3], opacities [N], depths [N], radii [N] of one camera, as `rasterization` finds them."""
    from fit3d_ns.rasterization.cpu import Project

    with torch.no_grad():
        means2d, depths, ldl, compensations, _, radii = Project.apply(
            splats.means,
            splats.quats,
            splats.scales,
            view.world_to_camera.to(splats.means)[None],
            view.K.to(splats.means)[None],
            view.width,
            view.height,
            EPS2D,
            NEAR_PLANE,
            FAR_PLANE,
            0.0,
        )
        opacities = splats.opacities
        if splats.rasterize_mode == "antialiased":
            opacities = opacities * compensations[0]
    return tuple(t.contiguous().numpy() for t in (means2d[0], ldl[0], opacities, depths[0], radii[0]))


def _shares(cells: int, pixels: int) -> np.ndarray:
    """[cells, pixels]: the share of each cell that each pixel covers, along one axis."""
    pooled, _ = pool_to_patch_grid(torch.eye(pixels)[:, None], (cells, 1))
    return pooled[:, 0].contiguous().numpy()


def _overlapping(shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Along one axis, the range [first, last + 1) of cells of each tile, and of tiles of each cell.

    shares: [cells, pixels], the share of each cell that each pixel covers.
    """
    cells, pixels = shares.shape
    tiles = -(-pixels // TILE_SIZE)
    padded = np.zeros((cells, tiles * TILE_SIZE), bool)
    padded[:, :pixels] = shares > 0
    touch: np.ndarray = np.any(padded.reshape(cells, tiles, TILE_SIZE), axis=2)

    def ranges(table: np.ndarray) -> np.ndarray:
        first = table.argmax(1)
        last = table.shape[1] - table[:, ::-1].argmax(1)
        return np.stack([first, last], axis=1).astype(np.int64)

    return ranges(touch.T), ranges(touch)
