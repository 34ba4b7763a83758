"""Coordinates of lifted features, and what is said about what is left over."""

from __future__ import annotations

import pytest
import torch

from fit3d_ns.features.decoder import FeatureDecoder
from fit3d_ns.features.pca import fit_pca
from fit3d_ns.lifting.maps import fit_space, full_space, lift_feature_maps, pca_space
from fit3d_ns.lifting.operator import patch_operator
from tests.fit3d_ns.lifting.scenes import ODD_GRID, small_scene


def random_maps(count: int, channels: int = 10) -> list[torch.Tensor]:
    mixing = torch.randn(channels, channels)
    return [(torch.randn(*ODD_GRID, channels) @ mixing + 3).half() for _ in range(count)]


@pytest.mark.parametrize("feature_dim", [3, 10, 14, None])
def test_encoding_and_the_decoder_of_the_export_undo_each_other(feature_dim: int | None) -> None:
    maps = random_maps(5)
    space = fit_space(maps, feature_dim)
    decoder = FeatureDecoder("linear", len(space.scales), 10)
    decoder.load_state_dict(space.decoder)
    samples = maps[0].float()
    with torch.no_grad():
        decoded = decoder(space.codes(space.encode(samples)))
    kept = 10 if feature_dim is None else min(feature_dim, 10)
    basis = fit_pca(maps, kept)
    expected = (samples - basis.mean) @ basis.components.T @ basis.components + basis.mean
    torch.testing.assert_close(decoded, expected, rtol=1e-3, atol=2e-3)
    assert space.explained == pytest.approx(basis.explained if feature_dim is not None else 1.0, rel=1e-4)


def test_the_decoder_is_the_one_that_training_starts_from() -> None:
    basis = fit_pca(random_maps(5), 10)
    decoder = FeatureDecoder("linear", 6, 10)
    decoder.initialize_from_pca(basis)
    space = pca_space(basis, 6)
    torch.testing.assert_close(space.decoder["weight"], decoder.weight.data)
    torch.testing.assert_close(space.decoder["bias"], decoder.bias.data)


def test_channels_without_variance_hold_nothing_and_no_nan() -> None:
    maps = [torch.randn(4, 5, 1) @ torch.randn(1, 6) * torch.ones(6)]
    space = fit_space(maps, 6)
    assert int((space.scales > 0).sum()) == 1
    codes = space.codes(space.encode(maps[0]))
    assert bool(codes.isfinite().all())
    assert float(codes.abs().max()) < 100


def test_the_decoded_rendering_is_near_the_maps_it_was_lifted_from() -> None:
    geometry, views = small_scene(n=300, size=0.4)
    space = full_space(torch.randn(10))
    planted = torch.randn(300, 10)
    operator = patch_operator(geometry, views)
    cells = (operator.apply(planted) + space.mean).split(ODD_GRID[0] * ODD_GRID[1])
    maps = [values.reshape(*ODD_GRID, 10) for values in cells]
    lifted = lift_feature_maps(geometry, views, maps, space)
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
    lifted = lift_feature_maps(geometry, views[:1] * 6, maps, space)
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
        lift_feature_maps(geometry, views, [torch.zeros(*ODD_GRID, 4)], space)
    with pytest.raises(ValueError, match="cells where its view has"):
        lift_feature_maps(geometry, views, [torch.zeros(2, 2, 4)] * 3, space)
