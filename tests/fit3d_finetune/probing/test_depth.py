"""The depth probe: losses against loops, bins that bound the depth, and a planted depth that is learned."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fit3d_finetune.probing.data.encoding import standardizations
from fit3d_finetune.probing.depth import DepthScores, predict_depth, train_depth
from fit3d_finetune.probing.depth_loss import MIN_DEPTH, binned_depth, depth_loss
from fit3d_finetune.probing.results import Arm
from fit3d_ns.features.patch_grid import upsample_to_pixels
from tests.fit3d_finetune.probing.scenes import FakeEncoded, FakeImage, tiny

ARMS = [Arm("good", ("good",)), Arm("noise", ("noise",))]
GRID, PATCH = (6, 8), 8
MAX_DEPTH = 8.0


def naive_silog(predicted: np.ndarray, depth: np.ndarray, known: np.ndarray) -> float:
    logs = [math.log(p) - math.log(d) for p, d, k in zip(predicted.flat, depth.flat, known.flat, strict=True) if k]
    mean = sum(logs) / len(logs)
    return math.sqrt(max(1e-8, sum(g * g for g in logs) / len(logs) - 0.85 * mean * mean))


def naive_gradient(predicted: np.ndarray, depth: np.ndarray, known: np.ndarray) -> float:
    total = 0.0
    for step in (1, 2, 4, 8):
        g = (np.log(predicted) - np.log(np.where(known, depth, 1)))[::step, ::step]
        k = known[::step, ::step]
        scale = 0.0
        for r in range(g.shape[0]):
            for c in range(g.shape[1]):
                if c + 1 < g.shape[1] and k[r, c] and k[r, c + 1]:
                    scale += abs(g[r, c + 1] - g[r, c])
                if r + 1 < g.shape[0] and k[r, c] and k[r + 1, c]:
                    scale += abs(g[r + 1, c] - g[r, c])
        total += scale / max(1, int(k.sum()))
    return total


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 19), st.integers(1, 19), st.floats(0.1, 1.0))
def test_the_loss_equals_loops_in_float64(seed: int, height: int, width: int, share: float) -> None:
    random = np.random.default_rng(seed)
    predicted = random.uniform(0.5, 9, (2, 3, height, width))
    known = random.random((2, height, width)) < share
    known[:, 0, 0] = True
    depth = np.where(known, random.uniform(0.5, 9, (2, height, width)), 0.0)
    found = depth_loss(*(torch.from_numpy(values) for values in (predicted, depth, known)))
    assert found.shape == (2, 3)
    for i, arm in np.ndindex(2, 3):
        triple = predicted[i, arm], depth[i], known[i]
        expected = naive_silog(*triple) + 0.5 * naive_gradient(*triple)
        assert float(found[i, arm]) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_gradients_of_depth_and_its_loss_equal_finite_differences() -> None:
    random = torch.Generator().manual_seed(0)
    outputs = torch.randn(2, 4, 5, 3, 6, dtype=torch.float64, generator=random)
    depth = torch.rand(2, 11, 14, dtype=torch.float64, generator=random) * 5 + 1
    known = torch.rand(2, 11, 14, generator=random) < 0.7

    def losses(outputs: torch.Tensor) -> torch.Tensor:
        at_patches = binned_depth(outputs, 8.0, 2)
        at_truth = upsample_to_pixels(at_patches.flatten(2), 11, 14).unflatten(2, (2, 3)).permute(2, 3, 0, 1)
        return depth_loss(at_truth, depth, known)

    assert torch.autograd.gradcheck(losses, outputs.requires_grad_(), eps=1e-7, atol=1e-5)


def test_a_common_factor_costs_little() -> None:
    depth = torch.rand(1, 10, 12) * 4 + 1
    known = torch.ones(1, 10, 12, dtype=torch.bool)
    shifted, noisy = depth * 1.5, depth * torch.exp(math.log(1.5) * torch.randn(1, 10, 12).sign())
    loss = float(depth_loss(shifted[None], depth, known))
    assert loss == pytest.approx(math.sqrt(0.15) * math.log(1.5), rel=1e-4), "gradients do not see it"
    assert loss < 0.5 * float(depth_loss(noisy[None], depth, known))


def test_unknown_depth_gives_neither_loss_nor_gradient() -> None:
    predicted = (torch.rand(1, 1, 9, 9) + 1).requires_grad_()
    depth, known = torch.zeros(1, 9, 9), torch.zeros(1, 9, 9, dtype=torch.bool)
    loss = depth_loss(predicted, depth, known)
    loss.sum().backward()
    assert loss.item() < 1e-3
    assert predicted.grad is not None
    assert not predicted.grad.any()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=20), st.floats(1.0, 100.0))
def test_depth_from_bins_lies_between_the_first_and_the_last(outputs: list[float], max_depth: float) -> None:
    depth = float(binned_depth(torch.tensor(outputs)[None, None, None, None], max_depth))
    assert MIN_DEPTH * (1 - 1e-6) <= depth <= max_depth * (1 + 1e-6)


def test_depth_follows_the_bin_that_stands_out() -> None:
    outputs = torch.full((11, 11), -3.0)
    outputs.fill_diagonal_(1e6)
    found = binned_depth(outputs[:, None, None, None], 10.0).flatten()
    torch.testing.assert_close(found, torch.linspace(MIN_DEPTH, 10, 11), atol=1e-4, rtol=1e-4)
    assert float(binned_depth(torch.zeros(1, 1, 1, 1, 11), 10.0)) == pytest.approx((MIN_DEPTH + 10) / 2)


def planted(count: int, seed: int) -> FakeEncoded:
    """Ramps of depth; a channel of "good" features rises with it, "noise" ones know nothing."""
    random = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    images, good, noise = [], [], []
    for _ in range(count):
        a, b, c = random.uniform(-2, 2), random.uniform(-2, 2), random.uniform(3, 5)

        def ramp(height: int, width: int, a: float = a, b: float = b, c: float = c) -> np.ndarray:
            y, x = np.meshgrid(
                (np.arange(height) + 0.5) / height - 0.5, (np.arange(width) + 0.5) / width - 0.5, indexing="ij"
            )
            return c + a * x + b * y

        map = torch.randn(*GRID, 8, generator=generator)
        map[..., :4] = torch.from_numpy(ramp(*GRID)).float()[..., None]
        images.append(FakeImage(metres=ramp(GRID[0] * PATCH, GRID[1] * PATCH).astype(np.float32)))
        good.append(map)
        noise.append(torch.randn(*GRID, 8, generator=generator))
    return FakeEncoded(images, {"good": good, "noise": noise})


def test_a_planted_depth_is_learned() -> None:
    train, test = planted(12, 1), planted(4, 2)
    statistics = standardizations(train)
    protocol = tiny(depth_iterations=150, depth_lr=2e-2)
    heads = train_depth(train, statistics, ARMS, (0, 1), protocol, MAX_DEPTH)
    scores = DepthScores(ARMS, (0, 1), len(test.images), MAX_DEPTH)
    for index, predicted in predict_depth(heads, test, statistics, MAX_DEPTH):
        assert predicted.shape == (2, 2, 48, 64)
        scores.add(index, test.images[index].depth(), predicted)
    results = scores.results([0] * len(test.images), 1)
    assert max(results["good"].rmse) < 0.35
    assert min(results["noise"].rmse) > 2 * max(results["good"].rmse)


def test_what_the_class_token_knows_is_read_with_class_tokens_alone() -> None:
    def flat(count: int, seed: int) -> FakeEncoded:
        """Flat depths that only the class tokens tell."""
        depths = np.random.default_rng(seed).uniform(1, 5, count)
        generator = torch.Generator().manual_seed(seed)
        maps = [torch.randn(*GRID, 8, generator=generator) for _ in depths]
        tokens = [torch.full((8,), float(depth)) for depth in depths]
        size = (GRID[0] * PATCH, GRID[1] * PATCH)
        images = [FakeImage(metres=np.full(size, depth, np.float32)) for depth in depths]
        return FakeEncoded(images, {"good": maps}, {"good": tokens})

    train, test = flat(30, 1), flat(8, 2)
    statistics, arms = standardizations(train), [Arm("good", ("good",))]
    errors = {}
    for class_tokens in (True, False):
        protocol = tiny(depth_iterations=150, depth_lr=2e-2)
        heads = train_depth(train, statistics, arms, (0,), protocol, MAX_DEPTH, class_tokens=class_tokens)
        scores = DepthScores(arms, (0,), len(test.images), MAX_DEPTH)
        for index, predicted in predict_depth(heads, test, statistics, MAX_DEPTH):
            scores.add(index, test.images[index].depth(), predicted)
        errors[class_tokens] = scores.results([0] * len(test.images), 1)["good"].rmse[0]
    assert errors[True] < 0.4
    assert errors[False] > 0.8


def test_depth_beyond_the_limit_does_not_count_in_training() -> None:
    def heads_with(far: float) -> dict[str, torch.Tensor]:
        train = planted(3, 1)
        for image in train.images:
            image.metres[:, 32:] = far
        return train_depth(train, standardizations(train), ARMS, (0,), tiny(), MAX_DEPTH).state_dict()

    first, second, third = heads_with(0.0), heads_with(50.0), heads_with(2.0)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)


def test_images_of_different_sizes_train_together() -> None:
    train = planted(3, 1)
    train.images[1] = FakeImage(metres=train.images[1].depth()[:40, :48].copy())
    for maps in train._features.values():
        maps[1] = maps[1][:5, :6]
    heads = train_depth(train, standardizations(train), ARMS, (0, 1), tiny(), MAX_DEPTH)
    assert all(value.isfinite().all() for value in heads.state_dict().values())


def test_scenes_count_the_same_and_images_without_depth_not_at_all() -> None:
    errors = {0: 1.0, 1: None, 2: 2.0, 3: 4.0}  # metres; 0 and 1 are of one scene, 2 and 3 of another
    scores = DepthScores(ARMS[:1], (0,), len(errors), MAX_DEPTH)
    for index, error in errors.items():
        depth = np.full((2, 2), 0.0 if error is None else 3.0)
        scores.add(index, depth, np.full((1, 1, 2, 2), 3.0 + (error or 0.0)))
    result = scores.results([0, 0, 1, 1], 2)["good"]
    assert result.rmse == pytest.approx([(1 + (2 + 4) / 2) / 2])
    assert result.abs_rel == pytest.approx([(1 / 3 + (2 / 3 + 4 / 3) / 2) / 2])
    assert result.pixels == [4, 0, 4, 4]
    assert result.squared_error[0] == pytest.approx([4.0, 0.0, 16.0, 64.0])


@pytest.mark.parametrize("upsampling", [1, 4])
def test_outputs_upsampled_within_the_kernel_equal_the_outputs_of_upsampled_features(upsampling: int) -> None:
    """The published head upsamples its features by 4; here the layer goes first."""
    features, layer = torch.randn(2, 5, 6, 8), torch.nn.Linear(8, 3 * 7)
    h, w = 5 * upsampling, 6 * upsampling
    with torch.no_grad():
        outputs = layer(features).unflatten(-1, (3, 7))
        found = binned_depth(outputs, MAX_DEPTH, upsampling)
        assert found.shape == (h, w, 2, 3)
        for index, map in enumerate(features):
            weights = layer(upsample_to_pixels(map, h, w)).unflatten(-1, (3, 7)).relu() + 0.1
            expected = weights @ torch.linspace(MIN_DEPTH, MAX_DEPTH, 7) / weights.sum(-1)
            torch.testing.assert_close(found[:, :, index], expected, atol=1e-4, rtol=1e-4)
    assert found.std() > 0.01
