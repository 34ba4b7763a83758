"""Small scenes whose least-squares problem can be written down densely."""

from __future__ import annotations

import torch
from torch import Tensor

from fit3d_ns.lifting.operator import PatchOperator
from fit3d_ns.rasterization import RasterizeMode
from fit3d_ns.scene.splats import Splats
from fit3d_ns.scene.views import PinholeView
from tests.fit3d_ns.rasterization.scenes import random_scene

GRID = (5, 7)
"""Cells of 8x8 pixels at 56x40: 16-pixel tiles hold several, and cells do not straddle tiles."""
ODD_GRID = (3, 4)
"""Cells of 14 x 13.33 pixels: tiles and pixels are cut through."""


def small_scene(
    n: int = 60,
    views: int = 3,
    grid: tuple[int, int] = ODD_GRID,
    masked: bool = False,
    antialiased: bool = False,
    seed: int = 0,
    size: float = 0.15,
) -> tuple[Splats, list[PinholeView]]:
    """Gaussians of `random_scene` and its cameras; the masks leave out about half of the pixels in patches."""
    scene = random_scene(n, seed=seed, n_cameras=views, size=size)
    mode: RasterizeMode = "antialiased" if antialiased else "classic"
    shape = (scene[name] for name in ("means", "quats", "scales", "opacities"))
    splats = Splats(*shape, sh=torch.zeros(n, 1, 3), rasterize_mode=mode)
    random = torch.Generator().manual_seed(seed)
    width, height = scene["width"], scene["height"]
    made = []
    for viewmat, K in zip(scene["viewmats"], scene["Ks"], strict=True):
        mask = None
        if masked:
            coarse = (torch.rand(5, 7, generator=random) > 0.4).float()
            mask = coarse.repeat_interleave(8, 0).repeat_interleave(8, 1)
            mask[::3] *= 0.5
        made.append(PinholeView(viewmat, K, width, height, grid, mask))
    return splats, made


def dense(operator: PatchOperator) -> Tensor:
    """B [P, N] in float64, column by column."""
    return operator.apply(torch.eye(operator.num_gaussians)).double()


def least_squares(matrix: Tensor, targets: Tensor, weights: Tensor, regularization: float, prior: Tensor) -> Tensor:
    """The minimiser [N, D] by a dense float64 QR of the stacked system (no normal equations)."""
    root = weights.double().sqrt()[:, None]
    count = matrix.shape[1]
    left = torch.cat([root * matrix.double(), regularization**0.5 * torch.eye(count, dtype=torch.float64)])
    right = torch.cat([root * targets.double(), regularization**0.5 * prior.double()])
    return torch.linalg.lstsq(left, right, driver="gelsd").solution
