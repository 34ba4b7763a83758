"""Losses that hold features to the original's: against loops, finite differences, and what they must not notice."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fit3d_finetune.targets.files import Target
from fit3d_finetune.training.anchor_loss import gram_loss, margin_loss
from fit3d_finetune.training.learner import make_learner
from fit3d_finetune.training.recipe import Recipe
from fit3d_finetune.training.samples import Sample, crop, flip
from fit3d_finetune.training.step import training_step
from fit3d_ns.features.backbone import load_backbone
from tests.fit3d_finetune.scenes import BACKBONE, GRID, HEIGHT, WIDTH

H, W, C = 3, 4, 5


def random_maps(seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Features, the original's, and weights of which some are zero."""
    random = torch.Generator().manual_seed(seed)
    features, original = torch.randn(2, H, W, C, generator=random, dtype=dtype)
    weights = torch.rand(H, W, generator=random, dtype=dtype)
    return features, original, torch.where(weights < 0.3, 0.0, weights)


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def naive_gram(features: Tensor, original: Tensor, weights: Tensor) -> float:
    """Over all pairs of patches."""
    ours, theirs, counts = (values.flatten(0, 1).tolist() for values in (features, original, weights[..., None]))
    total = norm = 0.0
    for i in range(H * W):
        for j in range(H * W):
            weight = counts[i][0] * counts[j][0]
            total += weight * (cosine(ours[i], ours[j]) - cosine(theirs[i], theirs[j])) ** 2
            norm += weight
    return total / norm


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_gram_loss_is_the_mean_squared_difference_over_all_pairs(seed: int) -> None:
    features, original, weights = random_maps(seed)
    weights[0, 0] = 1.0
    expected = naive_gram(features, original, weights)
    assert float(gram_loss(features, original, weights)) == pytest.approx(expected, rel=1e-9)
    single = gram_loss(features.float(), original.float(), weights.float())
    assert float(single) == pytest.approx(expected, rel=1e-4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), margin=st.floats(0, 1))
def test_the_margin_loss_is_the_mean_hinge_over_patches(seed: int, margin: float) -> None:
    features, original, weights = random_maps(seed)
    weights[0, 0] = 1.0
    total = sum(
        float(weights[i, j]) * max(0.0, margin - cosine(features[i, j].tolist(), original[i, j].tolist()))
        for i in range(H)
        for j in range(W)
    )
    found = float(margin_loss(features, original, weights, margin))
    assert found == pytest.approx(total / float(weights.sum()), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("loss", ["gram", "margin"])
def test_gradients_are_those_of_finite_differences(loss: str) -> None:
    features, original, weights = random_maps(3)

    def value(x: Tensor) -> Tensor:
        return gram_loss(x, original, weights) if loss == "gram" else margin_loss(x, original, weights, 0.85)

    assert torch.autograd.gradcheck(value, features.requires_grad_(), eps=1e-6, atol=1e-7)
    [gradient] = torch.autograd.grad(value(features), features)
    assert ((gradient.abs().sum(-1) > 0) <= (weights > 0)).all(), "patches that do not count pull nowhere"
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("loss", ["gram", "margin"])
@pytest.mark.parametrize("length", [1.0, 7.5])
def test_at_the_original_there_is_neither_loss_nor_gradient(loss: str, length: float) -> None:
    _, original, weights = random_maps(4, torch.float32)
    features = (length * original).requires_grad_()
    found = gram_loss(features, original, weights) if loss == "gram" else margin_loss(features, original, weights, 0.85)
    found.backward()
    assert float(found.detach()) == pytest.approx(0, abs=1e-12)
    assert features.grad is not None
    assert features.grad.abs().max() < 1e-6


def test_features_that_turn_together_keep_their_gram_matrix_but_not_their_place() -> None:
    _, original, weights = random_maps(5)
    turn, _ = torch.linalg.qr(torch.randn(C, C, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    assert float(gram_loss(original @ turn, original, weights)) == pytest.approx(0, abs=1e-12)
    assert float(margin_loss(original @ turn, original, weights, 0.85)) > 0.1


def test_within_the_margin_features_are_free() -> None:
    _, original, weights = random_maps(6)
    features = (original + 0.05 * torch.randn_like(original)).requires_grad_()
    cosines = torch.cosine_similarity(features.detach(), original, dim=-1)
    margin = float(cosines.min()) - 1e-3
    loss = margin_loss(features, original, weights, margin)
    loss.backward()
    assert float(loss.detach()) == 0
    assert features.grad is not None
    assert (features.grad == 0).all()
    assert float(margin_loss(features, original, torch.ones(H, W), float(cosines.min()) + 1e-3)) > 0


def test_an_image_in_which_no_patch_counts_has_neither_loss_nor_gradient() -> None:
    features, original, _ = random_maps(7)
    features.requires_grad_()
    none = torch.zeros(H, W)
    loss = gram_loss(features, original, none) + margin_loss(features, original, none, 0.85)
    loss.backward()
    assert float(loss.detach()) == 0
    assert features.grad is not None
    assert (features.grad == 0).all()


def make_sample(seed: int) -> Sample:
    """Noise with targets of its own for both anchors."""
    random = torch.Generator().manual_seed(seed)
    image, features = torch.rand(3, HEIGHT, WIDTH, generator=random), torch.randn(3, *GRID, 64, generator=random)
    weights = (torch.rand(2, *GRID, generator=random) > 0.2).float()
    gram, original = Target(features[1], weights[0]), Target(features[2], weights[1])
    return Sample(image, features[0], torch.ones(GRID), gram=gram, original=original)


def test_a_mirror_image_has_mirrored_anchors_and_the_same_losses() -> None:
    sample = make_sample(0)
    near = sample.features + 0.6 * torch.randn(*GRID, 64, generator=torch.Generator().manual_seed(1))
    sample = dataclasses.replace(sample, **{name: Target(near, torch.ones(GRID)) for name in ("gram", "original")})
    mirrored = flip(sample)
    for one, other in ((sample.gram, mirrored.gram), (sample.original, mirrored.original)):
        assert one is not None
        assert other is not None
        assert torch.equal(other.features, one.features.flip(1))
        assert torch.equal(other.weights, one.weights.flip(1))
        for loss in (gram_loss, lambda *values: margin_loss(*values, 0.95)):
            before = loss(sample.features, one.features, one.weights)
            torch.testing.assert_close(loss(mirrored.features, other.features, other.weights), before)
            assert float(loss(sample.features, other.features, other.weights)) > 1.5 * float(before) > 0


@pytest.mark.parametrize(("scale", "x", "y"), [(0.5, 0.5, -0.5), (0.7, 0.1, 0.3)])
def test_a_crop_has_the_anchors_that_its_features_would_have(scale: float, x: float, y: float) -> None:
    sample = make_sample(1)
    weights = sample.gram.weights if sample.gram is not None else torch.ones(GRID)
    same = Target(sample.features, weights)
    cut = crop(dataclasses.replace(sample, weights=weights, gram=same, original=same), scale, x, y)
    for target in (cut.gram, cut.original):
        assert target is not None
        assert torch.equal(target.features, cut.features)
        assert torch.equal(target.weights, cut.weights)


@pytest.mark.parametrize("name", ["gram", "anchor"])
def test_a_step_reports_the_loss_and_lowers_it(name: str) -> None:
    weight = {f"{name}_weight": 10.0}
    recipe = Recipe(clip_norm=1e9, lr=1e-4, anchor_margin=0.95, **weight)
    learner = make_learner(load_backbone(BACKBONE), recipe)
    sample = make_sample(2)
    with torch.no_grad():  # features alone give no gradient
        features = learner.backbone(sample.image[None])[0].permute(1, 2, 0)
    noisy = Target(features + 0.7 * torch.randn(*GRID, 64), torch.ones(GRID))
    sample = dataclasses.replace(sample, features=features, gram=None, original=None, weights=torch.zeros(GRID))
    sample = dataclasses.replace(sample, **{"gram" if name == "gram" else "original": noisy})
    found = [training_step(learner, [sample], recipe, 1e-3) for _ in range(20)]
    assert set(found[0]) == {"loss", "cosine", "grad_norm", name}
    assert float(found[0]["loss"]) == pytest.approx(10 * float(found[0][name]), rel=1e-5)
    assert float(found[-1][name]) < 0.9 * float(found[0][name])
