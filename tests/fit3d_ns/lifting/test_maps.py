"""Lifted features, and what is said about what is left over."""

from __future__ import annotations

import pytest
import torch

from fit3d_ns.features.space import full_space
from fit3d_ns.lifting.maps import lift_feature_maps
from fit3d_ns.lifting.operator import patch_operator
from tests.fit3d_ns.lifting.scenes import ODD_GRID, small_scene


def test_the_decoded_rendering_is_near_the_maps_it_was_lifted_from() -> None:
    geometry, views = small_scene(n=300, size=0.4)
    space = full_space(torch.randn(10))
    planted = torch.randn(300, 10)
    operator = patch_operator(geometry, views)
    cells = (operator.apply(planted) + space.mean).split(ODD_GRID[0] * ODD_GRID[1])
    maps = [values.reshape(*ODD_GRID, 10) for values in cells]
    lifted = lift_feature_maps(geometry, views, maps, space=space)
    assert lifted.cosine > 0.98
    assert float(lifted.errors[lifted.seen].mean()) < 0.05


def test_errors_are_largest_where_the_views_cannot_be_explained() -> None:
    geometry, views = small_scene(n=300, size=0.4, views=6)
    space = full_space(torch.zeros(8))
    left = torch.zeros(8)
    left[0] = 1
    maps = []
    for _ in views:  # the left half agrees, the right half is another vector in every view
        values = torch.nn.functional.normalize(torch.randn(*ODD_GRID, 8), dim=-1)
        values[:, :2] = left
        maps.append(values)
    geometry.means[0] = torch.tensor([0.0, 0.0, -50.0])
    lifted = lift_feature_maps(geometry, views[:1] * 6, maps, space=space)
    shares = patch_operator(geometry, views[:1]).transpose(torch.eye(ODD_GRID[0] * ODD_GRID[1]))
    shares = shares.reshape(-1, *ODD_GRID)
    on_left = shares[:, :, :2].sum((1, 2)) > 0.9 * shares.sum((1, 2)).clamp_min(1e-3)
    on_right = shares[:, :, 2:].sum((1, 2)) > 0.9 * shares.sum((1, 2)).clamp_min(1e-3)
    assert float(lifted.errors[on_left].mean()) < 0.3 * float(lifted.errors[on_right].mean())
    assert not bool(lifted.seen[0])
    assert float(lifted.errors[0]) == 1


def test_maps_that_do_not_fit_their_views_are_refused() -> None:
    geometry, views = small_scene()
    space = full_space(torch.zeros(4))
    with pytest.raises(ValueError, match="as many feature maps"):
        lift_feature_maps(geometry, views, [torch.zeros(*ODD_GRID, 4)], space=space)
    with pytest.raises(ValueError, match="cells where its view has"):
        lift_feature_maps(geometry, views, [torch.zeros(2, 2, 4)] * 3, space=space)
