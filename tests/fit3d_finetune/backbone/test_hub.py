"""The result is a timm local-dir folder that anyone loads, and an extractor of both backbones' features."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

import fit3d_finetune
from fit3d_finetune.backbone.hub import read_finetuned
from fit3d_finetune.targets.scenes import Scene
from fit3d_finetune.training.recipe import Recipe
from fit3d_finetune.training.train import finetune
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.backbone import BackboneConfig, load_backbone
from tests.fit3d_finetune.scenes import BACKBONE, backbone_info, run_of, scene_of


@pytest.fixture(scope="module")
def _finetuned(tmp_path_factory: pytest.TempPathFactory, scenes: list[Scene]) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIT3D_CACHE_DIR", str(folder / "cache"))
        return finetune(run_of(folder / "finetuned", scenes, Recipe(lr=1e-3, clip_norm=1.0, epochs=2)))


@pytest.fixture
def finetuned(_finetuned: Path, tmp_path: Path) -> Path:
    """A copy, to be spoilt."""
    return Path(shutil.copytree(_finetuned, tmp_path / "finetuned"))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 48, 80)


@torch.no_grad()
def timm_features(folder: Path, images: torch.Tensor, pretrained: bool) -> torch.Tensor:
    """As the model card says."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=pretrained, num_classes=0).eval()
    assert type(model).__module__.startswith("timm.")
    mean, std = (torch.tensor(model.pretrained_cfg[name])[:, None, None] for name in ("mean", "std"))
    [maps] = model.forward_intermediates((images - mean) / std, indices=[3], norm=True, intermediates_only=True)
    return maps


def test_timm_loads_the_folder_and_gives_our_features(finetuned: Path, images: torch.Tensor) -> None:
    with torch.no_grad():
        ours = load_backbone(read_finetuned(finetuned).finetuned)(images)
        original = load_backbone(BACKBONE)(images)
    torch.testing.assert_close(timm_features(finetuned, images, pretrained=True), ours, atol=1e-5, rtol=1e-5)
    assert (ours - original).abs().mean() > 0.01


def test_without_pretrained_timm_builds_the_network_with_random_weights(finetuned: Path, images: torch.Tensor) -> None:
    """timm's rule for every name, so that code and model card must say pretrained=True."""
    one, other = (timm_features(finetuned, images, pretrained=False) for _ in range(2))
    assert not torch.allclose(one, other, atol=1e-3)
    assert "pretrained=True" in (finetuned / "README.md").read_text()


def test_the_folder_stays_good_when_it_moves(finetuned: Path, images: torch.Tensor, tmp_path: Path) -> None:
    before = fit3d_finetune.load(finetuned)(images)
    moved = finetuned.rename(tmp_path / "elsewhere")
    assert torch.equal(fit3d_finetune.load(moved)(images), before)


@torch.no_grad()
def test_load_gives_original_and_finetuned_features_side_by_side(finetuned: Path, images: torch.Tensor) -> None:
    assembly = fit3d_finetune.load(str(finetuned))
    original, tuned = load_backbone(BACKBONE), load_backbone(read_finetuned(finetuned).finetuned)
    maps, tokens = assembly.forward_with_class_token(images)
    assert not assembly.training
    assert maps.shape == (2, 128, 3, 5) == (2, assembly.embed_dim, 3, 5)
    for part, backbone in ((slice(0, 64), original), (slice(64, 128), tuned)):
        expected_maps, expected_tokens = backbone.forward_with_class_token(images)
        assert torch.equal(maps[:, part], expected_maps)
        assert torch.equal(tokens[:, part], expected_tokens)
    assert torch.equal(assembly(images), maps)


def test_original_weights_from_a_file_are_found_again_or_asked_for(
    tmp_path: Path, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        state = timm.create_model("test_vit", num_classes=0).state_dict()
    save_file(state, tmp_path / "mine.safetensors")
    monkeypatch.chdir(tmp_path)
    config = dataclasses.replace(BACKBONE, weights="mine.safetensors")
    scene = scene_of(tmp_path, backbone=backbone_info(config))
    run = dataclasses.replace(run_of(tmp_path / "out", [scene_of(tmp_path / "other")], max_steps=1), backbone=config)
    folder = finetune(dataclasses.replace(run, train_scenes=[scene]))
    monkeypatch.chdir("/")
    expected = fit3d_finetune.load(folder)(images)
    (tmp_path / "mine.safetensors").rename(tmp_path / "moved.safetensors")
    with pytest.raises(InputError, match=r"there is no file or folder .*mine\.safetensors"):
        fit3d_finetune.load(folder)
    again = fit3d_finetune.load(folder, original_weights=str(tmp_path / "moved.safetensors"))
    assert torch.equal(again(images), expected)


def test_the_model_card_tells_what_was_done(finetuned: Path) -> None:
    card = (finetuned / "README.md").read_text()
    for text in ("test_vit", "block 3", "attic, barn", "8 training views of 2 scenes", "| lr | 0.001 |", "timm "):
        assert text in card, text
    history = read_finetuned(finetuned).summary["history"]
    assert f"| 8 | {history[-1]['held-out views/loss']:.4f} |" in card
    assert "| step | held-out views/loss | held-out views/cosine |" in card


@pytest.mark.parametrize("name", ["fit3d.json", "config.json", "model.safetensors"])
def test_a_folder_that_is_not_a_finetuned_one_is_named(finetuned: Path, name: str) -> None:
    (finetuned / name).unlink()
    with pytest.raises(InputError, match=rf"finetuned is not a fine-tuned backbone \(no {name}\): give a folder"):
        fit3d_finetune.load(finetuned)


def test_a_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere is not a fine-tuned backbone"):
        fit3d_finetune.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "{}", '{"format_version": 1}', '{"format_version": 1, "original": {"nam": 1}}']
)
def test_a_damaged_description_is_named(finetuned: Path, content: str) -> None:
    (finetuned / "fit3d.json").write_text(content)
    with pytest.raises(InputError, match=r"fit3d\.json.* (damaged|missing|not).*fine-tune again"):
        fit3d_finetune.load(finetuned)


def test_another_version_is_named(finetuned: Path) -> None:
    info = json.loads((finetuned / "fit3d.json").read_text())
    (finetuned / "fit3d.json").write_text(json.dumps(info | {"format_version": 9}))
    with pytest.raises(InputError, match="has version 9, but this program reads version 1"):
        fit3d_finetune.load(finetuned)


def test_damaged_weights_are_named(finetuned: Path) -> None:
    path = finetuned / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"model\.safetensors cannot be read"):
        fit3d_finetune.load(finetuned)


def test_other_original_weights_than_those_at_the_start_are_named(finetuned: Path) -> None:
    info = json.loads((finetuned / "fit3d.json").read_text())
    (finetuned / "fit3d.json").write_text(json.dumps(info | {"original_sha256": "ab" * 32}))
    with pytest.raises(InputError, match=r"was fine-tuned from other weights of test_vit than 'random' gives here"):
        fit3d_finetune.load(finetuned)


def test_the_finetuned_backbone_can_be_the_start_of_another(finetuned: Path, tmp_path: Path) -> None:
    config = BackboneConfig(name="test_vit", weights=str(finetuned), layer=3, max_size=None)
    scene = scene_of(tmp_path, backbone=backbone_info(config))
    run = dataclasses.replace(run_of(tmp_path / "x", [scene_of(tmp_path / "y")], max_steps=1), backbone=config)
    folder = finetune(dataclasses.replace(run, train_scenes=[scene], output_dir=tmp_path / "twice"))
    assert read_finetuned(folder).original.weights == str(finetuned)
    assert fit3d_finetune.load(folder).embed_dim == 128
