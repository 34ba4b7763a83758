"""A share of fine-tuned weights, made without training again and chosen by the figures of validation rooms."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from benchmarks.mixing import mix
from benchmarks.named_recipes import RECIPES
from benchmarks.recipe_choice import Candidate, Trial, choose, chosen_options, gain
from fit3d_finetune.backbone.hub import WEIGHTS_FILE, read_finetuned
from fit3d_finetune.probing.results import Arm
from fit3d_finetune.targets.finding import find_scenes
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


def test_the_gain_weighs_segmentation_depth_and_normals_of_alone_and_together() -> None:
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
        "normals": {
            name: dataclasses.replace(results.normals[name], rmse=[value])
            for name, value in zip(names, (40.0, 38.0, 42.0), strict=True)
        },
    }
    arms = [arm for arm in results.arms if arm.name in names]
    # +10 %, -10 %, -5 % alone, +5 %, +10 %, +5 % together: (0.25 - 0.1) / 2.
    assert gain(dataclasses.replace(results, arms=arms, **changed), "fine-tuned") == pytest.approx(0.075)


def test_the_best_candidate_is_chosen_and_said_as_options(tmp_path: Path) -> None:
    results = make_results()
    names = ("original", "depth, normals: 50 %", "depth, normals, class token: 100 %")
    arms = [Arm(name, (name,)) for name in names] + [Arm(f"original + {name}", ("original", name)) for name in names]

    def figures(part: dict[str, Any], field: str, values: tuple[float, ...]) -> dict[str, Any]:
        any_arm = next(iter(part.values()))
        return {
            arm.name: dataclasses.replace(any_arm, **{field: [value]})
            for arm, value in zip(arms, (*values, *values), strict=True)
        }

    results = dataclasses.replace(
        results,
        arms=arms,
        segmentation=figures(results.segmentation, "miou", (0.4, 0.42, 0.42)),
        depth=figures(results.depth, "rmse", (0.5, 0.46, 0.44)),
        normals=figures(results.normals, "rmse", (40.0, 40.0, 39.0)),
    )
    candidates = [
        Candidate("depth, normals", 0.5, tmp_path),
        Candidate("depth, normals, class token", 1.0, tmp_path),
    ]
    assert [each.name for each in candidates] == list(names[1:])
    trials = [Trial.of([candidate], results) for candidate in candidates]
    paths = [tmp_path / f"{index}.json" for index in range(len(trials))]
    for trial, path in zip(trials, paths, strict=True):
        trial.save(path)
        assert Trial.load(path) == trial
    assert choose(trials) == ("depth, normals, class token", 1.0)
    assert chosen_options(paths) == (*RECIPES["depth, normals, class token"], "--weight-mix", "1.0")
    assert trials[0].gains == {0.5: pytest.approx(0.05 + 0.08)}
