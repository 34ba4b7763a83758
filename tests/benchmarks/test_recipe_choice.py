"""A share of fine-tuned weights, made without training again and chosen by the figures of validation rooms."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from safetensors.torch import load_file

from benchmarks.mixing import mix
from benchmarks.recipe_choice import gain
from fit3d_finetune.backbone.hub import WEIGHTS_FILE, read_finetuned
from fit3d_finetune.targets.scenes import find_scenes
from fit3d_finetune.training.recipe import Recipe
from fit3d_finetune.training.train import finetune
from tests.fit3d_finetune.report.samples import make_results
from tests.fit3d_finetune.scenes import run_of, write_export


def test_a_mixed_folder_is_the_one_that_training_with_that_share_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIT3D_CACHE_DIR", str(tmp_path / "cache"))
    write_export(tmp_path / "runs" / "attic", seed=0)
    scenes = find_scenes(tmp_path / "runs")
    half, full = (
        finetune(run_of(tmp_path / name, scenes, recipe=Recipe(lr=1e-3, weight_mix=share)))
        for name, share in (("half", 0.5), ("full", 1.0))
    )
    mix(full, 0.5, tmp_path / "mixed", scenes[0].backbone)
    expected, found = load_file(half / WEIGHTS_FILE), load_file(tmp_path / "mixed" / WEIGHTS_FILE)
    untouched = load_file(full / WEIGHTS_FILE)
    assert all(expected[name].equal(found[name]) for name in expected)
    assert not all(expected[name].equal(untouched[name]) for name in expected)
    described, reference = read_finetuned(tmp_path / "mixed"), read_finetuned(half)
    assert described.original == reference.original
    assert described.original_sha256 == reference.original_sha256
    assert described.summary["run"]["recipe"] == reference.summary["run"]["recipe"]
    with pytest.raises(SystemExit, match="mixed already"):
        mix(half, 0.5, tmp_path / "twice", scenes[0].backbone)


def test_the_gain_weighs_segmentation_and_depth_of_alone_and_together() -> None:
    results = make_results()
    names = ("original", "fine-tuned", "original + fine-tuned")
    changed = {
        "segmentation": {
            name: dataclasses.replace(results.segmentation[name], miou=[value])
            for name, value in zip(names, (0.4, 0.44, 0.42), strict=True)
        },
        "depth": {
            name: dataclasses.replace(results.depth[name], rmse=[value])
            for name, value in zip(names, (0.5, 0.45, 0.55), strict=True)
        },
    }
    arms = [arm for arm in results.arms if arm.name in names]
    # +10 % and -10 % alone, +5 % and +10 % together: (0.2 - 0.05) / 2.
    assert gain(dataclasses.replace(results, arms=arms, **changed), "fine-tuned") == pytest.approx(0.075)
