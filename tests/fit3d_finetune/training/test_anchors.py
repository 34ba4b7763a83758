"""Fine-tuning that is held to the original: how far it goes, that it goes on exactly, and that older runs do too."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fit3d_finetune.backbone.hub import INFO_FILE, WEIGHTS_FILE, read_finetuned
from fit3d_finetune.targets.scenes import Scene, view_refs, with_novel_views
from fit3d_finetune.targets.store import TargetStore
from fit3d_finetune.training import train as training
from fit3d_finetune.training.anchor_loss import gram_loss, margin_loss
from fit3d_finetune.training.checkpoint import CHECKPOINT_FILE
from fit3d_finetune.training.recipe import PRESETS, RELEASE_0_1, Recipe
from fit3d_finetune.training.samples import Samples
from fit3d_finetune.training.train import finetune
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.backbone import load_backbone
from tests.fit3d_finetune.scenes import run_of, scene_of, store_of
from tests.fit3d_finetune.training.runs import cut_short

NEW_FIELDS = ("gram_weight", "anchor_weight", "anchor_margin")
PLAIN = Recipe(lr=1e-3, epochs=6, clip_norm=1.0)


def distances(folder: Path, scene: Scene, place: Path) -> tuple[float, float]:
    """Mean loss of Gram matrices, and of the margin, of a fine-tuned backbone on a scene's training views."""
    grams, originals = (store_of(place, scene, kind=kind) for kind in ("gram", "original"))  # type: ignore[arg-type]
    samples = Samples(view_refs([scene], "train"), originals, grams=grams, anchors=originals)
    backbone, losses = load_backbone(read_finetuned(folder).finetuned), []
    for index in range(len(samples)):
        sample = samples[index]
        assert sample.gram is not None
        assert sample.original is not None
        with torch.no_grad():
            features = backbone(sample.image[None])[0].permute(1, 2, 0)
        gram = gram_loss(features, sample.gram.features, sample.gram.weights)
        anchor = margin_loss(features, sample.original.features, sample.original.weights, 0.98)
        losses.append(torch.stack([gram, anchor]))
    gram, anchor = torch.stack(losses).mean(0).tolist()
    return gram, anchor


def test_features_stay_nearer_to_the_original_if_asked_for(tmp_path: Path) -> None:
    scene = scene_of(tmp_path)
    free = distances(finetune(run_of(tmp_path / "free", [scene], PLAIN)), scene, tmp_path)
    held = [
        distances(finetune(run_of(tmp_path / name, [scene], recipe)), scene, tmp_path)
        for name, recipe in {
            "gram": dataclasses.replace(PLAIN, gram_weight=300.0),
            "anchor": dataclasses.replace(PLAIN, anchor_weight=100.0, anchor_margin=0.98),
        }.items()
    ]
    assert held[0][0] < 0.7 * free[0]
    assert held[1][1] < 0.3 * free[1]


def test_neither_is_asked_for_by_a_preset_and_a_weight_of_zero_changes_nothing(tmp_path: Path) -> None:
    for recipe in PRESETS.values():
        assert recipe.gram_weight == recipe.anchor_weight == 0
    scene = scene_of(tmp_path)
    plain = load_file(finetune(run_of(tmp_path / "plain", [scene], PLAIN, max_steps=2)) / WEIGHTS_FILE)
    other = dataclasses.replace(PLAIN, anchor_margin=0.2)
    found = load_file(finetune(run_of(tmp_path / "other", [scene], other, max_steps=2)) / WEIGHTS_FILE)
    assert all(found[name].equal(plain[name]) for name in plain)


def test_a_run_with_anchors_crops_and_novel_views_goes_on_exactly(tmp_path: Path) -> None:
    scene = with_novel_views(scene_of(tmp_path), 1)
    recipe = Recipe(lr=1e-3, crop_scale=0.6, gram_weight=1.0, anchor_weight=1.0, keep_original=0.2)
    run = run_of(tmp_path / "cut", [scene], recipe, save_seconds=0.0)
    cut_short(run, 2)
    resumed = load_file(finetune(run) / WEIGHTS_FILE)
    anew = run_of(tmp_path / "whole", [scene], recipe, target_cache_bytes=0)
    whole = load_file(finetune(anew) / WEIGHTS_FILE)
    assert all(whole[name].equal(resumed[name]) for name in whole)


def test_a_run_that_was_recorded_before_these_options_goes_on(tmp_path: Path) -> None:
    scene = scene_of(tmp_path)
    whole = load_file(finetune(run_of(tmp_path / "whole", [scene], PLAIN)) / WEIGHTS_FILE)
    run = run_of(tmp_path / "cut", [scene], PLAIN, save_seconds=0.0)
    cut_short(run, 2)
    path = run.output_dir / CHECKPOINT_FILE
    with safe_open(path, framework="pt") as file:
        progress = json.loads(file.metadata()["progress"])
    for name in NEW_FIELDS:
        del progress["run"]["recipe"][name]
    save_file(load_file(path), path, {"progress": json.dumps(progress)})
    with pytest.raises(InputError, match=r"differs in recipe\.gram_weight:"):
        finetune(dataclasses.replace(run, recipe=dataclasses.replace(PLAIN, gram_weight=1.0)))
    resumed = load_file(finetune(run) / WEIGHTS_FILE)
    assert all(whole[name].equal(resumed[name]) for name in whole)


def test_a_result_that_was_recorded_before_these_options_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path / "out", [scene_of(tmp_path)], PLAIN, max_steps=1)
    finetune(run)
    info = json.loads((run.output_dir / INFO_FILE).read_text())
    for name in NEW_FIELDS:
        del info["summary"]["run"]["recipe"][name]
    (run.output_dir / INFO_FILE).write_text(json.dumps(info))
    monkeypatch.setattr(training, "samples_of", lambda _: pytest.fail("trained again"))
    finetune(run)
    anchored = dataclasses.replace(PLAIN, anchor_weight=1.0)
    with pytest.raises(InputError, match=r"differs in recipe\.anchor_weight:"):
        finetune(dataclasses.replace(run, recipe=anchored))


def test_release_0_1_did_what_a_weight_of_zero_does() -> None:
    for name in NEW_FIELDS:
        assert RELEASE_0_1[name] == getattr(Recipe(), name)


def test_a_second_run_makes_no_anchor_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = scene_of(tmp_path)
    recipe = dataclasses.replace(PLAIN, gram_weight=1.0, anchor_weight=1.0)
    first = load_file(finetune(run_of(tmp_path / "one", [scene], recipe, max_steps=2)) / WEIGHTS_FILE)
    monkeypatch.setattr(TargetStore, "_make", lambda *_: pytest.fail("made again"))
    again = load_file(finetune(run_of(tmp_path / "two", [scene], recipe, max_steps=2)) / WEIGHTS_FILE)
    assert all(first[name].equal(again[name]) for name in first)


def test_the_anchor_of_kept_features_is_the_original_not_the_mixture(tmp_path: Path) -> None:
    scene = scene_of(tmp_path)
    rendered, original = store_of(tmp_path, scene), store_of(tmp_path, scene, kind="original")
    refs = view_refs([scene], "train")
    sample = Samples(refs, rendered, original, 0.5, anchors=original)[1]
    assert sample.original is not None
    assert torch.equal(sample.original.features, original.get(refs[1].scene, refs[1].view).features)
    assert float(F.mse_loss(sample.original.features, sample.features)) > 0.01
