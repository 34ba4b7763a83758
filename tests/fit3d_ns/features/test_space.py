"""The linear feature space: features, coordinates, codes, and the decoder between them."""

from __future__ import annotations

import pytest
import torch

from fit3d_ns.features.decoder import FeatureDecoder
from fit3d_ns.features.pca import fit_pca
from fit3d_ns.features.space import fit_space, pca_space

GRID = (3, 4)


def random_maps(count: int, channels: int = 10) -> list[torch.Tensor]:
    mixing = torch.randn(channels, channels)
    return [(torch.randn(*GRID, channels) @ mixing + 3).half() for _ in range(count)]


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


def test_codes_coordinates_and_the_decoder_are_one_space() -> None:
    space = pca_space(fit_pca(random_maps(5), 6), 6)
    codes = torch.randn(7, 6)
    decoder = space.decoder
    decoded = codes @ decoder["weight"].T + decoder["bias"]
    torch.testing.assert_close(space.decode(space.coordinates(codes)), decoded, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(space.codes(space.coordinates(codes)), codes)
    torch.testing.assert_close(space.codes(space.encode(decoded)), codes, rtol=1e-3, atol=1e-3)


def test_distances_of_coordinates_are_distances_of_features() -> None:
    space = pca_space(fit_pca(random_maps(5), 10), 10)
    coordinates = torch.randn(8, 10)
    torch.testing.assert_close(
        torch.cdist(space.decode(coordinates), space.decode(coordinates)),
        torch.cdist(coordinates, coordinates),
        rtol=1e-3,
        atol=1e-3,
    )


def test_channels_without_variance_hold_nothing_and_no_nan() -> None:
    maps = [torch.randn(4, 5, 1) @ torch.randn(1, 6) * torch.ones(6)]
    space = fit_space(maps, 6)
    assert int((space.scales > 0).sum()) == 1
    codes = space.codes(space.encode(maps[0]))
    assert bool(codes.isfinite().all())
    assert float(codes.abs().max()) < 100
