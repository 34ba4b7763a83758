"""PCA of features against numpy's SVD, and the colours made from it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fit3d_ns.features.pca import ColorProjection, PCAAccumulator, PCABasis, fit_pca


def random_features(seed: int, samples: int = 300, channels: int = 12) -> Tensor:
    """Correlated samples [N, C] with well separated variances, away from the origin."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(channels, channels, generator=generator)).Q
    deviations = 3.0 * 0.7 ** torch.arange(channels)
    offset = 5 * torch.randn(channels, generator=generator)
    return torch.randn(samples, channels, generator=generator) * deviations @ axes + offset


def assert_same_basis(actual: PCABasis, expected: PCABasis) -> None:
    torch.testing.assert_close(actual.mean, expected.mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(actual.components, expected.components, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(actual.variances, expected.variances, rtol=1e-4, atol=1e-6)
    assert actual.total_variance == pytest.approx(expected.total_variance, rel=1e-4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), channels=st.integers(1, 20), components=st.integers(1, 25))
def test_basis_equals_the_singular_vectors_of_the_centred_samples(seed: int, channels: int, components: int) -> None:
    features = random_features(seed, channels=channels)
    basis = fit_pca([features], components)

    centred = features.double().numpy() - features.double().numpy().mean(0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    kept = min(components, channels)
    assert basis.components.shape == (kept, channels)
    np.testing.assert_allclose(basis.mean, features.double().mean(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(basis.variances, singular[:kept] ** 2 / len(features), rtol=1e-4, atol=1e-7)
    alignment = np.abs((basis.components.double().numpy() * directions[:kept]).sum(1))
    np.testing.assert_allclose(alignment, 1, atol=1e-5)
    assert basis.total_variance == pytest.approx(float((centred**2).sum() / len(features)), rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(0, 300), max_size=5))
def test_samples_in_chunks_give_the_basis_of_all_samples_at_once(seed: int, cuts: list[int]) -> None:
    features = random_features(seed)
    borders = [0, *sorted(cuts), len(features)]
    chunks = [features[start:end] for start, end in itertools.pairwise(borders)]
    assert_same_basis(fit_pca(chunks, 4), fit_pca([features], 4))


def test_maps_of_any_leading_shape_are_taken_as_their_vectors() -> None:
    features = random_features(1)
    assert_same_basis(fit_pca([features.reshape(15, 20, 12)], 4), fit_pca([features], 4))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_whole_weights_count_a_sample_that_many_times(seed: int) -> None:
    features = random_features(seed, samples=60)
    times = torch.randint(0, 4, (60,), generator=torch.Generator().manual_seed(seed))
    weighted, repeated = PCAAccumulator(12), PCAAccumulator(12)
    weighted.add(features.reshape(6, 10, 12), times.reshape(6, 10).float())
    repeated.add(features.repeat_interleave(times, dim=0))
    assert_same_basis(weighted.basis(3), repeated.basis(3))


def test_samples_of_weight_zero_do_not_count() -> None:
    features = random_features(0)
    accumulator = PCAAccumulator(12)
    accumulator.add(torch.cat([features, 100 * torch.randn(50, 12)]), torch.arange(350) < 300)
    assert_same_basis(accumulator.basis(3), fit_pca([features], 3))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_signs_do_not_depend_on_the_order_of_the_samples_or_channels(seed: int) -> None:
    features = random_features(seed)
    generator = torch.Generator().manual_seed(seed)
    basis = fit_pca([features], 4)
    assert_same_basis(fit_pca([features[torch.randperm(300, generator=generator)]], 4), basis)
    channels = torch.randperm(12, generator=generator)
    torch.testing.assert_close(
        fit_pca([features[:, channels]], 4).components, basis.components[:, channels], rtol=1e-4, atol=1e-4
    )


def test_the_largest_entry_of_each_component_is_positive() -> None:
    components = fit_pca([random_features(3)], 12).components
    assert bool((components.gather(1, components.abs().argmax(1, keepdim=True)) > 0).all())


def test_components_are_orthonormal_and_fall_in_variance() -> None:
    basis = fit_pca([random_features(4)], 12)
    torch.testing.assert_close(basis.components @ basis.components.T, torch.eye(12), rtol=0, atol=1e-5)
    assert bool((basis.variances.diff() <= 0).all())


def test_explained_is_the_share_of_the_variance_in_the_components() -> None:
    features = random_features(5)
    shares = [fit_pca([features], k).explained for k in range(1, 13)]
    variances = np.linalg.eigvalsh(np.cov(features.double().numpy().T, bias=True))[::-1]
    np.testing.assert_allclose(shares, np.cumsum(variances) / variances.sum(), rtol=1e-5)
    assert all(0 <= share <= 1 for share in shares)


def test_a_large_offset_does_not_drown_the_variance() -> None:
    features = random_features(6).double() * 1e-2
    near, far = fit_pca([features], 3), fit_pca([features + 1000], 3)
    torch.testing.assert_close(far.variances, near.variances, rtol=1e-4, atol=0)
    torch.testing.assert_close(far.components, near.components, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("value", [0.0, 0.1, 37.7])
def test_constant_features_have_no_variance_and_become_grey(value: float) -> None:
    features = torch.full((100, 8), value)
    features[:, 3] *= -1.37
    basis = fit_pca([features], 3)
    assert bool((basis.variances < 1e-10 * max(1.0, value**2)).all())
    assert 0 <= basis.explained <= 1
    torch.testing.assert_close(ColorProjection.from_basis(basis)(features), torch.full((100, 3), 0.5))


def test_without_samples_there_is_no_basis() -> None:
    with pytest.raises(ValueError, match="no feature maps"):
        fit_pca([], 3)
    with pytest.raises(ValueError, match="no samples"):
        PCAAccumulator(4).basis(2)
    nothing_counts = PCAAccumulator(4)
    nothing_counts.add(torch.randn(10, 4), torch.zeros(10))
    with pytest.raises(ValueError, match="no samples"):
        nothing_counts.basis(2)


# ---- colours


def test_the_mean_is_grey_and_the_spread_reaches_black_and_white() -> None:
    basis = fit_pca([random_features(7)], 3)
    colors = ColorProjection.from_basis(basis, spread=2.0)
    torch.testing.assert_close(colors(basis.mean), torch.full((3,), 0.5), rtol=0, atol=1e-5)
    for k in range(3):
        reach = 2.0 * basis.variances[k].sqrt() * basis.components[k]
        assert float(colors(basis.mean + reach)[k]) == pytest.approx(1, abs=1e-5)
        assert float(colors(basis.mean - reach)[k]) == pytest.approx(0, abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 1000))
def test_colours_lie_between_zero_and_one_and_do_not_depend_on_the_unit(seed: int, scale: float) -> None:
    features = random_features(seed)
    colors = ColorProjection.from_basis(fit_pca([features], 3))(features)
    assert 0 <= float(colors.min()) <= float(colors.max()) <= 1
    scaled = ColorProjection.from_basis(fit_pca([scale * features], 3))(scale * features)
    torch.testing.assert_close(scaled, colors, rtol=0, atol=2e-3)


def test_few_features_lie_outside_the_colours_range() -> None:
    features = random_features(8, samples=5000)
    colors = ColorProjection.from_basis(fit_pca([features], 3))(features)
    assert float(((colors == 0) | (colors == 1)).float().mean()) < 0.03  # 2.5 standard deviations: 1.2 % of normal


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0, 1))
def test_colours_are_affine_inside_the_range(seed: int, share: float) -> None:
    basis = fit_pca([random_features(seed)], 3)
    colors = ColorProjection.from_basis(basis)
    generator = torch.Generator().manual_seed(seed)
    a, b = (basis.mean + 0.3 * torch.randn(12, generator=generator) * basis.variances[2].sqrt() for _ in range(2))
    torch.testing.assert_close(
        colors(share * a + (1 - share) * b), share * colors(a) + (1 - share) * colors(b), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("channels", [1, 2])
def test_fewer_than_three_channels_leave_the_other_colours_at_one_half(channels: int) -> None:
    features = torch.randn(200, channels)
    colors = ColorProjection.from_basis(fit_pca([features], 3))(features)
    assert colors.shape == (200, 3)
    assert bool((colors[:, channels:] == 0.5).all())
    assert bool((colors[:, :channels].std(0) > 0.1).all())


def test_directions_with_nothing_but_rounding_carry_no_colour() -> None:
    features = torch.randn(500, 2) @ torch.randn(2, 16) + 5
    colors = ColorProjection.from_basis(fit_pca([features], 3))(features)
    assert bool((colors[:, :2].std(0) > 0.1).all())
    torch.testing.assert_close(colors[:, 2], torch.full((500,), 0.5))


def test_colours_of_half_precision_features_are_those_of_single() -> None:
    features = random_features(9)
    colors = ColorProjection.from_basis(fit_pca([features], 3))
    torch.testing.assert_close(colors(features.bfloat16()).float(), colors(features), rtol=0, atol=0.1)
