"""Gaussians and the position term in one least-squares problem: B with more columns.

The features of cell p are (B F)_p + (Q G)_p, with Q the weights of the position term's knots in the cells, the same in
every view, and G what the knots hold. Both are unknown, and [B Q] [F; G] is linear in them: to the solver the knots
are further Gaussians, which every view sees in the same places.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fit3d_ns.features.position import position_basis
from fit3d_ns.lifting.operator import PatchOperator
from fit3d_ns.scene.views import PinholeView


class PositionedOperator:
    """[B Q]: features of Gaussians and, below them, of knots [N + K, D] to values on patch grids [P, D].

    Args:
        operator: B.
        views: those that B is of.
    """

    def __init__(self, operator: PatchOperator, views: Sequence[PinholeView]) -> None:
        self.operator = operator
        self.device = operator.device
        self.num_cells = operator.num_cells
        self.grids = [view.grid for view in views]
        # The views of a grid share their part of Q.
        self.bases = {grid: position_basis(grid).to(self.device) for grid in dict.fromkeys(self.grids)}
        self.num_knots = next(iter(self.bases.values())).shape[1]
        self.num_gaussians = operator.num_gaussians + self.num_knots

    def apply(self, features: Tensor) -> Tensor:
        ours, knots = self.split(features)
        shown = {grid: basis @ knots for grid, basis in self.bases.items()}
        return self.operator.apply(ours) + torch.cat([shown[grid] for grid in self.grids])

    def transpose(self, values: Tensor) -> Tensor:
        sums = {grid: values.new_zeros(len(basis), values.shape[1]) for grid, basis in self.bases.items()}
        for grid, part in zip(self.grids, values.split([h * w for h, w in self.grids]), strict=True):
            sums[grid] += part
        knots = torch.stack([basis.T @ sums[grid] for grid, basis in self.bases.items()]).sum(0)
        return torch.cat([self.operator.transpose(values), knots])

    def normal(self, features: Tensor, weights: Tensor) -> Tensor:
        return self.transpose(self.apply(features) * weights[:, None])

    def split(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """What Gaussians have and what knots have, of [N + K, ...]."""
        return features[: self.operator.num_gaussians], features[self.operator.num_gaussians :]
