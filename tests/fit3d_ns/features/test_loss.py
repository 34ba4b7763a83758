"""The feature loss and its metrics, against their formulas, and how they behave where nothing counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fit3d_ns.features.decoder import FeatureDecoder
from fit3d_ns.features.loss import FeatureLossKind, feature_loss, feature_metrics

KINDS: list[FeatureLossKind] = ["l1", "cosine+l1"]


def random_case(seed: int = 0, h: int = 5, w: int = 7, channels: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    """Decoded and target maps and weights, a third of the weights zero."""
    generator = torch.Generator().manual_seed(seed)
    decoded, target = torch.randn(2, h, w, channels, generator=generator)
    weights = torch.rand(h, w, generator=generator)
    return decoded, target, torch.where(weights > 0.33, weights, 0.0)


def loop(decoded: Tensor, target: Tensor, weights: Tensor) -> tuple[float, float]:
    """Weighted means of the absolute difference and of the cosine, in float64, cell by cell."""
    l1, cosine, total = 0.0, 0.0, 0.0
    for y, x in np.ndindex(*weights.shape):
        d, t, w = decoded[y, x].double().numpy(), target[y, x].double().numpy(), float(weights[y, x])
        l1 += w * np.abs(d - t).mean()
        cosine += w * (d @ t) / (np.linalg.norm(d) * np.linalg.norm(t))
        total += w
    return l1 / total, cosine / total


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), h=st.integers(1, 6), channels=st.integers(1, 12))
def test_losses_and_metrics_equal_a_loop_over_the_cells(seed: int, h: int, channels: int) -> None:
    decoded, target, weights = random_case(seed, h, 6, channels)
    weights[0, 0] = 1.0
    # Below a tenth of the target's length the loss departs from the cosine on purpose (tested further down).
    decoded = decoded * (target.norm(dim=-1, keepdim=True) / decoded.norm(dim=-1, keepdim=True))
    l1, cosine = loop(decoded, target, weights)
    assert float(feature_loss(decoded, target, weights, "l1")[0]) == pytest.approx(l1, rel=1e-4, abs=1e-6)
    both = float(feature_loss(decoded, target, weights, "cosine+l1")[0])
    assert both == pytest.approx(l1 + 1 - cosine, rel=1e-4, abs=1e-6)
    metrics = feature_metrics(decoded, target, weights)
    assert metrics == pytest.approx({"feature_l1": l1, "feature_cosine": cosine}, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_maps_have_no_loss(kind: FeatureLossKind) -> None:
    _, target, weights = random_case()
    assert float(feature_loss(target, target, weights, kind)[0]) == pytest.approx(0, abs=1e-6)
    assert feature_metrics(target, target, weights) == pytest.approx({"feature_l1": 0, "feature_cosine": 1}, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("decoded_is_zero", [False, True])
def test_without_any_weight_loss_and_gradient_are_zero(kind: FeatureLossKind, decoded_is_zero: bool) -> None:
    decoded, target, weights = random_case()
    decoded = (decoded * (0 if decoded_is_zero else 1)).requires_grad_()
    loss, cosine = feature_loss(decoded, target, torch.zeros_like(weights), kind)
    loss.backward()
    assert loss.item() == 0
    assert bool(cosine.isfinite().all())
    assert decoded.grad is not None
    assert bool((decoded.grad == 0).all())


@pytest.mark.parametrize("kind", KINDS)
def test_masked_cells_have_no_influence(kind: FeatureLossKind) -> None:
    decoded, target, weights = random_case()
    masked = (weights == 0)[..., None]
    assert bool(masked.any())
    other_decoded, other_target = (torch.where(masked, 1e4 * torch.randn(5, 7, 9), v) for v in (decoded, target))
    decoded.requires_grad_()
    other_decoded.requires_grad_()
    loss, other = (feature_loss(d, t, weights, kind)[0] for d, t in ((decoded, target), (other_decoded, other_target)))
    loss.backward()
    other.backward()
    torch.testing.assert_close(other, loss)
    assert decoded.grad is not None
    assert other_decoded.grad is not None
    torch.testing.assert_close(other_decoded.grad, decoded.grad)
    assert bool((other_decoded.grad * masked == 0).all())
    assert feature_metrics(other_decoded, other_target, weights) == pytest.approx(
        feature_metrics(decoded, target, weights)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [0.01, 30.0])
def test_only_the_ratio_of_weights_matters(kind: FeatureLossKind, scale: float) -> None:
    decoded, target, weights = random_case()
    torch.testing.assert_close(
        feature_loss(decoded, target, scale * weights, kind)[0], feature_loss(decoded, target, weights, kind)[0]
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.5, 1000))
def test_the_cosine_does_not_depend_on_the_length_of_a_feature(seed: int, scale: float) -> None:
    decoded, target, weights = random_case(seed)
    decoded = decoded * (target.norm(dim=-1, keepdim=True) / decoded.norm(dim=-1, keepdim=True))

    def direction_loss(values: Tensor) -> Tensor:
        both, length = (feature_loss(values, target, weights, kind)[0] for kind in ("cosine+l1", "l1"))
        return both - length

    torch.testing.assert_close(direction_loss(scale * decoded), direction_loss(decoded), rtol=1e-4, atol=2e-4 * scale)
    cosine = feature_loss(decoded, target, weights, "l1")[1]
    torch.testing.assert_close(feature_loss(scale * decoded, target, weights, "l1")[1], cosine)
    torch.testing.assert_close(feature_loss(decoded, scale * target, weights, "l1")[1], cosine)


def test_the_cosine_is_torchs() -> None:
    decoded, target, weights = random_case()
    expected = torch.nn.functional.cosine_similarity(decoded, target, dim=-1)
    for kind in KINDS:
        torch.testing.assert_close(feature_loss(decoded, target, weights, kind)[1], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_finite_differences(kind: FeatureLossKind) -> None:
    decoded, target, weights = (v.double() for v in random_case(h=2, w=3, channels=4))
    short = decoded.clone()
    short[0] *= 0.01  # both sides of the tenth
    for values in (decoded, short):
        assert torch.autograd.gradcheck(
            lambda d: feature_loss(d, target, weights, kind)[0], values.clone().requires_grad_()
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target_is_zero", [False, True])
def test_a_decoded_feature_of_zero_has_a_gradient_of_ordinary_size(kind: FeatureLossKind, target_is_zero: bool) -> None:
    _, target, weights = random_case()
    decoded = torch.zeros_like(target, requires_grad=True)
    loss, cosine = feature_loss(decoded, target * (0 if target_is_zero else 1), weights, kind)
    loss.backward()
    assert decoded.grad is not None
    assert bool(loss.isfinite() & cosine.isfinite().all())
    assert bool(decoded.grad.isfinite().all())
    assert float(decoded.grad.abs().max()) < 10


@pytest.mark.parametrize("kind", KINDS)
def test_features_that_start_at_zero_learn_through_the_convolution(kind: FeatureLossKind) -> None:
    target = torch.randn(6, 6, 6) @ torch.randn(6, 24) + torch.randn(24)
    features, decoder = torch.nn.Parameter(torch.zeros(6, 6, 16)), FeatureDecoder("conv3x3", 16, 24)
    optimizer = torch.optim.Adam([features, *decoder.parameters()], lr=0.05, eps=1e-15)
    for _ in range(80):
        optimizer.zero_grad()
        loss, cosine = feature_loss(decoder(features), target, torch.ones(6, 6), kind)
        loss.backward()
        optimizer.step()
    assert float(cosine.mean()) > 0.98
    assert feature_metrics(decoder(features), target, torch.ones(6, 6))["feature_l1"] < 0.2 * float(target.abs().mean())


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown feature loss 'l2'"):
        feature_loss(*random_case(), "l2")  # type: ignore[arg-type]


def test_metrics_are_plain_numbers() -> None:
    decoded, target, weights = random_case()
    metrics = feature_metrics(decoded.requires_grad_(), target, weights)
    assert set(metrics) == {"feature_l1", "feature_cosine"}
    assert all(type(value) is float for value in metrics.values())


def test_a_view_without_valid_cells_has_no_metrics() -> None:
    metrics = feature_metrics(torch.rand(2, 3, 4), torch.rand(2, 3, 4), torch.zeros(2, 3))
    assert all(math.isnan(value) for value in metrics.values())
