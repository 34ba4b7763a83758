"""Rounds by plain commands: fit3d-lift with the fine-tuned folder, then fit3d-finetune on what it wrote."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fit3d_finetune.backbone.hub import INFO_FILE, WEIGHTS_FILE, read_finetuned, require_original
from fit3d_finetune.commands.finetune import parse
from fit3d_finetune.commands.finetune import run as fine_tune
from fit3d_finetune.targets.finding import find_scenes
from fit3d_ns.commands.lift import BackboneChoice, LiftArguments
from fit3d_ns.commands.lift import run as lift
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.backbone import load_backbone
from fit3d_ns.features.cache import extract_feature_maps
from tests.fit3d_finetune.scenes import BACKBONE, store_of

OPTIONS = ("--tracker", "none", "--device", "cpu", "--precision", "fp32", "--lr", "1e-3", "--val-fraction", "0")


def round_of(exports: Path, out: Path, *options: str) -> Path:
    return fine_tune(parse(["--exports", str(exports), "--output-dir", str(out), *OPTIONS, *options]))


@pytest.fixture
def first(exports: Path, tmp_path: Path) -> Path:
    """The first round's backbone."""
    return round_of(exports, tmp_path / "finetuned", "--max-steps", "3")


def lift_all(exports: Path, weights: Path, out: Path) -> Path:
    for export in sorted(exports.iterdir()):
        backbone = BackboneChoice(weights=str(weights))
        lift(LiftArguments(export=export, backbone=backbone, output_dir=out, name=export.name, feature_dim=8))
    return out


def test_a_round_goes_on_from_the_last_ones_backbone(exports: Path, first: Path, tmp_path: Path) -> None:
    runs = lift_all(exports, first, tmp_path / "runs-2")
    before, scenes = find_scenes(exports), find_scenes(runs)
    assert [scene.name for scene in scenes] == ["attic", "barn"]
    for old, new in zip(before, scenes, strict=True):
        assert new.backbone.layer == old.backbone.layer == 3, "the block that was tuned, not the last"
        assert new.backbone.weights_sha256 != old.backbone.weights_sha256
        assert [view.grid for view in new.views] == [view.grid for view in old.views]
        assert torch.equal(new.load().means, old.load().means)

    second = round_of(runs, tmp_path / "finetuned-2", "--weights", str(first), "--max-steps", "3")
    described = read_finetuned(second)
    assert described.original.weights == str(first)
    assert described.original.layer == described.finetuned.layer == 3
    require_original(described, second)
    # It starts from the first round's weights, and mixes with them: as good as none of its own leaves those.
    hardly = round_of(runs, tmp_path / "hardly", "--weights", str(first), "--max-steps", "3", "--weight-mix", "1e-9")
    start, found, none = (load_file(folder / WEIGHTS_FILE) for folder in (first, second, hardly))
    torch.testing.assert_close(none, start, rtol=1e-6, atol=1e-8)
    assert max(float((found[name] - start[name]).abs().max()) for name in start) > 1e-4


def test_what_is_lifted_and_held_in_a_round_is_of_its_own_backbone(exports: Path, first: Path, tmp_path: Path) -> None:
    [scene, _] = find_scenes(lift_all(exports, first, tmp_path / "runs-2"))
    image = store_of(tmp_path / "a", scene).image(0, 1)
    tuned = read_finetuned(first).finetuned
    with torch.no_grad():
        expected = load_backbone(tuned)(image[None])[0].permute(1, 2, 0)
        original = load_backbone(BACKBONE)(image[None])[0].permute(1, 2, 0)
    pixels = (image.permute(1, 2, 0) * 255).round().byte().numpy()
    [cached] = extract_feature_maps([pixels], dataclasses.replace(tuned, max_size=None), tmp_path / "maps")
    torch.testing.assert_close(cached.float(), expected, atol=2e-3, rtol=2e-3)
    lifted = store_of(tmp_path / "a", scene).get(0, 1).features
    assert (lifted - expected).square().mean() < (lifted - original).square().mean()


def test_a_round_needs_the_weights_that_its_exports_were_made_with(exports: Path, first: Path, tmp_path: Path) -> None:
    runs = lift_all(exports, first, tmp_path / "runs-2")
    with pytest.raises(InputError, match=r"from a folder that they do not hold: give its path by --weights"):
        round_of(runs, tmp_path / "out")
    other = round_of(exports, tmp_path / "other", "--max-steps", "2")
    with pytest.raises(InputError, match=r"were made with other weights .*: give the right ones by --weights"):
        round_of(runs, tmp_path / "out", "--weights", str(other))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"original": {"layer": "last"}}'])
def test_a_folder_that_does_not_say_which_block_was_tuned_is_named(
    exports: Path, first: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], content: str
) -> None:
    broken = Path(shutil.copytree(first, tmp_path / "broken"))
    (broken / INFO_FILE).write_text(content)
    with pytest.raises(SystemExit) as exit_:
        lift_all(exports, broken, tmp_path / "runs-2")
    assert exit_.value.code == 2
    assert "fit3d.json is damaged" in capfd.readouterr().err
    assert not list((tmp_path / "runs-2").glob("*"))


def test_another_block_may_be_asked_for_and_other_folders_have_their_own_default(
    exports: Path, first: Path, tmp_path: Path
) -> None:
    chosen = BackboneChoice(weights=str(first), layer=2)
    lifted = lift(LiftArguments(export=exports / "barn", backbone=chosen, output_dir=tmp_path / "a", feature_dim=8))
    assert json.loads((lifted / "scene.json").read_text())["backbone"]["layer"] == 2
    plain = Path(shutil.copytree(first, tmp_path / "plain"))
    (plain / INFO_FILE).unlink()  # a local-dir folder of timm's
    by_default = BackboneChoice(weights=str(plain))
    lifted = lift(LiftArguments(export=exports / "barn", backbone=by_default, output_dir=tmp_path / "b", feature_dim=8))
    assert json.loads((lifted / "scene.json").read_text())["backbone"]["layer"] == 5
