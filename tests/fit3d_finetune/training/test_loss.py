"""The loss is the weighted mean over the patches that count."""

from __future__ import annotations

import math

import pytest
import torch

from fit3d_finetune.backbone.geometry import GeometryHeads
from fit3d_finetune.targets.files import Target
from fit3d_finetune.training.learner import make_learner
from fit3d_finetune.training.loss import batch_loss, patch_errors, weighted_mean
from fit3d_finetune.training.recipe import LossKind, LossMean, Recipe
from fit3d_finetune.training.samples import Sample
from fit3d_ns.features.backbone import Backbone, load_backbone
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


def gradients(parameters: dict[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    found = {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in parameters.items()}
    for parameter in parameters.values():
        parameter.grad = None
    return found


@pytest.mark.parametrize("kind", ["l1", "cosine"])
@pytest.mark.parametrize(("depth", "normals"), [(1.0, 0.5), (2.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_a_batch_teaches_what_its_images_teach_one_by_one(kind: LossKind, depth: float, normals: float) -> None:
    """Losses and gradients of images of two sizes, of which one is not held at its class token."""
    random = torch.Generator().manual_seed(0)
    recipe = Recipe(depth_weight=depth, normal_weight=normals, class_token_weight=0.7)
    learner = make_learner(load_backbone(BACKBONE), recipe)
    assert learner.teacher is not None
    if learner.teacher.heads is not None:
        for parameter in learner.teacher.heads.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    samples = []
    for place, (h, w) in enumerate(((2, 3), (3, 2), (2, 3), (2, 3))):
        shape = Target(torch.randn(h, w, 5, generator=random).abs(), torch.rand(h, w, generator=random))
        token = None if place == 2 else torch.randn(64, generator=random)
        image, target = torch.rand(3, 16 * h, 16 * w, generator=random), torch.randn(h, w, 64, generator=random)
        samples.append(Sample(image, target, torch.rand(h, w, generator=random), shape, token))
    loss, figures = batch_loss(learner.backbone, samples, kind, "image", learner.teacher)
    loss.backward()
    together = gradients(learner.trained)
    total, sums = torch.zeros(()), dict[str, float]()
    for sample in samples:
        one, found = batch_loss(learner.backbone, [sample], kind, "image", learner.teacher)
        total = total + one / 4
        if sample.class_token is not None:  # the mean over the three that have one, all others that over four
            total = total + 0.7 * token_loss(learner.backbone, sample) * (1 / 3 - 1 / 4)
        for name, value in found.items():
            sums[name] = sums.get(name, 0.0) + float(value) / (3 if name == "class_token" else 4)
    total.backward()
    alone = gradients(learner.trained)
    assert float(loss.detach()) == pytest.approx(float(total.detach()), rel=1e-5)
    assert {name: float(value) for name, value in figures.items()} == pytest.approx(sums, rel=1e-4, abs=1e-6)
    assert any(bool(value.any()) for value in together.values())
    for name, value in together.items():
        torch.testing.assert_close(value, alone[name], atol=2e-5, rtol=1e-3)


def token_loss(backbone: Backbone, sample: Sample) -> torch.Tensor:
    assert sample.class_token is not None
    _, [token] = backbone.forward_with_class_token(sample.image[None])
    return 1 - torch.dot(token, sample.class_token) / (token.norm() * sample.class_token.norm())


@pytest.mark.parametrize(("depth", "normals"), [(True, False), (False, True), (True, True)])
def test_heads_in_one_product_are_linear_layers_of_their_own(depth: bool, normals: bool) -> None:
    heads = GeometryHeads(6, depth, normals)
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter)
    maps, tokens = torch.randn(2, 6, 3, 4), torch.randn(2, 6)
    found = heads(maps, tokens)
    patches = maps.permute(0, 2, 3, 1)
    whole = torch.cat([patches, tokens[:, None, None].expand(-1, 3, 4, -1)], dim=-1)
    for head, given, values in ((heads.depth, whole, found[0]), (heads.normals, patches, found[1])):
        assert (head is None) == (values is None)
        if head is not None and values is not None:
            torch.testing.assert_close(values, head(given).squeeze(-1))
