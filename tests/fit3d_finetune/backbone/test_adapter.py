"""A folder that holds the adapter alone is as good as the weights, to whoever has the original's."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import fit3d_finetune
from fit3d_finetune.backbone.geometry import GeometryHeads, save_heads
from fit3d_finetune.backbone.hub import read_finetuned
from fit3d_finetune.commands.probe import ProbeArguments, run
from fit3d_finetune.training.adapter import LoRA
from fit3d_finetune.training.recipe import Recipe
from fit3d_finetune.training.train import finetune
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.backbone import BackboneConfig, backbone_fingerprint, load_backbone
from tests.fit3d_finetune.probing.scenes import write_scene
from tests.fit3d_finetune.scenes import BACKBONE, backbone_info, run_of, scene_of

pytest.importorskip("peft")

RECIPE = Recipe(lr=1e-2, clip_norm=1.0, epochs=2, weight_mix=0.7)


@dataclasses.dataclass(frozen=True)
class Made:
    """Two folders of one fine-tuning of weights that lie in a file."""

    merged: Path
    adapter: Path
    original: Path


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("adapter")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        save_file(timm.create_model("test_vit", num_classes=0).state_dict(), folder / "gated.safetensors")
    config = dataclasses.replace(BACKBONE, weights=str(folder / "gated.safetensors"))
    scene = scene_of(folder, backbone=backbone_info(config))
    plain = run_of(folder / "merged", [scene_of(folder / "other")], RECIPE)
    runs = [
        dataclasses.replace(plain, train_scenes=[scene], backbone=config, lora=lora, output_dir=folder / lora.save)
        for lora in (LoRA(4), LoRA(4, "adapter"))
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIT3D_CACHE_DIR", str(folder / "cache"))
        merged, adapter = (finetune(run) for run in runs)
    return Made(merged, adapter, folder / "gated.safetensors")


@pytest.fixture
def made(_made: Made, tmp_path: Path) -> Made:
    """Copies, to be spoilt; the original stays where it is."""
    return Made(
        Path(shutil.copytree(_made.merged, tmp_path / "merged")),
        Path(shutil.copytree(_made.adapter, tmp_path / "adapter-only")),
        _made.original,
    )


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 48, 80)


def original_model(made: Made) -> torch.nn.Module:
    model = timm.create_model("test_vit", num_classes=0)
    model.load_state_dict(load_file(made.original))
    return model


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_it_holds_no_weights_of_the_original(made: Made) -> None:
    files = {path.name for path in made.adapter.rglob("*") if path.is_file()}
    assert {"adapter_model.safetensors", "adapter_config.json", "fit3d.json", "config.json", "README.md"} == files - {
        ".fit3d-finetune"
    }
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (made.adapter / "adapter" / file).read_bytes() == (made.merged / "adapter" / file).read_bytes()


@pytest.mark.parametrize("part", [".", "adapter"])
def test_applied_to_the_original_it_gives_the_merged_weights_to_the_bit(made: Made, part: str) -> None:
    model = original_model(made)
    assert fit3d_finetune.apply_adapter(model, made.adapter / part) is model
    assert same(model.state_dict(), load_file(made.merged / "model.safetensors"))


def test_it_is_applied_to_a_backbone_as_to_its_model(made: Made, images: torch.Tensor) -> None:
    config = read_finetuned(made.adapter).original
    adapted = fit3d_finetune.apply_adapter(load_backbone(config), str(made.adapter))
    with torch.no_grad():
        assert torch.equal(adapted(images), load_backbone(read_finetuned(made.merged).finetuned)(images))


def test_loading_either_folder_gives_the_same_features(made: Made, images: torch.Tensor) -> None:
    maps = fit3d_finetune.load(made.merged)(images)
    assert torch.equal(fit3d_finetune.load(made.adapter)(images), maps)
    assert not torch.equal(maps[:, :64], maps[:, 64:])


def test_the_original_may_lie_elsewhere(made: Made, images: torch.Tensor, tmp_path: Path) -> None:
    expected = fit3d_finetune.load(made.merged)(images)
    elsewhere = Path(shutil.copy(made.original, tmp_path / "mine.safetensors"))
    aside = made.original.rename(tmp_path / "aside")
    try:
        with pytest.raises(InputError, match="there is no file or folder"):
            fit3d_finetune.load(made.adapter)
        with pytest.raises(InputError, match=r"holds an adapter alone, and the weights of test_vit .* are not at"):
            load_backbone(read_finetuned(made.adapter).finetuned)
        assert torch.equal(fit3d_finetune.load(made.adapter, original_weights=str(elsewhere))(images), expected)
        merged = fit3d_finetune.merge_adapter(made.adapter, tmp_path / "again", original_weights=str(elsewhere))
        assert torch.equal(fit3d_finetune.load(merged)(images), expected)
    finally:
        aside.rename(made.original)


def test_merging_writes_the_folder_that_timm_loads(made: Made, tmp_path: Path) -> None:
    save_heads(GeometryHeads(64, depth=True, normals=True), 1.0, made.adapter)
    folder = fit3d_finetune.merge_adapter(made.adapter, tmp_path / "again")
    assert (folder / "model.safetensors").read_bytes() == (made.merged / "model.safetensors").read_bytes()
    assert "heads.safetensors" in {path.name for path in folder.iterdir()}
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0)
    assert same(model.state_dict(), load_file(made.merged / "model.safetensors"))
    assert "local-dir:PATH_OF_THIS_FOLDER" in (folder / "README.md").read_text()
    with pytest.raises(InputError, match="again is there already: give a folder that is not"):
        fit3d_finetune.merge_adapter(made.adapter, folder)


def test_depth_heads_beside_an_adapter_are_not_taken_for_its_weights(made: Made, images: torch.Tensor) -> None:
    for folder in (made.adapter, made.merged):
        save_heads(GeometryHeads(64, depth=True, normals=True), 2.0, folder)
    one, other = (fit3d_finetune.load_geometry(folder) for folder in (made.adapter, made.merged))
    with torch.no_grad():
        assert torch.equal(one.backbone(images), other.backbone(images))


def test_a_folder_with_an_adapter_alone_is_a_source_of_weights_of_its_own(made: Made, images: torch.Tensor) -> None:
    config = BackboneConfig(weights=str(made.adapter), layer=3, max_size=None)
    identity = backbone_fingerprint(config)
    assert identity["weights_sha256"] not in (
        backbone_fingerprint(dataclasses.replace(config, weights=str(path)))["weights_sha256"]
        for path in (made.merged,)
    )
    assert identity["weights_sha256"] != read_finetuned(made.adapter).original_sha256
    assert "adapter from adapter-only/" in identity["description"]
    with torch.no_grad():
        merged = load_backbone(dataclasses.replace(config, weights=str(made.merged)))(images)
        assert torch.equal(load_backbone(config)(images), merged)


def test_probing_an_adapter_alone_finds_what_probing_the_merged_weights_finds(made: Made, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene", views=4)
    found = []
    for folder in (made.adapter, made.merged):
        arguments = ProbeArguments(
            test_data=(str(scene),), finetuned=folder, tasks=("consistency",), device="cpu", output_dir=tmp_path / "out"
        )
        found.append(run(arguments).consistency)
    assert found[0].keys() == {"original", "fine-tuned", "original + original", "original + fine-tuned"}
    assert repr(found[0]) == repr(found[1])


def test_other_weights_than_the_original_are_refused(made: Made) -> None:
    with pytest.raises(InputError, match="was made for other weights of test_vit than this model has"):
        fit3d_finetune.apply_adapter(timm.create_model("test_vit", num_classes=0), made.adapter)
    with pytest.raises(InputError, match="was made for other weights"):
        fit3d_finetune.apply_adapter(original_model(made).half(), made.adapter)


def test_a_folder_without_an_adapter_is_named(made: Made, tmp_path: Path) -> None:
    shutil.rmtree(made.merged / "adapter")
    with pytest.raises(InputError, match="merged holds no adapter: give a folder of fit3d-finetune --adapter lora"):
        fit3d_finetune.apply_adapter(original_model(made), made.merged)
    with pytest.raises(InputError, match="merged holds no adapter"):
        fit3d_finetune.merge_adapter(made.merged, tmp_path / "x")


def test_the_model_card_says_how_it_was_trained_and_how_to_get_the_weights(made: Made) -> None:
    merged, adapter = ((folder / "README.md").read_text() for folder in (made.merged, made.adapter))
    for card in (merged, adapter):
        assert "low-rank adapter (LoRA, rank 4)" in card
    assert "local-dir:PATH_OF_THIS_FOLDER" in merged
    assert "local-dir:" not in adapter
    assert 'fit3d_finetune.apply_adapter(model, "PATH_OF_THIS_FOLDER")' in adapter
    assert read_finetuned(made.adapter).summary["run"]["rank"] == 4
