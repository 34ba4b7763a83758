"""Which Gaussians each tile of an image draws, and in which order, on the CPU."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fit3d_ns.rasterization.kernels import kernels
from fit3d_ns.rasterization.threads import thread_count


@dataclass
class TileLists:
    """The seen Gaussians of one camera, packed in depth order, and their lists per tile (row-major)."""

    ids: np.ndarray  # [M] int32, index of each packed Gaussian
    packed: np.ndarray  # [M * 12] float32
    lists: np.ndarray  # [I] int32, packed indices
    offsets: np.ndarray  # [tiles + 1] int64
    bounds: np.ndarray  # [threads + 1] int64, tile ranges of the threads


def bin_gaussians(
    means2d: np.ndarray,
    ldl: np.ndarray,
    opacities: np.ndarray,
    depths: np.ndarray,
    radii: np.ndarray,
    width: int,
    height: int,
) -> TileLists:
    """Depth order and tile lists of one camera. Call inside `kernel_launch`."""
    binning = kernels().binning
    parts = thread_count()
    tile_w, tile_h = math.ceil(width / binning.TILE), math.ceil(height / binning.TILE)
    ids = binning.depth_order(depths.view(np.uint32), radii, opacities)
    packed = np.empty(ids.size * binning.STRIDE, np.float32)
    first_row, row_count = np.empty(ids.size, np.int32), np.empty(ids.size, np.int32)
    binning.pack(parts, ids, means2d, ldl, opacities, radii, tile_h, packed, first_row, row_count)
    row_start = binning.exclusive_sum(row_count)
    spans = np.empty((2, int(row_start[-1])), np.int32)
    cursors = np.zeros((parts, tile_w * tile_h + 1), np.int64)
    binning.tile_spans(parts, ids, packed, radii, first_row, row_start, height, tile_w, spans, cursors)
    offsets = binning.tile_offsets(cursors)
    lists = np.empty(int(offsets[-1]), np.int32)
    binning.fill_tiles(parts, row_start, spans, cursors, lists)
    return TileLists(ids, packed, lists, offsets, kernels().part.balanced_ranges(parts, offsets))
