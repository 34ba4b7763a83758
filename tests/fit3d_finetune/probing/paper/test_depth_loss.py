"""The published losses of depth against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fit3d_finetune.probing.paper.depth_loss import depth_loss, gradient_loss, scale_invariant_loss


def logs(predicted: np.ndarray, depth: np.ndarray) -> np.ndarray:
    return np.log(predicted + 1e-3) - np.log(depth + 1e-3)


def looped_gradient(predicted: np.ndarray, depth: np.ndarray) -> float:
    """Of [n, H, W]: pixels two apart, at every pixel, second, fourth and sixth."""
    total = 0.0
    for factor in (1, 2, 4, 6):
        g, known = logs(predicted, depth)[:, ::factor, ::factor], (depth > 0)[:, ::factor, ::factor]
        found = 0.0
        for i, r, c in np.ndindex(*g.shape):
            if r + 2 < g.shape[1] and known[i, r, c] and known[i, r + 2, c]:
                found += abs(g[i, r, c] - g[i, r + 2, c])
            if c + 2 < g.shape[2] and known[i, r, c] and known[i, r, c + 2]:
                found += abs(g[i, r, c] - g[i, r, c + 2])
        total += found / max(1, known.sum())
    return total


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 17), st.integers(1, 17), st.floats(0.2, 1.0))
def test_losses_equal_loops_over_the_known_pixels_of_both_images(
    seed: int, height: int, width: int, share: float
) -> None:
    random = np.random.default_rng(seed)
    predicted = random.uniform(0.5, 9, (2, 3, height, width))
    depth = np.where(random.random((2, height, width)) < share, random.uniform(0.5, 9, (2, height, width)), 0.0)
    depth[:, 0, 0] = 2.0
    tensors = torch.from_numpy(predicted), torch.from_numpy(depth)
    warm, trained, gradient, whole = (
        scale_invariant_loss(*tensors, warming=True),
        scale_invariant_loss(*tensors, warming=False),
        gradient_loss(*tensors),
        depth_loss(*tensors, warming=False),
    )
    for arm in range(3):
        g = logs(predicted[:, arm], depth)[depth > 0]
        assert warm[arm].item() == pytest.approx(math.sqrt(0.15 * g.mean() ** 2))
        assert trained[arm].item() == pytest.approx(math.sqrt(g.var(ddof=1) + 0.15 * g.mean() ** 2))
        expected = looped_gradient(predicted[:, arm], depth)
        assert gradient[arm].item() == pytest.approx(expected, abs=1e-9)
        assert whole[arm].item() == pytest.approx(trained[arm].item() + 0.5 * expected)


@pytest.mark.parametrize("warming", [True, False])
def test_images_without_depth_give_neither_loss_nor_gradient(warming: bool) -> None:
    predicted = (torch.rand(2, 3, 9, 9) + 1).requires_grad_()
    loss = depth_loss(predicted, torch.zeros(2, 9, 9), warming)
    loss.sum().backward()
    assert not loss.any()
    assert predicted.grad is not None
    assert not predicted.grad.any()


@pytest.mark.parametrize("warming", [True, False])
def test_a_perfect_prediction_has_finite_gradients(warming: bool) -> None:
    depth = torch.rand(2, 8, 8) + 1
    predicted = depth[:, None].clone().requires_grad_()
    depth_loss(predicted, depth, warming).sum().backward()
    assert predicted.grad is not None
    assert predicted.grad.isfinite().all()
