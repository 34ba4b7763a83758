"""Geometric matching: features that know their place match it exactly, others do not, and errors are in metres."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fit3d_finetune.probing.correspondences import PairSettings
from fit3d_finetune.probing.data.views import ConsistencyView
from fit3d_finetune.probing.matching import measure_matching, ratio_test_matches
from fit3d_finetune.probing.results import Arm, MatchingResult

HEIGHT, WIDTH, GRID = 48, 64, (12, 16)
K = np.array([[60.0, 0, WIDTH / 2], [0, 60.0, HEIGHT / 2], [0, 0, 1]])
ARMS = [
    Arm("place", ("place",)),
    Arm("noise", ("noise",)),
    Arm("both", ("place", "noise")),
    Arm("twice", ("place", "place")),
]


def views(angles: tuple[float, ...] = (0.0, 10.0, 40.0)) -> list[ConsistencyView]:
    """A wall 2 m away, by cameras that turn about its middle."""
    found = []
    for angle in np.radians(angles):
        rotation = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        pose = np.eye(4)
        pose[:3, :3] = rotation
        pose[:3, 3] = rotation @ [0, 0, -2.0]
        y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
        rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(K).T @ rotation.T
        found.append(ConsistencyView((-pose[2, 3] / rays[..., 2]).astype(np.float32), K, pose, "wall"))
    return found


def features(name: str, view: ConsistencyView, seed: int) -> Tensor:
    """Waves of where on the wall a patch looks, or noise."""
    if name == "noise":
        return torch.randn(*GRID, 32, generator=torch.Generator().manual_seed(seed))
    y, x = (np.arange(count) + 0.5 for count in GRID)
    pixels = np.stack(np.meshgrid(x * WIDTH / GRID[1], y * HEIGHT / GRID[0]), axis=-1)
    rays = np.concatenate([pixels, np.ones((*GRID, 1))], axis=-1) @ np.linalg.inv(K).T @ view.camera_to_world[:3, :3].T
    depth = -view.camera_to_world[2, 3] / rays[..., 2]
    wall = (view.camera_to_world[:3, 3] + rays * depth[..., None])[..., :2]
    phase = wall @ np.random.default_rng(0).normal(scale=2.0, size=(2, 64))
    return torch.from_numpy(np.concatenate([np.cos(phase), np.sin(phase)], axis=-1)).float()


def measured(scale: float = 1.0) -> dict[str, MatchingResult]:
    """All arms on the wall, `scale` times as large."""
    scene = views()
    scaled = []
    for view in scene:
        pose = view.camera_to_world.copy()
        pose[:3, 3] *= scale
        scaled.append(ConsistencyView(view.depth * scale, view.K, pose, view.scene))
    return measure_matching(
        scaled,
        ["place", "noise"],
        lambda name, index: features(name, scene[index], index),
        ARMS,
        PairSettings(min_correspondences=20),
    )


def test_features_that_know_their_place_match_and_noise_does_not() -> None:
    found = measured()
    place, noise, both, twice = (found[arm.name] for arm in ARMS)
    assert sum(place.pairs) == 3
    for index, pairs in enumerate(place.pairs):
        if not pairs:
            assert math.isnan(place.recall_metres[0][index])
            continue
        # Points stand 7 cm apart: the nearest one of a right match may be half of that off on each axis.
        assert place.recall_pixels[0][index] > 0.8
        assert place.recall_metres[2][index] > 0.5
        assert noise.recall_metres[2][index] < 0.05
        assert noise.recall_metres[2][index] < both.recall_metres[2][index]
        for thresholds in (place.recall_metres, place.recall_pixels):
            recall = [of_threshold[index] for of_threshold in thresholds]
            assert recall == sorted(recall)
    assert twice.pair_recall == place.pair_recall, "a map beside itself has the cosines of the map alone"


def test_errors_in_space_are_in_the_unit_of_the_scene_and_those_in_the_image_are_not() -> None:
    small, large = (measured(scale)["place"] for scale in (1.0, 10.0))
    assert np.nansum(large.recall_metres) < 0.3 * np.nansum(small.recall_metres)
    np.testing.assert_allclose(large.recall_pixels, small.recall_pixels)


def test_the_clearest_matches_are_kept() -> None:
    cosine = torch.tensor([[0.9, 0.8, 0.1], [0.7, 0.1, 0.0], [0.2, 0.99, 0.98], [0.0, 0.0, 1.0]])
    rows, columns = ratio_test_matches(cosine, 2)
    # Ratios 0.1 / 0.2, 0.3 / 0.9, 0.01 / 0.02, 0 / 1.
    assert rows.tolist() == [3, 1]
    assert columns.tolist() == [2, 0]
    assert len(ratio_test_matches(torch.zeros(4, 0), 3)[0]) == 0
    assert ratio_test_matches(torch.zeros(4, 1), 9)[1].tolist() == [0] * 4
    with pytest.raises(IndexError):
        ratio_test_matches(torch.zeros(4), 3)
