"""The depth probe: losses against loops, bins that bound the depth, and a planted depth that is learned."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fit3d_finetune.probing.depth import (
    MIN_DEPTH,
    DepthScores,
    _predict,
    bins_to_depth,
    gradient_loss,
    predict_depth,
    silog_loss,
    train_depth,
)
from fit3d_finetune.probing.encoding import Window, standardizations
from fit3d_finetune.probing.results import Arm
from fit3d_ns.patch_grid import upsample_to_pixels
from tests.probing.scenes import FakeEncoded, FakeImage, tiny

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
def test_losses_equal_loops_in_float64(seed: int, height: int, width: int, share: float) -> None:
    random = np.random.default_rng(seed)
    predicted = random.uniform(0.5, 9, (height, width))
    known = random.random((height, width)) < share
    known[0, 0] = True
    depth = np.where(known, random.uniform(0.5, 9, (height, width)), 0.0)
    tensors = torch.from_numpy(predicted)[None].repeat(2, 1, 1), torch.from_numpy(depth), torch.from_numpy(known)
    for loss, naive in ((silog_loss, naive_silog), (gradient_loss, naive_gradient)):
        found = loss(*tensors)
        assert found.shape == (2,)
        assert float(found[1]) == pytest.approx(naive(predicted, depth, known), rel=1e-9, abs=1e-12)


def test_a_common_factor_costs_little_and_gradients_do_not_see_it() -> None:
    depth = torch.rand(10, 12) * 4 + 1
    known = torch.ones(10, 12, dtype=torch.bool)
    shifted, noisy = depth * 1.5, depth * torch.exp(math.log(1.5) * torch.randn(10, 12).sign())
    assert float(silog_loss(shifted, depth, known)) == pytest.approx(math.sqrt(0.15) * math.log(1.5), rel=1e-4)
    assert silog_loss(shifted, depth, known) < 0.5 * silog_loss(noisy, depth, known)
    assert float(gradient_loss(shifted, depth, known)) == pytest.approx(0, abs=1e-4)


def test_unknown_depth_gives_neither_loss_nor_gradient() -> None:
    predicted = (torch.rand(1, 9, 9) + 1).requires_grad_()
    depth, known = torch.zeros(9, 9), torch.zeros(9, 9, dtype=torch.bool)
    loss = silog_loss(predicted, depth, known) + gradient_loss(predicted, depth, known)
    loss.sum().backward()
    assert loss.item() < 1e-3
    assert predicted.grad is not None
    assert not predicted.grad.any()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=20), st.floats(1.0, 100.0))
def test_depth_from_bins_lies_between_the_first_and_the_last(outputs: list[float], max_depth: float) -> None:
    depth = float(bins_to_depth(torch.tensor(outputs), max_depth))
    assert MIN_DEPTH <= depth <= max_depth * (1 + 1e-6)


def test_depth_follows_the_bin_that_stands_out() -> None:
    outputs = torch.full((11, 11), -3.0)
    outputs.fill_diagonal_(1e6)
    torch.testing.assert_close(bins_to_depth(outputs, 10.0), torch.linspace(MIN_DEPTH, 10, 11), atol=1e-4, rtol=1e-4)
    assert float(bins_to_depth(torch.zeros(11), 10.0)) == pytest.approx((MIN_DEPTH + 10) / 2)


def planted(count: int, seed: int, mirrored: bool = False) -> FakeEncoded:
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
        map = map.flip(1) if mirrored else map
        images.append(FakeImage(metres=ramp(GRID[0] * PATCH, GRID[1] * PATCH).astype(np.float32)))
        good.append(map)
        noise.append(torch.randn(*GRID, 8, generator=generator))
    windows = [Window(index, mirrored=mirrored) for index in range(count)]
    return FakeEncoded(images, {"good": good, "noise": noise}, windows)


@pytest.mark.parametrize(("mirrored", "upsampling"), [(False, 1), (True, 2)])
def test_a_planted_depth_is_learned_also_from_mirrored_images(mirrored: bool, upsampling: int) -> None:
    train, test = planted(12, 1, mirrored), planted(4, 2)
    statistics = standardizations(train)
    protocol = tiny(depth_iterations=150, depth_lr=2e-2, depth_upsampling=upsampling)
    heads = train_depth(train, statistics, ARMS, (0, 1), protocol, MAX_DEPTH)
    scores = DepthScores(ARMS, (0, 1), MAX_DEPTH)
    for index, predicted in predict_depth(heads, test, statistics, upsampling, MAX_DEPTH):
        assert predicted.shape == (2, 2, 48, 64)
        scores.add(test.images[index].depth(), predicted)
    results = scores.results()
    assert max(results["good"].rmse) < 0.35
    assert min(results["noise"].rmse) > 2 * max(results["good"].rmse)


def test_a_prediction_is_the_mean_of_the_image_and_its_mirror_image_turned_back() -> None:
    plain = planted(1, 3)
    statistics = standardizations(plain)
    heads = train_depth(plain, statistics, ARMS, (0,), tiny(), MAX_DEPTH)
    [(_, alone)] = predict_depth(heads, plain, statistics, 1, MAX_DEPTH)
    mirrored = {name: [maps[0], maps[0].flip(1)] for name, maps in plain._features.items()}
    both = FakeEncoded(plain.images, mirrored, [Window(0), Window(0, mirrored=True)])
    [(_, averaged)] = predict_depth(heads, both, statistics, 1, MAX_DEPTH)
    np.testing.assert_allclose(averaged, alone, rtol=1e-4)
    other = FakeEncoded(plain.images, {n: [m[0], m[0]] for n, m in plain._features.items()}, both.windows)
    [(_, turned)] = predict_depth(heads, other, statistics, 1, MAX_DEPTH)
    np.testing.assert_allclose(turned, (alone + alone[..., ::-1]) / 2, rtol=1e-4)


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


def test_means_over_images_leave_out_those_without_depth() -> None:
    scores = DepthScores(ARMS[:1], (0,), MAX_DEPTH)
    scores.add(np.full((2, 2), 4.0), np.full((1, 1, 2, 2), 5.0))
    scores.add(np.zeros((2, 2)), np.full((1, 1, 2, 2), 5.0))
    result = scores.results()["good"]
    assert result.rmse == [1.0]
    assert result.abs_rel == [0.25]
    assert result.rmse_per_image[0][0] == 1.0
    assert np.isnan(result.rmse_per_image[0][1])


def test_upsampled_outputs_equal_the_outputs_of_upsampled_features() -> None:
    """The published head upsamples its features by 4; here the layer goes first."""
    encoded = planted(1, 3)
    statistics = standardizations(encoded)
    heads = train_depth(encoded, statistics, ARMS, (0, 1), tiny(), MAX_DEPTH)
    wide = {
        name: upsample_to_pixels(statistics[name](encoded.features(name, 0)), 4 * GRID[0], 4 * GRID[1])
        for name in encoded.maps
    }
    tokens = {f"{name}/class": statistics[f"{name}/class"](encoded.class_token(name, 0)) for name in encoded.maps}
    with torch.no_grad():
        [found] = _predict(heads, encoded, statistics, [0], 4, MAX_DEPTH)
        outputs = heads(
            {name: map.flatten(0, 1)[None] for name, map in wide.items()}
            | {name: token[None, None] for name, token in tokens.items()}
        )
    expected = bins_to_depth(outputs, MAX_DEPTH).flatten(0, 1).unflatten(-1, (4 * GRID[0], 4 * GRID[1]))
    assert found.std() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
