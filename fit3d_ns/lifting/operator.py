"""Rendering and pooling as one linear map: per-Gaussian channels [N, D] to values on the views' patch grids [P, D].

B = U A stacks, for all views, the blending weights A pooled over the cells of each view's patch grid (U); P counts the
cells of all views, view after view, rows first. With geometry fixed B does not change, and lifting features is a
least-squares problem in B (`fit3d_ns.lifting.solver`). There are two forms of B with the same values:

  - `SparseOperator` (CPU): the matrix itself, built once from the rasteriser's tile lists;
  - `RenderOperator` (CUDA, and CPU for comparison): matrix-free, B is a rendering and B^T its gradient. On a GPU each
    view is projected and sorted once, as far as memory allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fit3d_ns.common.console import progress
from fit3d_ns.features.patch_grid import counted, pool_to_patch_grid
from fit3d_ns.lifting.blending_weights import Rows, view_rows
from fit3d_ns.rasterization.backend import on_gsplat
from fit3d_ns.rasterization.prepared import PreparedView
from fit3d_ns.scene.render import NEAR_PLANE, rasterize
from fit3d_ns.scene.splats import Splats
from fit3d_ns.scene.views import PinholeView


class PatchOperator(Protocol):
    """B as functions of tensors; all tensors are float32 on `device`."""

    num_gaussians: int
    num_cells: int
    device: torch.device

    def apply(self, features: Tensor) -> Tensor:
        """B features: [N, D] to [P, D]."""

    def transpose(self, values: Tensor) -> Tensor:
        """B^T values: [P, D] to [N, D]."""

    def normal(self, features: Tensor, weights: Tensor) -> Tensor:
        """B^T diag(weights) B features: [N, D] and [P] to [N, D]."""


def cell_weights(views: Sequence[PinholeView], device: torch.device | str = "cpu") -> Tensor:
    """[P]: the unmasked share of every cell, zero where it does not count (`patch_grid.counted`)."""
    shares = []
    for view in views:
        share = torch.ones(view.grid)
        if view.mask is not None:
            share, _ = pool_to_patch_grid(view.mask.float().cpu()[..., None], view.grid)
            share = share[..., 0]
        shares.append(share.reshape(-1))
    return counted(torch.cat(shares)).to(device)


def patch_operator(splats: Splats, views: Sequence[PinholeView]) -> PatchOperator:
    """B in the form that suits the device of `splats`."""
    if on_gsplat(splats.means.device):
        return RenderOperator(splats, views)
    return SparseOperator.build(splats, views)


class RenderOperator:
    """B without a matrix: memory of one view's rendering, on any device.

    Args:
        splats: the Gaussians.
        views: at least one.
        kept_bytes: for prepared views on a GPU; those that do not fit are prepared anew in every product. None: half
            of what is free there.
    """

    def __init__(self, splats: Splats, views: Sequence[PinholeView], kept_bytes: int | None = None) -> None:
        if not views:
            raise ValueError("no views to lift features from")
        self.splats = splats
        self.views = [view.to(splats.means.device) for view in views]
        self.num_gaussians = len(splats)
        self.num_cells = sum(view.grid[0] * view.grid[1] for view in views)
        self.device = splats.means.device
        self._prepared: dict[int, PreparedView] = {}
        self._room = kept_bytes if kept_bytes is not None else _free_bytes(self.device) // 2

    def apply(self, features: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([self._render(index, features) for index in range(len(self.views))])

    def transpose(self, values: Tensor) -> Tensor:
        probe = values.new_zeros(self.num_gaussians, values.shape[1])
        sizes = [view.grid[0] * view.grid[1] for view in self.views]
        return self._pull_back(probe, list(values.split(sizes)))

    def normal(self, features: Tensor, weights: Tensor) -> Tensor:
        sizes = [view.grid[0] * view.grid[1] for view in self.views]
        return self._pull_back(features, [None] * len(sizes), list(weights.split(sizes)))

    def _pull_back(
        self, features: Tensor, values: Sequence[Tensor | None], weights: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Sum over views of B_v^T values_v; where values_v is None of B_v^T diag(weights_v) B_v features."""
        total = torch.zeros_like(features)
        probe = features.detach().clone().requires_grad_()
        for index in range(len(self.views)):
            with torch.enable_grad():
                pooled = self._render(index, probe)
            cotangent = values[index]
            if cotangent is None:
                assert weights is not None
                cotangent = weights[index][:, None] * pooled.detach()
            (gradient,) = torch.autograd.grad(pooled, probe, cotangent)
            total += gradient
        return total

    def _render(self, index: int, features: Tensor) -> Tensor:
        view = self.views[index]
        if on_gsplat(self.device):
            image = self._prepare(index).render(features)
        else:
            image = rasterize(self.splats, features, view)[0][0]
        mask = None if view.mask is None else view.mask.float()[..., None]
        pooled, _ = pool_to_patch_grid(image, view.grid, mask)
        return pooled.reshape(-1, features.shape[1])

    def _prepare(self, index: int) -> PreparedView:
        if index in self._prepared:
            return self._prepared[index]
        splats, view = self.splats, self.views[index]
        pose, K = view.world_to_camera.to(splats.means), view.K.to(splats.means)
        prepared = PreparedView.of(
            splats.means, splats.quats, splats.scales, splats.opacities, pose, K, view.width, view.height, NEAR_PLANE,
            splats.rasterize_mode,
        )  # fmt: skip
        if prepared.num_bytes <= self._room:
            self._room -= prepared.num_bytes
            self._prepared[index] = prepared
        return prepared


class SparseOperator:
    """B as a sparse matrix on the CPU, once by rows and once by columns.

    Memory: 16 bytes per entry. An entry is a Gaussian with a positive weight in a cell: some hundreds per cell, so
    36 views of 24x32 cells take a few hundred MB.

    Args:
        rows: (indptr [P + 1] int64, columns int32, values float32) of B, in CSR.
        num_gaussians: N.
    """

    device = torch.device("cpu")

    def __init__(self, rows: Rows, num_gaussians: int) -> None:
        import scipy.sparse

        indptr, columns, values = rows
        self.num_gaussians = num_gaussians
        self.num_cells = len(indptr) - 1
        self.matrix = scipy.sparse.csr_matrix((values, columns, indptr), shape=(self.num_cells, num_gaussians))
        self._columns = self.matrix.tocsc()
        self._row_bounds = _balanced(self.matrix.indptr)
        self._column_bounds = _balanced(self._columns.indptr)

    @staticmethod
    def build(splats: Splats, views: Sequence[PinholeView]) -> SparseOperator:
        """From the rasteriser's tile lists, one view at a time."""
        if not views:
            raise ValueError("no views to lift features from")
        return SparseOperator(_stack(view_rows(splats, view) for view in _shown(views)), len(splats))

    def apply(self, features: Tensor) -> Tensor:
        return self._multiply(self.matrix, self._row_bounds, features, self.num_cells)

    def transpose(self, values: Tensor) -> Tensor:
        return self._multiply(self._columns, self._column_bounds, values, self.num_gaussians)

    def normal(self, features: Tensor, weights: Tensor) -> Tensor:
        return self.transpose(self.apply(features) * weights[:, None])

    def _multiply(self, matrix: Any, bounds: np.ndarray, dense: Tensor, rows: int) -> Tensor:
        from fit3d_ns.rasterization.kernel_cache import load_kernels
        from fit3d_ns.rasterization.threads import kernel_launch

        kernels = load_kernels("fit3d_ns.lifting._kernels")
        channels, narrow = dense.shape[1], max(0, kernels.LANES - dense.shape[1])
        values = dense.detach().float().contiguous()
        if narrow:  # padding by nothing would copy, in every product
            values = F.pad(values, (0, narrow))
        out = torch.empty(rows, channels + narrow)
        with kernel_launch():
            kernels.multiply(bounds, matrix.indptr, matrix.indices, matrix.data, values.numpy(), out.numpy())
        return out[:, :channels]


def _free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def _shown(views: Sequence[PinholeView]) -> Iterable[PinholeView]:
    with progress("views") as bar:
        task = bar.add_task("Blending weights", total=len(views))
        for view in views:
            yield view
            bar.advance(task)


def _stack(parts: Iterable[Rows]) -> Rows:
    """CSR matrices below each other."""
    counts, columns, values = zip(*((np.diff(part[0]), part[1], part[2]) for part in parts), strict=True)
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    return indptr, np.concatenate(columns), np.concatenate(values)


def _balanced(indptr: np.ndarray) -> np.ndarray:
    """Row ranges of about equally many entries, one for each thread."""
    from fit3d_ns.rasterization.threads import thread_count

    parts = thread_count()
    # A row itself costs about as much as four entries.
    work = indptr.astype(np.int64) + 4 * np.arange(len(indptr))
    bounds = np.searchsorted(work, np.linspace(0, work[-1], parts + 1))
    bounds[0], bounds[-1] = 0, len(indptr) - 1
    return bounds.astype(np.int64)
