"""Normalised back-projection against dense matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fit3d_ns.lifting.solver import back_project


class DenseOperator:
    """A patch operator that is a given matrix [P, N]."""

    device = torch.device("cpu")

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.num_cells, self.num_gaussians = matrix.shape

    def apply(self, features: Tensor) -> Tensor:
        return self.matrix @ features

    def transpose(self, values: Tensor) -> Tensor:
        return self.matrix.T @ values

    def normal(self, features: Tensor, weights: Tensor) -> Tensor:
        return self.matrix.T @ (weights[:, None] * (self.matrix @ features))


def test_back_projection_is_the_weighted_mean_over_all_cells_of_all_views() -> None:
    cells, count, channels = 60, 7, 3
    matrix = torch.rand(cells, count)
    matrix[:, 2] = 0  # a Gaussian that nobody sees
    targets, weights = torch.randn(cells, channels), torch.rand(cells)
    features, total = back_project(DenseOperator(matrix), targets, weights)
    for gaussian in range(count):
        share = matrix[:, gaussian] * weights
        assert float(total[gaussian]) == pytest.approx(float(share.sum()), rel=1e-5)
        for channel in range(channels):
            expected = float((share * targets[:, channel]).sum() / share.sum()) if gaussian != 2 else 0.0
            assert float(features[gaussian, channel]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_constant_maps_give_that_constant() -> None:
    targets = torch.tensor([2.0, -1.0]).expand(12, 2)
    features, _ = back_project(DenseOperator(torch.rand(12, 5)), targets, torch.rand(12))
    torch.testing.assert_close(features, torch.tensor([2.0, -1.0]).expand(5, 2))


def test_more_channels_than_one_block_come_out_in_order() -> None:
    operator = DenseOperator(torch.rand(12, 5))
    targets = torch.randn(12, 150)
    features, _ = back_project(operator, targets, torch.ones(12))
    last, _ = back_project(operator, targets[:, 149:], torch.ones(12))
    assert features.shape == (5, 150)
    torch.testing.assert_close(features[:, 149:], last)
