"""The position term: what a backbone's features say of the place in the image, whatever is shown there.

A ViT adds position embeddings to its patches, and their traces are in its last features: a surface that is seen at
another place in the image gets other features, by about the same difference for every surface (Yang et al., Denoising
Vision Transformers, ECCV 2024, arXiv 2401.02957). No point in space can hold that part. It is smooth, the same for all
images, and so kept as features [rows, columns, C] at the knots of a coarse net over the image, bilinear between them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from fit3d_ns.common.choices import ViewDependence as ViewDependence

KNOTS = (12, 16)
"""Rows and columns of the net."""

_RIDGE = 1.0
"""Pull of a knot towards zero, in cells."""


@functools.lru_cache(maxsize=8)
def position_basis(grid: tuple[int, int], knots: tuple[int, int] = KNOTS) -> Tensor:
    """How much each knot counts in each cell of a patch grid [h * w, rows * columns]: not negative, rows sum to 1."""
    each = torch.eye(knots[0] * knots[1]).reshape(-1, 1, *knots)
    return F.interpolate(each, grid, mode="bilinear", align_corners=False).reshape(len(each), -1).T.contiguous()


def position_map(position: Tensor, grid: tuple[int, int]) -> Tensor:
    """The position term [rows, columns, C] on a patch grid: [h, w, C]."""
    rows, columns, channels = position.shape
    basis = position_basis(grid, (rows, columns)).to(position)
    return (basis @ position.reshape(-1, channels)).reshape(*grid, channels)


def fit_position(maps: Iterable[Tensor], weights: Iterable[Tensor]) -> Tensor:
    """What maps have in common at each place, apart from what they have in common everywhere: [*KNOTS, C], float32.

    A first guess: the content that stands at the same place in many views (the floor below) is in it, too.

    Args:
        maps: features [h, w, C] of images, read once; grids may differ.
        weights: [h * w] of each map, not negative.
    """
    count = KNOTS[0] * KNOTS[1]
    normal, sums = torch.zeros(count, count, dtype=torch.float64), torch.zeros(count, 1, dtype=torch.float64)
    shares = torch.zeros(count, dtype=torch.float64)
    for values, counts in zip(maps, weights, strict=True):
        basis = position_basis((values.shape[0], values.shape[1])).double()
        weighted = basis * counts.cpu().double()[:, None]
        normal += weighted.T @ basis
        sums = sums + weighted.T @ values.cpu().double().reshape(len(basis), -1)
        shares += weighted.sum(0)
    mean = sums.sum(0) / shares.sum().clamp_min(1e-12)  # a cell's shares of the knots sum to 1
    common = torch.linalg.solve(normal + _RIDGE * torch.eye(count).double(), sums - shares[:, None] * mean)
    return common.float().reshape(*KNOTS, -1)


class WithoutPosition:
    """Feature maps less a position term; made anew in every pass.

    Args:
        maps: features [h, w, C].
        position: [rows, columns, C].
    """

    def __init__(self, maps: Iterable[Tensor], position: Tensor) -> None:
        self.maps, self.position = maps, position

    def __iter__(self) -> Iterator[Tensor]:
        for values in self.maps:
            yield values.to(self.position) - position_map(self.position, (values.shape[0], values.shape[1]))
