"""The probe for normals: against least squares over all pixels, planted normals, and the normals of a wall."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fit3d_finetune.probing.data.datasets import read_data
from fit3d_finetune.probing.data.encoding import standardizations
from fit3d_finetune.probing.metrics import normal_metrics
from fit3d_finetune.probing.normals import RIDGE, NormalsScores, fit_normals, predict_normals
from fit3d_finetune.probing.results import Arm
from tests.fit3d_finetune.probing.scenes import FakeEncoded, FakeImage, write_scene

ARMS = [Arm("good", ("good",)), Arm("noise", ("noise",))]
GRID, PATCH = (6, 8), 8


def test_heads_equal_least_squares_over_all_pixels() -> None:
    """Every pixel a row of its own, each arm's channels written out, in float64."""
    encoded = planted(6, 5)
    statistics = standardizations(encoded)
    arms = [*ARMS, Arm("both", ("good", "noise")), Arm("twice", ("noise", "noise"))]
    heads = fit_normals(encoded, statistics, arms, math.inf)
    for a, arm in enumerate(arms):
        rows, truths = [], []
        for index, image in enumerate(encoded.images):
            parts = [statistics[name](encoded.features(name, index)) for name in arm.backbones]
            parts += [
                statistics[f"{name}/class"](encoded.class_token(name, index)).expand(*GRID, -1)
                for name in arm.backbones
            ]
            patches = torch.cat([*parts, torch.ones(*GRID, 1)], dim=-1).double()
            pixels = patches.repeat_interleave(PATCH, dim=0).repeat_interleave(PATCH, dim=1)
            normals = torch.from_numpy(image.normals()).double()
            known = normals.square().sum(-1) > 0
            rows.append(pixels[known])
            truths.append(normals[known])
        x, y = torch.cat(rows), torch.cat(truths)
        penalty = torch.full((x.shape[1],), RIDGE * len(x), dtype=torch.float64)
        penalty[-1] = 0
        expected = torch.linalg.solve(x.T @ x + penalty.diag(), x.T @ y)
        names = [*arm.backbones, *(f"{name}/class" for name in arm.backbones)]
        for name, part in zip(names, expected[:-1].split(8), strict=True):
            copies = names.count(name)
            torch.testing.assert_close(heads.weights[a][name] / copies, part.float(), atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(heads.biases[a], expected[-1].float(), atol=1e-4, rtol=1e-3)


def test_metrics_of_angles_that_are_known() -> None:
    normals = np.zeros((1, 5, 3))
    normals[0, :4, 2] = -1
    angles = np.radians([0.0, 20.0, 25.0, 90.0])
    predicted = np.zeros((1, 5, 3))
    predicted[0, :4] = np.stack([np.sin(angles), np.zeros(4), -np.cos(angles)], axis=-1)
    found = normal_metrics(normals, predicted)
    assert found["rmse"] == pytest.approx(math.sqrt((20**2 + 25**2 + 90**2) / 4))
    assert found["mean"] == pytest.approx((20 + 25 + 90) / 4)
    assert [found[name] for name in ("within_11", "within_22", "within_30")] == [0.25, 0.5, 0.75]
    assert all(math.isnan(value) for value in normal_metrics(np.zeros_like(normals), predicted).values())


def planted(count: int, seed: int) -> FakeEncoded:
    """Images of one direction in each half; "good" features are linear in it, "noise" ones know nothing."""
    random = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(3, 8, generator=torch.Generator().manual_seed(99))
    images, good, noise = [], [], []
    for _ in range(count):
        halves = random.normal(size=(2, 3))
        halves /= np.linalg.norm(halves, axis=1, keepdims=True)
        patches = np.repeat(halves, GRID[1] // 2, axis=0)[None].repeat(GRID[0], axis=0)
        pixels = patches.repeat(PATCH, axis=0).repeat(PATCH, axis=1).astype(np.float32)
        pixels[:4] = 0
        images.append(FakeImage(directions=pixels))
        good.append(torch.from_numpy(patches).float() @ mix)
        noise.append(torch.randn(*GRID, 8, generator=generator))
    return FakeEncoded(images, {"good": good, "noise": noise})


def test_planted_normals_are_learned() -> None:
    train, test = planted(30, 1), planted(4, 2)
    statistics = standardizations(train)
    heads = fit_normals(train, statistics, ARMS, math.inf)
    scores = NormalsScores(ARMS, (0, 1), len(test.images))
    for index, predicted in predict_normals(heads, test, statistics):
        assert predicted.shape == (2, 48, 64, 3)
        assert np.linalg.norm(predicted, axis=-1) == pytest.approx(1, abs=1e-5)
        scores.add(index, test.images[index].normals(), predicted)
    results = scores.results([0, 0, 1, 1], 2)
    assert max(results["good"].mean) < 12, "only the step between the halves is blurred"
    assert min(results["noise"].mean) > 40


def test_a_posed_wall_has_the_normal_of_its_pose(tmp_path: Path) -> None:
    [data] = read_data([str(write_scene(tmp_path / "wall"))])
    for image in data.images:
        normals = image.normals()
        assert image.camera is not None
        expected = image.camera.camera_to_world[:3, :3].T @ [0, 0, 1]
        known = (normals**2).sum(-1) > 0
        assert known.mean() > 0.95
        # Depth is stored in whole millimetres: at 3 m and 60 pixels of focal length that is a degree or two.
        assert np.degrees(np.arccos((normals[known] @ expected).clip(-1, 1))).mean() < 3
        assert not image.normals(max_depth=1.0).any()
