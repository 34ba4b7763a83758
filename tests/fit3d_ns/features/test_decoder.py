"""The decoder: what it computes, where it starts, and what it commutes with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fit3d_ns.features.decoder import DecoderKind, FeatureDecoder
from fit3d_ns.features.patch_grid import pool_to_patch_grid
from fit3d_ns.features.pca import fit_pca
from fit3d_ns.features.space import pca_space

KINDS: list[DecoderKind] = ["linear", "conv3x3"]


def low_rank_features(rank: int, channels: int, samples: int = 400, seed: int = 0) -> Tensor:
    """Samples [N, C] that lie in a plane of `rank` dimensions off the origin."""
    generator = torch.Generator().manual_seed(seed)
    codes, plane = torch.randn(samples, rank, generator=generator), torch.randn(rank, channels, generator=generator)
    return codes @ plane + torch.randn(channels, generator=generator)


def pca_decoder(features: Tensor, feature_dim: int) -> FeatureDecoder:
    decoder = FeatureDecoder("linear", feature_dim, features.shape[-1])
    decoder.load_state_dict(pca_space(fit_pca([features], feature_dim), feature_dim).decoder)
    return decoder


def float64_loop(maps: Tensor, weight: Tensor) -> np.ndarray:
    """3x3 convolution of [H, W, D] with [C, D, 3, 3] over a border of zeros, one multiplication at a time."""
    H, W, _ = maps.shape
    out = np.zeros((H, W, len(weight)))
    values, kernel = maps.double().numpy(), weight.detach().double().numpy()
    for y in range(H):
        for x in range(W):
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    if 0 <= y + dy < H and 0 <= x + dx < W:
                        out[y, x] += kernel[:, :, dy + 1, dx + 1] @ values[y + dy, x + dx]
    return out


# ---- start from a PCA basis


@settings(max_examples=20, deadline=None)
@given(rank=st.integers(1, 8), spare=st.integers(0, 8), seed=st.integers(0, 1000))
def test_samples_in_the_span_of_the_basis_are_decoded_exactly(rank: int, spare: int, seed: int) -> None:
    features = low_rank_features(rank, channels=12, seed=seed)
    decoder = pca_decoder(features, rank + spare)
    torch.testing.assert_close(decoder(decoder.codes(features)), features, rtol=1e-3, atol=1e-3)


def test_other_samples_are_decoded_to_the_nearest_point_of_the_span() -> None:
    features = torch.randn(500, 10)
    decoder = pca_decoder(features, 4)
    basis = fit_pca([features], 4)
    error = (decoder(decoder.codes(features)) - features).detach().square().sum(-1).mean()
    assert float(error) == pytest.approx(basis.total_variance - float(basis.variances.sum()), rel=1e-3)


def test_codes_have_unit_variance_along_every_channel() -> None:
    features = torch.randn(1000, 10) * 3.0 ** torch.arange(-4, 6)
    codes = pca_decoder(features, 6).codes(features)
    torch.testing.assert_close(codes.mean(0), torch.zeros(6), rtol=0, atol=1e-3)
    torch.testing.assert_close(codes.T @ codes / len(codes), torch.eye(6), rtol=0, atol=1e-3)


def test_a_code_of_zeros_decodes_to_the_mean() -> None:
    features = low_rank_features(4, channels=9)
    torch.testing.assert_close(pca_decoder(features, 4)(torch.zeros(4)), features.mean(0), rtol=1e-4, atol=1e-4)


def test_a_basis_that_is_wider_than_the_codes_gives_its_leading_components() -> None:
    features = torch.randn(300, 8) * torch.arange(1, 9)
    decoder = FeatureDecoder("linear", 3, 8)
    decoder.load_state_dict(pca_space(fit_pca([features], 8), 3).decoder)
    torch.testing.assert_close(decoder.weight, pca_decoder(features, 3).weight)


def test_channels_beyond_the_features_own_start_at_zero_and_can_learn() -> None:
    features = torch.randn(200, 5)
    decoder = pca_decoder(features, 12)
    assert decoder.weight.shape == (5, 12)
    assert bool((decoder.weight[:, 5:] == 0).all())
    torch.testing.assert_close(decoder(decoder.codes(features)), features, rtol=1e-4, atol=1e-4)
    decoder(torch.ones(4, 12)).sum().backward()
    assert decoder.weight.grad is not None
    assert bool((decoder.weight.grad[:, 5:] != 0).all())


def test_the_convolution_has_no_codes_of_its_own() -> None:
    with pytest.raises(ValueError, match="only the linear decoder"):
        FeatureDecoder("conv3x3", 3, 8).codes(torch.randn(50, 8))


# ---- forward


@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 6), width=st.integers(1, 6), feature_dim=st.integers(1, 5), channels=st.integers(1, 5))
def test_the_convolution_equals_a_loop_with_zeros_around_the_map(
    height: int, width: int, feature_dim: int, channels: int
) -> None:
    decoder = FeatureDecoder("conv3x3", feature_dim, channels)
    maps = torch.randn(height, width, feature_dim)
    np.testing.assert_allclose(decoder(maps).detach(), float64_loop(maps, decoder.weight), rtol=1e-4, atol=1e-5)


def test_the_convolution_has_no_bias() -> None:
    decoder = FeatureDecoder("conv3x3", 4, 6)
    assert [name for name, _ in decoder.named_parameters()] == ["weight"]
    assert bool((decoder(torch.zeros(3, 3, 4)) == 0).all())


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_read_off_the_weights(kind: DecoderKind) -> None:
    decoder = FeatureDecoder(kind, 4, 6)
    assert (decoder.feature_dim, decoder.channels) == (4, 6)
    assert decoder(torch.randn(5, 7, 4)).shape == (5, 7, 6)


def test_the_linear_decoder_accepts_any_leading_shape() -> None:
    decoder, features = FeatureDecoder("linear", 4, 6), torch.randn(2, 3, 5, 4)
    expected = decoder(features.reshape(-1, 4)).reshape(2, 3, 5, 6)
    torch.testing.assert_close(decoder(features), expected)


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown decoder kind 'mlp'"):
        FeatureDecoder("mlp", 4, 6)  # type: ignore[arg-type]


# ---- what commutes


def test_decoding_the_blend_is_blending_the_decoded_gaussians() -> None:
    decoder = FeatureDecoder("linear", 4, 6)
    weights = torch.rand(5, 7, 30).softmax(-1)  # blending weights of a pixel that the Gaussians cover wholly
    codes = torch.randn(30, 4)
    torch.testing.assert_close(decoder(weights @ codes), weights @ decoder(codes), rtol=1e-4, atol=1e-5)


def test_where_gaussians_leave_gaps_the_blend_lacks_the_bias_in_the_gap() -> None:
    decoder = FeatureDecoder("linear", 4, 6)
    torch.nn.init.normal_(decoder.bias)  # type: ignore[arg-type]
    weights = torch.rand(5, 7, 30).softmax(-1) * torch.rand(5, 7, 1)
    codes = torch.randn(30, 4)
    gap = 1 - weights.sum(-1, keepdim=True)
    expected = weights @ decoder(codes) + gap * decoder.bias
    torch.testing.assert_close(decoder(weights @ codes), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("grid", [(3, 4), (5, 7), (4, 3)])
@pytest.mark.parametrize("masked", [False, True])
def test_decoding_the_patch_means_is_pooling_the_decoded_pixels(grid: tuple[int, int], masked: bool) -> None:
    decoder = FeatureDecoder("linear", 4, 6)
    torch.nn.init.normal_(decoder.bias)  # type: ignore[arg-type]
    pixels = torch.randn(15, 21, 4)
    mask = (torch.rand(15, 21, 1) > 0.2) if masked else None
    pooled, counted = pool_to_patch_grid(pixels, grid, mask)
    expected, _ = pool_to_patch_grid(decoder(pixels), grid, mask)
    assert bool((counted > 0).all())
    torch.testing.assert_close(decoder(pooled), expected, rtol=1e-4, atol=1e-5)


# ---- followed_by


@pytest.mark.parametrize("kind", KINDS)
def test_a_decoder_followed_by_a_matrix_is_one_decoder(kind: DecoderKind) -> None:
    decoder, maps, matrix = FeatureDecoder(kind, 4, 6), torch.randn(5, 7, 4), torch.randn(3, 6)
    if decoder.bias is not None:
        torch.nn.init.normal_(decoder.bias)
    offset = torch.randn(3) if kind == "linear" else torch.zeros(3)
    composed = decoder.followed_by(matrix, offset)
    assert (composed.kind, composed.feature_dim, composed.channels) == (kind, 4, 3)
    torch.testing.assert_close(composed(maps), decoder(maps) @ matrix.T + offset, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_followed_by_leaves_the_decoder_itself_alone(kind: DecoderKind) -> None:
    decoder = FeatureDecoder(kind, 4, 6)
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    composed = decoder.followed_by(torch.randn(3, 6), torch.zeros(3))
    with torch.no_grad():
        composed.weight.zero_()
    assert {name: value.tolist() for name, value in decoder.state_dict().items()} == {
        name: value.tolist() for name, value in before.items()
    }


def test_a_convolution_cannot_hold_an_offset() -> None:
    with pytest.raises(ValueError, match="no bias to hold an offset"):
        FeatureDecoder("conv3x3", 4, 6).followed_by(torch.randn(3, 6), torch.tensor([0.0, 0.0, 0.1]))
