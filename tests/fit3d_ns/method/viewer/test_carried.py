"""Coordinates in few channels keep the geometry of the decoded features."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fit3d_ns.features.decoder import DecoderKind, FeatureDecoder
from fit3d_ns.features.pca import ColorProjection, PCAAccumulator
from fit3d_ns.method.viewer import carried
from fit3d_ns.method.viewer.carried import Coordinates, fit_colors, sample_step


@pytest.mark.parametrize("kind", ["linear", "conv3x3"])
@pytest.mark.parametrize(("feature_dim", "channels"), [(4, 24), (16, 8)])
@torch.no_grad()
def test_distances_and_cosines_are_those_of_decoded_features(
    kind: DecoderKind, feature_dim: int, channels: int
) -> None:
    decoder = FeatureDecoder(kind, feature_dim, channels)
    if decoder.bias is not None:
        decoder.bias.normal_()
    codes = torch.randn(9, feature_dim)
    # In the middle of 3x3 equal codes a convolution sees nothing else.
    decoded = torch.stack([decoder(code.expand(3, 3, -1))[1, 1] for code in codes])
    placed = Coordinates(decoder).of_codes(codes)
    assert placed.shape[1] == min(channels, feature_dim + 1)
    torch.testing.assert_close(placed @ placed.T, decoded @ decoded.T, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(Coordinates(decoder).of_features(decoded), placed, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(Coordinates(decoder).to_features(placed), decoded, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_cosines_of_a_blend_are_those_of_what_it_decodes_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carried, "_SERIAL", 50)  # some pixels at a time, with a rest
    decoder = FeatureDecoder("linear", 6, 20)
    decoder.bias.normal_()
    coordinates = Coordinates(decoder)
    codes, weights, query = torch.randn(9, 6), 0.1 * torch.rand(5, 7, 9), torch.randn(20)
    weights[0, 0] = 0  # a pixel without Gaussians
    expected = F.cosine_similarity(decoder(weights @ codes), query, dim=-1)
    found = coordinates.cosines(weights @ coordinates.blendable(codes), query)
    # What no code decodes to is no part of the query there.
    seen = coordinates.of_features(query).norm() / query.norm()
    torch.testing.assert_close(found * seen, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_colours_are_the_principal_components_of_the_decoded_features() -> None:
    decoder = FeatureDecoder("linear", 6, 20)
    codes, opacities = torch.randn(400, 6) * torch.arange(6, 0, -1), torch.rand(400)
    accumulator = PCAAccumulator(20)
    accumulator.add(decoder(codes), opacities)
    expected = ColorProjection.from_basis(accumulator.basis(3))(decoder(codes))
    found = fit_colors(codes, decoder, opacities)(decoder(codes))
    for channel in range(3):  # the sign of a component is free
        if float((found - expected)[:, channel].abs().max()) > 0.01:
            expected[:, channel] = 1 - expected[:, channel]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_samples_are_no_more_than_wanted() -> None:
    for count in (1, 10_000, 10_001, 1_000_000):
        assert 0 < len(range(0, count, sample_step(count))) <= 10_000
