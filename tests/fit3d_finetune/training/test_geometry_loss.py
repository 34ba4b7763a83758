"""Losses and heads of depth and normals: against their formulas, and their gradients against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fit3d_finetune.backbone.geometry import GeometryHeads
from fit3d_finetune.targets.files import Target
from fit3d_finetune.training.geometry_loss import normal_loss, scale_invariant_loss
from fit3d_finetune.training.learner import make_learner
from fit3d_finetune.training.recipe import Recipe
from fit3d_finetune.training.samples import Sample
from fit3d_finetune.training.step import training_step
from fit3d_ns.features.backbone import load_backbone
from tests.fit3d_finetune.scenes import BACKBONE, GRID, HEIGHT, WIDTH

H, W = 5, 7


@pytest.fixture
def maps() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    values, target = torch.randn(2, H, W, generator=random, dtype=torch.float64)
    weights = torch.rand(H, W, generator=random, dtype=torch.float64)
    weights[0] = 0
    return values, target, weights


def test_the_scale_invariant_loss_is_its_formula(maps: tuple[torch.Tensor, ...]) -> None:
    values, target, weights = maps
    total = square = mean = 0.0
    for i in range(H):
        for j in range(W):
            error, weight = float(values[i, j] - target[i, j]), float(weights[i, j])
            total, square, mean = total + weight, square + weight * error**2, mean + weight * error
    expected = (square / total - (mean / total) ** 2) ** 0.5
    assert float(scale_invariant_loss(values, target, weights)) == pytest.approx(expected, abs=2e-3)


def test_a_wrong_size_costs_nothing_and_a_wrong_shape_all(maps: tuple[torch.Tensor, ...]) -> None:
    _, target, weights = maps
    unit = float(scale_invariant_loss(target + 1, target, weights))
    assert unit == pytest.approx(0, abs=2e-3)
    assert float(scale_invariant_loss(target, target, weights)) == pytest.approx(0, abs=1e-6)
    assert float(scale_invariant_loss(-target, target, weights)) > 1


@pytest.mark.parametrize("at_zero", [False, True])
def test_gradients_of_the_losses_are_those_of_finite_differences(maps: tuple[torch.Tensor, ...], at_zero: bool) -> None:
    values, target, weights = maps
    start = target.clone() if at_zero else values
    assert torch.autograd.gradcheck(
        lambda x: scale_invariant_loss(x, target, weights), start.requires_grad_(), eps=1e-7, atol=1e-4
    )
    normals = torch.nn.functional.normalize(torch.randn(H, W, 3, dtype=torch.float64), dim=-1)
    guess = (torch.zeros(H, W, 3, dtype=torch.float64) if at_zero else 0.5 * normals + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: normal_loss(x, normals, weights), guess)


def test_an_image_without_a_patch_that_counts_teaches_nothing() -> None:
    values = torch.randn(H, W, requires_grad=True)
    normals = torch.randn(H, W, 3, requires_grad=True)
    none = torch.zeros(H, W)
    loss = scale_invariant_loss(values, torch.zeros(H, W), none) + normal_loss(normals, torch.zeros(H, W, 3), none)
    loss.backward()
    assert float(loss) == pytest.approx(0, abs=1e-6)
    assert values.grad is not None
    assert normals.grad is not None
    assert (values.grad == 0).all()
    assert (normals.grad == 0).all()


def test_heads_are_linear_layers_on_patch_and_class_token() -> None:
    torch.manual_seed(0)
    heads = GeometryHeads(6, depth=True, normals=True)
    for parameter in heads.parameters():
        nn.init.normal_(parameter)
    maps, tokens = torch.randn(2, 6, H, W), torch.randn(2, 6)
    depth, normals = heads(maps, tokens)
    assert depth is not None
    assert normals is not None
    assert heads.depth is not None
    assert heads.normals is not None
    for image in range(2):
        for i in range(H):
            for j in range(W):
                both = torch.cat([maps[image, :, i, j], tokens[image]])
                torch.testing.assert_close(depth[image, i, j], heads.depth(both)[0])
                torch.testing.assert_close(normals[image, i, j], heads.normals(maps[image, :, i, j]))


@pytest.mark.parametrize(("depth", "normals"), [(1.0, 0.0), (0.0, 1.0), (1.0, 0.5)])
def test_heads_learn_and_teach_the_backbone_from_their_second_step_on(depth: float, normals: float) -> None:
    random = torch.Generator().manual_seed(0)
    learner = make_learner(load_backbone(BACKBONE), Recipe(depth_weight=depth, normal_weight=normals, clip_norm=1e9))
    image = torch.rand(3, HEIGHT, WIDTH, generator=random)
    with torch.no_grad():
        features = learner.backbone(image[None])[0].permute(1, 2, 0)  # features alone give no gradient
    values = torch.nn.functional.normalize(torch.randn(*GRID, 4, generator=random), dim=-1)
    values = torch.cat([values, torch.ones(*GRID, 1)], dim=-1)
    sample = Sample(image, features, torch.ones(GRID), Target(values, torch.ones(GRID)))
    recipe = Recipe(depth_weight=depth, normal_weight=normals, clip_norm=1e9, lr=1e-4)
    before = [parameter.clone() for parameter in learner.parameters.values()]
    figures = training_step(learner, [sample], recipe, 1e-4)
    assert set(figures) == {"loss", "cosine", "grad_norm"} | ({"depth"} if depth else set()) | (
        {"normals"} if normals else set()
    )
    assert float(figures["grad_norm"]) == pytest.approx(0, abs=1e-5), "heads at zero pull nowhere"
    first = float(figures["loss"])
    for _ in range(20):
        figures = training_step(learner, [sample], recipe, 1e-4)
    assert float(figures["grad_norm"]) > 1e-5
    assert float(figures["loss"]) < first
    moved = [not torch.equal(a, b) for a, b in zip(learner.parameters.values(), before, strict=True)]
    assert sum(moved) > 0.9 * len(moved)
