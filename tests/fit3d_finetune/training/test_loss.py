"""The loss is the weighted mean over the patches that count."""

from __future__ import annotations

import math

import pytest
import torch

from fit3d_finetune.training.loss import batch_loss, patch_errors, weighted_mean
from fit3d_finetune.training.recipe import LossKind, LossMean
from fit3d_finetune.training.samples import Sample
from fit3d_ns.features.backbone import load_backbone
from tests.fit3d_finetune.scenes import BACKBONE

MEANS: tuple[LossMean, ...] = ("batch", "image")


def naive(features: torch.Tensor, target: torch.Tensor, kind: LossKind) -> float:
    a, b = features.double().tolist(), target.double().tolist()
    if kind == "cosine":
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return 1 - dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
    apart = [abs(x - y) for x, y in zip(a, b, strict=True)]
    if kind == "smooth-l1":
        apart = [d * d / 2 if d < 1 else d - 0.5 for d in apart]
    return sum(apart) / len(apart)


@pytest.mark.parametrize("kind", ["l1", "smooth-l1", "cosine"])
def test_the_loss_is_the_weighted_mean_over_patches(kind: LossKind) -> None:
    features, target = torch.randn(2, 3, 5), 2 * torch.randn(2, 3, 5)
    weights = torch.tensor([[1.0, 0.0, 0.5], [0.25, 1.0, 0.0]])
    total = sum(weights[i, j].item() * naive(features[i, j], target[i, j], kind) for i in range(2) for j in range(3))
    for mean in MEANS:
        loss = weighted_mean([patch_errors(features, target, kind)], [weights], mean)
        assert float(loss) == pytest.approx(total / 2.75, rel=1e-5)


def test_images_of_which_few_patches_count_weigh_less_or_as_much_as_any() -> None:
    errors, weights = [torch.full((2, 2), 1.0), torch.full((2, 2), 5.0)], [torch.ones(2, 2), torch.eye(2) / 2]
    assert float(weighted_mean(errors, weights, "batch")) == pytest.approx((4 * 1 + 1 * 5) / 5)
    assert float(weighted_mean(errors, weights, "image")) == pytest.approx((1 + 5) / 2)


@pytest.mark.parametrize("kind", ["l1", "smooth-l1", "cosine"])
def test_patches_that_do_not_count_have_no_gradient(kind: LossKind) -> None:
    features = torch.randn(2, 3, 5, requires_grad=True)
    weights = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]])
    weighted_mean([patch_errors(features, torch.randn(2, 3, 5), kind)], [weights], "batch").backward()
    assert ((features.grad.abs().sum(-1) > 0) == (weights > 0)).all()


@pytest.mark.parametrize("kind", ["l1", "smooth-l1", "cosine"])
@pytest.mark.parametrize("mean", MEANS)
def test_an_image_in_which_nothing_counts_gives_zero(kind: LossKind, mean: LossMean) -> None:
    features = torch.randn(2, 3, 5, requires_grad=True)
    loss = weighted_mean([patch_errors(features, torch.randn(2, 3, 5), kind)], [torch.zeros(2, 3)], mean)
    loss.backward()
    assert float(loss.detach()) == 0
    assert (features.grad == 0).all()


def test_images_of_different_sizes_may_share_a_batch() -> None:
    backbone = load_backbone(BACKBONE)
    sizes = ((2, 3), (3, 2), (2, 3))
    samples = [Sample(torch.rand(3, 16 * h, 16 * w), torch.randn(h, w, 64), torch.ones(h, w)) for h, w in sizes]
    with torch.no_grad():
        loss, figures = batch_loss(backbone, samples, "l1", "image")
        singles = [batch_loss(backbone, [sample], "l1") for sample in samples]
    assert float(loss) == pytest.approx(sum(float(one) for one, _ in singles) / 3, rel=1e-5)
    assert float(figures["cosine"]) == pytest.approx(sum(float(one["cosine"]) for _, one in singles) / 3, abs=1e-5)
    assert not batch_loss(backbone, samples, "l1")[1]["cosine"].requires_grad
