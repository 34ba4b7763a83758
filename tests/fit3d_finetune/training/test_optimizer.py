"""What is tuned and how fast, and two ways to the same gradient."""

from __future__ import annotations

import itertools

import pytest
import torch

from fit3d_finetune.targets.scenes import Scene, view_refs
from fit3d_finetune.training.learner import make_learner
from fit3d_finetune.training.loss import batch_loss
from fit3d_finetune.training.optimizer import build_optimizer, set_lr, tuned_parameters
from fit3d_finetune.training.recipe import PRESETS, Recipe, lr_factor
from fit3d_finetune.training.samples import Sample, Samples
from fit3d_finetune.training.step import training_step
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.backbone import Backbone, load_backbone
from tests.fit3d_finetune.scenes import BACKBONE, store_of


@pytest.fixture
def backbone() -> Backbone:
    return load_backbone(BACKBONE)


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory, scenes: list[Scene]) -> list[Sample]:
    samples = Samples(view_refs(scenes, "train"), store_of(tmp_path_factory.mktemp("targets"), *scenes))
    return [samples[i] for i in range(4)]


def gradients(backbone: Backbone) -> dict[str, torch.Tensor]:
    return {
        name: parameter.grad.clone()
        for name, parameter in tuned_parameters(backbone).items()
        if parameter.grad is not None
    }


def test_exactly_the_parameters_that_the_features_depend_on_are_tuned(backbone: Backbone, batch: list[Sample]) -> None:
    batch_loss(backbone, batch[:1], "l1")[0].backward()
    used = {name for name, parameter in backbone.model.named_parameters() if parameter.grad is not None}
    assert set(tuned_parameters(backbone)) == used
    assert not any(name.startswith(("blocks.4.", "blocks.5.")) for name in used)
    assert {"norm.weight", "pos_embed", "cls_token", "patch_embed.proj.weight", "blocks.3.mlp.fc2.bias"} <= used


def test_earlier_blocks_learn_more_slowly_by_the_layer_decay(backbone: Backbone) -> None:
    optimizer = build_optimizer(backbone, Recipe(lr=0.1, layer_decay=0.5))
    set_lr(optimizer, 0.08)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    rates = {name: rate[id(parameter)] for name, parameter in tuned_parameters(backbone).items()}
    assert len(rate) == len(rates)
    for block, expected in enumerate((0.01, 0.02, 0.04, 0.08)):
        assert rates[f"blocks.{block}.attn.qkv.weight"] == pytest.approx(expected)
    assert rates["norm.bias"] == pytest.approx(0.08)
    assert rates["patch_embed.proj.weight"] == rates["pos_embed"] == rates["cls_token"] == pytest.approx(0.005)


def test_accumulated_gradients_are_those_of_the_larger_batch(batch: list[Sample]) -> None:
    found = []
    for size in (4, 2, 3):
        backbone = load_backbone(BACKBONE)
        recipe = Recipe(batch_size=size, accumulate=4, clip_norm=1e9)
        figures = training_step(make_learner(backbone, recipe), batch, recipe, 0.0)
        found.append((gradients(backbone), figures))
    for others, figures in found[1:]:
        for name, gradient in found[0][0].items():
            torch.testing.assert_close(others[name], gradient, atol=1e-6, rtol=1e-3, msg=name)
        assert float(figures["loss"]) == pytest.approx(float(found[0][1]["loss"]), rel=1e-5)


def test_gradient_checkpointing_recomputes_and_changes_nothing(batch: list[Sample]) -> None:
    found = []
    for checkpointing in (False, True):
        backbone = load_backbone(BACKBONE)
        backbone.model.set_grad_checkpointing(checkpointing)
        calls: list[int] = []
        backbone.model.blocks[1].mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        loss, _ = batch_loss(backbone, batch[:2], "l1")
        loss.backward()
        found.append((loss.item(), gradients(backbone), len(calls)))
    (loss, plain, once), (same_loss, recomputed, twice) = found
    assert (once, twice) == (1, 2)
    assert same_loss == loss
    assert plain.keys() == recomputed.keys()
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)


def test_the_gradient_is_clipped(backbone: Backbone, batch: list[Sample]) -> None:
    recipe = Recipe(clip_norm=1e-3)
    parameters = list(tuned_parameters(backbone).values())
    figures = training_step(make_learner(backbone, recipe), batch[:2], recipe, 0.0)
    assert float(figures["grad_norm"]) > 1e-3
    total = torch.stack([p.grad.norm() for p in parameters]).norm()
    assert float(total) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("preset", ["paper", "recommended"])
def test_presets_make_sense(preset: str) -> None:
    PRESETS[preset].check()


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    recipe = Recipe(warmup=0.1, schedule="cosine")
    rates = [lr_factor(step, 200, recipe) for step in range(200)]
    assert rates[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert rates[20] == 1.0
    assert all(a > b for a, b in itertools.pairwise(rates[20:]))
    assert rates[110] == pytest.approx(0.5)
    assert 0 < rates[-1] < 1e-3


@pytest.mark.parametrize(
    ("wrong", "option"),
    [
        ({"epochs": 0}, "--epochs"),
        ({"lr": float("nan")}, "--lr"),
        ({"batch_size": -1}, "--batch-size"),
        ({"crop_scale": 1.5}, "--crop-scale"),
        ({"crop_scale": 0.0}, "--crop-scale"),
        ({"keep_original": -0.1}, "--keep-original"),
        ({"layer_decay": 2.0}, "--layer-decay"),
        ({"warmup": 1.1}, "--warmup"),
        ({"weight_decay": -1e-4}, "--weight-decay"),
    ],
)
def test_options_that_make_no_sense_are_named(wrong: dict[str, float], option: str) -> None:
    with pytest.raises(InputError, match=f"^{option} must"):
        Recipe(**wrong).check()
