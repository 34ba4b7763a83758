"""Low-rank adapters: they begin as the original, train alone, resume, and leave as what every merger makes of them."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from fit3d_finetune.backbone.adapter import save_adapter
from fit3d_finetune.backbone.hub import read_finetuned
from fit3d_finetune.targets.scenes import Scene, view_refs
from fit3d_finetune.training import train as training
from fit3d_finetune.training.adapter import InsertedLoRA, LoRA
from fit3d_finetune.training.checkpoint import CHECKPOINT_FILE
from fit3d_finetune.training.learner import make_learner
from fit3d_finetune.training.optimizer import set_lr
from fit3d_finetune.training.recipe import Recipe
from fit3d_finetune.training.samples import Samples
from fit3d_finetune.training.step import training_step
from fit3d_finetune.training.stopping import TrainingInterrupted
from fit3d_finetune.training.train import finetune
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.adapter import merge
from fit3d_ns.features.backbone import BackboneConfig, load_backbone
from tests.fit3d_finetune.scenes import BACKBONE, run_of, scene_of, store_of
from tests.fit3d_finetune.training.runs import same, weights

peft = pytest.importorskip("peft")

RECIPE = Recipe(lr=1e-2, clip_norm=1.0, epochs=2, warmup=0.2, schedule="cosine", layer_decay=0.8, weight_mix=0.7)
"""8 steps on the eight training views of the two scenes."""


def is_adapted(name: str) -> bool:
    """Whether a tensor of the test ViT is one that adapters change: attention up to the feature layer, no biases."""
    block = int(name.split(".")[1]) if name.startswith("blocks.") else 99
    return block <= 3 and ".attn." in name and name.endswith("weight")


def test_an_adapter_begins_as_the_original(images: torch.Tensor) -> None:
    backbone = load_backbone(BACKBONE)
    before = backbone(images)
    InsertedLoRA(backbone, 8, seed=0)
    assert torch.equal(backbone(images), before)


def test_a_step_moves_the_adapter_and_nothing_else(tmp_path: Path) -> None:
    scene = scene_of(tmp_path)
    samples = Samples(view_refs([scene], "train"), store_of(tmp_path, scene))
    backbone = load_backbone(BACKBONE)
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    learner = make_learner(backbone, RECIPE, LoRA(4))
    training_step(learner, [samples[0]], RECIPE, 0.1)
    assert set(learner.trained) == {
        f"blocks.{i}.attn.{layer}.lora_{side}.default.weight"
        for i in range(4)
        for layer in ("qkv", "proj")
        for side in "AB"
    }
    moved = [name for name in learner.parameters if "lora_B" in name and bool(learner.parameters[name].any())]
    assert len(moved) == 8
    adapter = learner.adapter
    assert adapter is not None
    learned = adapter.remove()
    assert same(backbone.model.state_dict(), before), "without the adapter it is the original, by timm's names"
    merge(backbone.model, learned)
    for name, value in backbone.model.state_dict().items():
        assert torch.equal(value, before[name]) != is_adapted(name), name


def test_layer_decay_and_the_bound_on_gradients_act_on_the_adapter(tmp_path: Path) -> None:
    scene = scene_of(tmp_path)
    samples = Samples(view_refs([scene], "train"), store_of(tmp_path, scene))
    recipe = Recipe(layer_decay=0.5, clip_norm=1e-3)
    learner = make_learner(load_backbone(BACKBONE), recipe, LoRA(4))
    figures = training_step(learner, [samples[0]], recipe, 0.0)
    assert figures["grad_norm"] > 1e-3
    gradients = [parameter.grad for parameter in learner.parameters.values() if parameter.grad is not None]
    assert torch.stack([gradient.norm() for gradient in gradients]).norm() == pytest.approx(1e-3, rel=1e-3)
    set_lr(learner.optimizer, 0.8)
    rates = {id(p): group["lr"] for group in learner.optimizer.param_groups for p in group["params"]}
    for name, parameter in learner.parameters.items():
        assert rates[id(parameter)] == pytest.approx(0.8 * 0.5 ** (3 - int(name.split(".")[1]))), name


def test_the_seed_decides_the_first_factors_and_the_callers_random_state_stays() -> None:
    state = torch.get_rng_state()
    one, two, three = (InsertedLoRA(load_backbone(BACKBONE), 4, seed).parameters for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert same(dict(one), dict(two))
    assert not same(dict(one), dict(three))


@pytest.mark.parametrize(
    "name",
    [
        "vit_pe_core_tiny_patch16_384",
        "eva02_tiny_patch14_224",
        pytest.param("vit_small_patch16_18x2_224", marks=pytest.mark.slow),
        pytest.param("vit_small_patch16_dinov3", marks=pytest.mark.slow),
        pytest.param("vit_base_patch16_siglip_224", marks=pytest.mark.slow),
        pytest.param("deit3_small_patch16_224", marks=pytest.mark.slow),
    ],
)
def test_every_vit_computes_with_its_adapter_as_with_the_merged_weights(name: str) -> None:
    """Some of timm's attentions multiply by the weight itself, which would pass an adapter by."""
    backbone = load_backbone(BackboneConfig(name=name, weights="random", layer=1))
    images = torch.rand(1, 3, 56, 56)
    original = backbone(images)
    inserted = InsertedLoRA(backbone, 4, seed=0)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in inserted.parameters.values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=random))
    adapted = backbone(images)
    (adapted.square().mean()).backward()
    assert all(bool(parameter.grad.any()) for parameter in inserted.parameters.values() if parameter.grad is not None)
    assert all(parameter.grad is not None for parameter in inserted.parameters.values())
    learned = inserted.remove()
    assert torch.equal(backbone(images), original)
    merge(backbone.model, learned)
    change = (adapted - original).norm()
    assert (backbone(images) - adapted).norm() < 0.01 * change


def test_of_a_small_vit_it_takes_less_than_a_megabyte(tmp_path: Path) -> None:
    """All twelve blocks of a ViT-S/14, rank 8."""
    backbone = load_backbone(BackboneConfig(name="vit_small_patch14_dinov2", weights="random"))
    inserted = InsertedLoRA(backbone, 8, seed=0)
    with torch.no_grad():
        for parameter in inserted.parameters.values():
            parameter.normal_()
    save_adapter(inserted.remove(), tmp_path)
    assert len(inserted.layers) == 24
    assert 800_000 < sum(path.stat().st_size for path in (tmp_path / "adapter").iterdir()) < 1_000_000


def test_the_merged_folder_is_original_and_adapter_to_the_bit(tmp_path: Path, scenes: list[Scene]) -> None:
    """With a part of the update only, as WiSE-FT asks."""
    folder = finetune(run_of(tmp_path / "out", scenes, RECIPE, lora=LoRA(4)))
    factors = load_file(folder / "adapter" / "adapter_model.safetensors")
    merged, original = weights(folder), load_backbone(BACKBONE).model.state_dict()
    assert merged.keys() == original.keys()
    for name, value in original.items():
        key = f"base_model.model.{name.removesuffix('.weight')}"
        if is_adapted(name):
            value = value + factors[f"{key}.lora_B.weight"] @ factors[f"{key}.lora_A.weight"]
        assert torch.equal(merged[name], value), name
        assert is_adapted(name) == (not torch.equal(original[name], merged[name])), name


def test_peft_merges_to_the_same_bits(tmp_path: Path, scenes: list[Scene]) -> None:
    folder = finetune(run_of(tmp_path / "out", scenes, RECIPE, lora=LoRA(4)))
    model = timm.create_model("test_vit", num_classes=0)
    model.load_state_dict(load_backbone(BACKBONE).model.state_dict())
    merged = peft.PeftModel.from_pretrained(model, str(folder / "adapter")).merge_and_unload()
    assert same(merged.state_dict(), weights(folder))


def test_a_share_of_the_weights_is_that_share_of_the_update(tmp_path: Path, scenes: list[Scene]) -> None:
    whole, part = (
        finetune(run_of(tmp_path / str(share), scenes, replace(RECIPE, weight_mix=share), lora=LoRA(4)))
        for share in (1.0, 0.3)
    )
    original, tuned, mixed = load_backbone(BACKBONE).model.state_dict(), weights(whole), weights(part)
    for name, value in mixed.items():
        change = (tuned[name] - original[name]).abs().max()
        expected = 0.7 * original[name] + 0.3 * tuned[name]
        torch.testing.assert_close(value, expected, atol=1e-6 + 0.01 * float(change), rtol=0)
    summary = read_finetuned(part).summary
    losses = [summary["history"][step]["held-out views/loss"] for step in (0, -1)]
    assert min(losses) < summary["mixed"]["held-out views/loss"] < max(losses)


@pytest.mark.parametrize("stops", [[1], [3, 7]])
def test_a_run_that_was_interrupted_goes_on_as_if_nothing_had_been(
    tmp_path: Path, scenes: list[Scene], monkeypatch: pytest.MonkeyPatch, stops: list[int]
) -> None:
    whole = finetune(run_of(tmp_path / "whole", scenes, RECIPE, lora=LoRA(4)))
    run = run_of(tmp_path / "parts", scenes, RECIPE, lora=LoRA(4))
    step, done = training.training_step, 0

    def interrupted(*arguments: object) -> object:
        nonlocal done
        figures = step(*arguments)  # type: ignore[arg-type]
        done += 1
        if done in stops:
            os.kill(os.getpid(), signal.SIGINT)
        return figures

    monkeypatch.setattr(training, "training_step", interrupted)
    for _ in stops:
        with pytest.raises(TrainingInterrupted):
            finetune(run)
        assert (run.output_dir / CHECKPOINT_FILE).stat().st_size < 100_000, "it holds the adapter alone"
        torch.manual_seed(done)
    finetune(run)
    assert done == 8
    for file in ("model.safetensors", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"):
        assert (run.output_dir / file).read_bytes() == (whole / file).read_bytes(), file


def test_gradient_checkpointing_gives_the_same_adapter(tmp_path: Path, scenes: list[Scene]) -> None:
    options = {"max_steps": 2, "lora": LoRA(4)}
    plain = weights(finetune(run_of(tmp_path / "plain", scenes, RECIPE, **options)))
    less = weights(finetune(run_of(tmp_path / "less", scenes, RECIPE, grad_checkpointing=True, **options)))
    assert same(plain, less)


def test_the_identity_of_a_run_names_the_adapter_only_where_there_is_one(tmp_path: Path, scenes: list[Scene]) -> None:
    plain = run_of(tmp_path / "out", scenes)
    assert not {"adapter", "rank", "save"} & plain.identity().keys()
    extra = {key: plain.identity().get(key) for key in ("adapter", "rank")}
    assert extra == {"adapter": None, "rank": None}
    for lora, added in (
        (LoRA(4), {"adapter": "lora", "rank": 4}),
        (LoRA(2, "adapter"), {"adapter": "lora", "rank": 2, "save": "adapter"}),
    ):
        assert replace(plain, lora=lora).identity() == {**plain.identity(), **added}


def test_another_rank_for_the_same_folder_is_named(tmp_path: Path, scenes: list[Scene]) -> None:
    run = run_of(tmp_path / "out", scenes, max_steps=1, lora=LoRA(4))
    finetune(run)
    with pytest.raises(InputError, match="differs in rank: give another --output-dir"):
        finetune(replace(run, lora=LoRA(8)))
    with pytest.raises(InputError, match="differs in adapter, rank: give another --output-dir"):
        finetune(replace(run, lora=None))


def test_a_missing_peft_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r'--adapter lora needs the library peft: pip install "peft>=0\.21", or'):
        LoRA(8).check()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 48, 80)
