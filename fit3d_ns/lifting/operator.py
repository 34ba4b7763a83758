"""Rendering and pooling as one linear map: per-Gaussian channels [N, D] to values on the views' patch grids [P, D].

B = U A stacks, for all views, the blending weights A pooled over the cells of each view's patch grid (U); P counts the
cells of all views, view after view, rows first. With geometry fixed B does not change, and lifting features is a
least-squares problem in B (`fit3d_ns.lifting.solver`). There are two forms of B with the same values:

  - `SparseOperator` (CPU): the matrix itself, built once from the rasteriser's tile lists;
  - `RenderOperator` (CUDA, and CPU for comparison): matrix-free, B is a rendering and B^T its gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fit3d_ns.common.console import progress
from fit3d_ns.features.patch_grid import pool_to_patch_grid
from fit3d_ns.rasterization import rasterization

NEAR_PLANE = 0.01
"""splatfacto's, in the Gaussians' frame."""

MIN_COUNTED = 0.5
"""A cell of which less than this share is unmasked does not count, as in the metrics of the method."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where Gaussians are and how opaque: all that decides B. float32 tensors on one device."""

    means: Tensor
    """[N, 3]"""
    quats: Tensor
    """[N, 4], wxyz, any length but zero"""
    scales: Tensor
    """[N, 3], linear"""
    opacities: Tensor
    """[N], in 0..1"""
    rasterize_mode: Literal["classic", "antialiased"] = "classic"

    def __len__(self) -> int:
        return self.means.shape[0]

    def to(self, device: torch.device | str) -> Geometry:
        """The same Gaussians on another device."""
        means, quats, scales, opacities = (t.to(device) for t in (self.means, self.quats, self.scales, self.opacities))
        return Geometry(means, quats, scales, opacities, self.rasterize_mode)


@dataclass(frozen=True, eq=False)
class View:
    """A pinhole camera with its patch grid."""

    world_to_camera: Tensor
    """[4, 4], OpenCV axes."""
    K: Tensor
    """[3, 3] in pixels."""
    width: int
    height: int
    grid: tuple[int, int]
    """(h, w) of the patch grid, which spans the whole image."""
    mask: Tensor | None = None
    """[height, width], 1 = counts, 0 = left out; fractions are fine."""

    def to(self, device: torch.device | str) -> View:
        """The same view on another device."""
        pose, K = self.world_to_camera.to(device), self.K.to(device)
        mask = None if self.mask is None else self.mask.to(device)
        return View(pose, K, self.width, self.height, self.grid, mask)


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


def cell_weights(views: Sequence[View], device: torch.device | str = "cpu") -> Tensor:
    """[P]: the unmasked share of every cell, zero below `MIN_COUNTED`."""
    shares = []
    for view in views:
        share = torch.ones(view.grid)
        if view.mask is not None:
            share, _ = pool_to_patch_grid(view.mask.float().cpu()[..., None], view.grid)
            share = share[..., 0]
        shares.append(share.reshape(-1))
    weights = torch.cat(shares)
    return torch.where(weights >= MIN_COUNTED, weights, 0.0).to(device)


def patch_operator(geometry: Geometry, views: Sequence[View]) -> PatchOperator:
    """B in the form that suits the device of `geometry`."""
    if geometry.means.device.type == "cpu":
        return SparseOperator.build(geometry, views)
    return RenderOperator(geometry, views)


class RenderOperator:
    """B without a matrix: memory of one view's rendering, on any device.

    Args:
        geometry: the Gaussians.
        views: at least one.
    """

    def __init__(self, geometry: Geometry, views: Sequence[View]) -> None:
        if not views:
            raise ValueError("no views to lift features from")
        self.geometry = geometry
        self.views = [view.to(geometry.means.device) for view in views]
        self.num_gaussians = len(geometry)
        self.num_cells = sum(view.grid[0] * view.grid[1] for view in views)
        self.device = geometry.means.device

    def apply(self, features: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([self._render(view, features) for view in self.views])

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
        for index, view in enumerate(self.views):
            with torch.enable_grad():
                pooled = self._render(view, probe)
            cotangent = values[index]
            if cotangent is None:
                assert weights is not None
                cotangent = weights[index][:, None] * pooled.detach()
            (gradient,) = torch.autograd.grad(pooled, probe, cotangent)
            total += gradient
        return total

    def _render(self, view: View, features: Tensor) -> Tensor:
        geometry = self.geometry
        image, _, _ = rasterization(
            geometry.means,
            geometry.quats,
            geometry.scales,
            geometry.opacities,
            features,
            view.world_to_camera.to(geometry.means)[None],
            view.K.to(geometry.means)[None],
            view.width,
            view.height,
            near_plane=NEAR_PLANE,
            rasterize_mode=geometry.rasterize_mode,
        )
        mask = None if view.mask is None else view.mask.float()[..., None]
        pooled, _ = pool_to_patch_grid(image[0], view.grid, mask)
        return pooled.reshape(-1, features.shape[1])


class SparseOperator:
    """B as a sparse matrix on the CPU, once by rows and once by columns.

    Memory: 16 bytes per entry. An entry is a Gaussian with a positive weight in a cell: some hundreds per cell, so
    36 views of 24x32 cells take a few hundred MB.

    Args:
        rows: (indptr [P + 1] int64, columns int32, values float32) of B, in CSR.
        num_gaussians: N.
    """

    device = torch.device("cpu")

    def __init__(self, rows: tuple[np.ndarray, np.ndarray, np.ndarray], num_gaussians: int) -> None:
        import scipy.sparse

        indptr, columns, values = rows
        self.num_gaussians = num_gaussians
        self.num_cells = len(indptr) - 1
        self.matrix = scipy.sparse.csr_matrix((values, columns, indptr), shape=(self.num_cells, num_gaussians))
        self._columns = self.matrix.tocsc()
        self._row_bounds = _balanced(self.matrix.indptr)
        self._column_bounds = _balanced(self._columns.indptr)

    @staticmethod
    def build(geometry: Geometry, views: Sequence[View]) -> SparseOperator:
        """From the rasteriser's tile lists, one view at a time."""
        if not views:
            raise ValueError("no views to lift features from")
        # Imported late: it compiles kernels at its first call and knows the classes above.
        from fit3d_ns.lifting.blending_weights import view_rows

        return SparseOperator(_stack(view_rows(geometry, view) for view in _shown(views)), len(geometry))

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


Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


def _shown(views: Sequence[View]) -> Iterable[View]:
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
