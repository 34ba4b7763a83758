"""Gaussians and position term in one problem."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fit3d_ns.features.position import KNOTS, ViewDependence, position_map
from fit3d_ns.lifting.maps import held_out_cosine, lift_feature_maps
from fit3d_ns.lifting.operator import RenderOperator, SparseOperator, patch_operator
from fit3d_ns.lifting.positioned import PositionedOperator
from fit3d_ns.lifting.solver import LiftOptions
from tests.fit3d_ns.lifting.scenes import dense, small_scene

WEAK = LiftOptions(regularization=0.02)
"""These views are small: a Gaussian fills few of their cells."""
KINDS: tuple[ViewDependence, ...] = ("none", "position")


@pytest.mark.parametrize("kind", [SparseOperator.build, RenderOperator])
def test_it_is_the_operator_of_a_wider_matrix(kind) -> None:  # type: ignore[no-untyped-def]
    geometry, views = small_scene(masked=True, grid=(10, 14))
    views = [dataclasses.replace(views[0], grid=(5, 7)), *views[1:]]
    operator = PositionedOperator(kind(geometry, views), views)
    matrix = dense(operator)
    values, features = torch.randn(operator.num_cells, 6), torch.randn(operator.num_gaussians, 6)
    weights = torch.rand(operator.num_cells)
    torch.testing.assert_close(operator.apply(features), (matrix @ features.double()).float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(operator.transpose(values), (matrix.T @ values.double()).float(), rtol=1e-4, atol=1e-5)
    normal = matrix.T @ (weights[:, None] * (matrix @ features.double()))
    torch.testing.assert_close(operator.normal(features, weights), normal.float(), rtol=1e-4, atol=1e-5)
    shown = operator.apply(torch.cat([torch.zeros(len(geometry), 6), features[-operator.num_knots :]]))
    knots = features[-operator.num_knots :].reshape(*KNOTS, 6)
    torch.testing.assert_close(shown[:35].reshape(5, 7, 6), position_map(knots, (5, 7)))


def test_a_planted_position_term_is_told_from_what_the_gaussians_carry() -> None:
    grid, channels = (20, 28), 6
    geometry, views = small_scene(n=400, size=0.4, views=12, grid=grid)
    y, x = torch.meshgrid(torch.linspace(-1, 1, KNOTS[0]), torch.linspace(-1, 1, KNOTS[1]), indexing="ij")
    planted = torch.stack([y, x, y * x, y * y, x * x, y + x], dim=-1)
    planted = planted - planted.mean((0, 1))
    rendered = patch_operator(geometry, views).apply(torch.randn(400, channels)).split(grid[0] * grid[1])
    maps = [values.reshape(*grid, channels) + position_map(planted, grid) for values in rendered]

    plain, found = (lift_feature_maps(geometry, views[:9], maps[:9], None, WEAK, kind) for kind in KINDS)
    assert plain.position is None
    assert found.position is not None
    error = found.position - planted - (found.position - planted).mean((0, 1))
    assert float(error.square().mean()) < 0.1 * float(planted.square().mean())
    held_out = [held_out_cosine(geometry, lifted, views[9:], maps[9:]) for lifted in (plain, found)]
    assert held_out[1] > 0.9 > held_out[0]
    assert found.cosine > plain.cosine


def test_without_a_position_term_in_the_features_none_is_made_up() -> None:
    grid = (20, 28)
    geometry, views = small_scene(n=400, size=0.4, views=12, grid=grid)
    rendered = patch_operator(geometry, views).apply(torch.randn(400, 6)).split(grid[0] * grid[1])
    maps = [values.reshape(*grid, 6) for values in rendered]
    plain, found = (lift_feature_maps(geometry, views[:9], maps[:9], None, WEAK, kind) for kind in KINDS)
    assert found.position is not None
    assert float(found.position.square().mean()) < 0.02 * float(torch.stack(maps).square().mean())
    without = held_out_cosine(geometry, plain, views[9:], maps[9:])
    assert held_out_cosine(geometry, found, views[9:], maps[9:]) > without - 0.03
