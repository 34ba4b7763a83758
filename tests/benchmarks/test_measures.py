"""What the sections count and make, on scenes small enough to count by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import growth, storage
from benchmarks.rasterization import CASES, GEOMETRY, Case, contributing_pairs, rows_of, scene
from benchmarks.scenes import TargetJob, write_scenes
from fit3d_finetune.targets.finding import find_scenes
from fit3d_ns.rasterization import rasterization
from fit3d_ns.scene.gaussians import FeatureGaussians
from tests.fit3d_finetune.scenes import make_gaussians, write_export

SIZE = (64, 48)


def test_contributing_pairs_are_the_pixels_that_each_gaussian_reaches() -> None:
    inputs = scene(12, width=SIZE[0], height=SIZE[1])  # so few and faint that none hides another
    alone = 0
    for i in range(12):
        one = {name: value[i : i + 1] if name in GEOMETRY else value for name, value in inputs.items()}
        _, alphas, _ = rasterization(**one, colors=torch.ones(1, 1), width=SIZE[0], height=SIZE[1])
        alone += int((alphas > 0).sum())
    assert alone > 100
    assert contributing_pairs(inputs, *SIZE) == alone


@pytest.mark.parametrize("case", CASES[2:4], ids=lambda case: case.name)
def test_a_case_is_held_to_the_floor_of_its_own_work(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.rasterization.once", lambda *_: (0.003, 0.008))
    monkeypatch.setattr("benchmarks.rasterization.product_floor", lambda *_: [lambda: 0.004, lambda: 0.001])
    forward, backward = rows_of(case, scene(5), pairs=10, repeats=3)
    assert forward.ratio == pytest.approx(3), "the faster of the two libraries is the floor"
    assert backward.ratio == pytest.approx(4 if case.geometry else 8)
    assert (forward.met, backward.met) == (case.channels == 64, False)


def test_growth_is_fitted_to_the_least_time_of_each_size() -> None:
    rounds = {"n": 0}

    def run(size: int) -> float:
        rounds["n"] += 1
        return 0.5 * size**2 * (1 + rounds["n"] % 2)

    row = growth.grows("squares", (2, 4, 8), run, repeats=4)
    assert row.ours == pytest.approx(2)
    assert row.points == ((2.0, 2.0), (4.0, 8.0), (8.0, 32.0))
    assert rounds["n"] == 3 * 5


def test_many_scenes_are_made_of_one_and_prepared_anew_every_time(tmp_path: Path) -> None:
    export = write_export(tmp_path / "runs" / "plane")
    write_scenes(export, tmp_path / "many", 3)
    scenes = find_scenes(tmp_path / "many")
    assert [s.name for s in scenes] == ["scene_000", "scene_001", "scene_002"]
    assert len({s.gaussians_sha256 for s in scenes}) == 3, "targets are kept by this hash"
    assert all(view.split == "train" for s in scenes for view in s.views)
    TargetJob(tmp_path / "many", 2).prepare(batches=2)


def test_the_bytes_of_features_are_those_of_the_format(tmp_path: Path) -> None:
    gaussians = make_gaussians(tmp_path / "capture", count=300, feature_dim=8)
    C = gaussians.scene.channels
    decoder = 4 * C * (8 + 1)
    for kind, expected in (("fp16", 300 * 8 * 2), ("int8", 300 * 8 + 8 * 4)):
        gaussians.stored_as(kind).save(tmp_path / kind)  # type: ignore[arg-type]
        assert storage.feature_bytes(tmp_path / kind) == expected + decoder
    assert storage.write_reference(gaussians, tmp_path / "reference.safetensors") == 4 * 8 * (300 + 9 * C)
    loaded = FeatureGaussians.load(tmp_path / "fp16")
    held_out = storage.decoded_views(loaded, loaded.features)
    h, w = loaded.scene.views[0].grid
    assert held_out.shape == (h * w, C), "one view is held out"


def test_peak_memory_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    export = write_export(tmp_path / "runs" / "plane")
    write_scenes(export, tmp_path / "many", 2)
    command = [sys.executable, "-m", "benchmarks.memory", "scenes", str(tmp_path / "many"), "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["peak"] > 50e6
