"""Multi-view consistency: which pixels correspond, and what is measured on them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fit3d_finetune.probing.consistency import compare_maps, measure_consistency
from fit3d_finetune.probing.correspondences import (
    PairSettings,
    ViewPair,
    find_correspondences,
    find_pairs,
    rotation_angles,
)
from fit3d_finetune.probing.data.datasets import read_data
from fit3d_finetune.probing.data.views import ConsistencyView
from fit3d_finetune.probing.sampling import sample_features
from fit3d_ns.common.errors import InputError
from tests.fit3d_finetune.probing.scenes import HEIGHT, WIDTH

GRID = (6, 8)


@pytest.fixture
def views(scene: Path) -> list[ConsistencyView]:
    return [image.consistency_view("wall") for image in read_data([str(scene)])[0].images]


def wall_points(view: ConsistencyView, places: np.ndarray) -> np.ndarray:
    """World points [n, 3] on the wall z = 0 that a view sees at places [n, 2]."""
    rays = np.linalg.inv(view.K) @ np.stack([places[:, 0] * WIDTH, places[:, 1] * HEIGHT, np.ones(len(places))])
    rays = view.camera_to_world[:3, :3] @ rays
    centre = view.camera_to_world[:3, 3:]
    return (centre - rays * centre[2] / rays[2]).T


def wall_map(view: ConsistencyView, grid: tuple[int, int] = GRID) -> torch.Tensor:
    """Features that are a smooth function of the point on the wall alone: perfectly consistent."""
    y, x = np.meshgrid((np.arange(grid[0]) + 0.5) / grid[0], (np.arange(grid[1]) + 0.5) / grid[1], indexing="ij")
    points = wall_points(view, np.stack([x.ravel(), y.ravel()], axis=-1))[:, :2]
    phases = [f * points[:, axis] for f in (0.5, 1.0) for axis in (0, 1)]
    waves = np.stack([wave(phase) for phase in phases for wave in (np.sin, np.cos)], axis=-1)
    return torch.from_numpy(waves).float().reshape(*grid, -1)


def test_corresponding_places_show_the_same_point(views: list[ConsistencyView]) -> None:
    first, second = find_correspondences(views[0], views[3], samples=500, depth_tolerance=0.02)
    assert 100 < len(first) <= 600
    assert min(first.min(), second.min()) >= 0
    assert max(first.max(), second.max()) <= 1
    np.testing.assert_allclose(wall_points(views[0], first), wall_points(views[3], second), atol=2e-3)


def test_what_something_nearer_hides_does_not_correspond(views: list[ConsistencyView]) -> None:
    depth = views[1].depth.copy()
    depth[:, : WIDTH // 2] = 1.0
    hidden = dataclasses.replace(views[1], depth=depth)
    _, seen = find_correspondences(views[0], hidden)
    _, before = find_correspondences(views[0], views[1])
    assert len(seen)
    assert seen[:, 0].min() >= 0.5 > before[:, 0].min()


def test_unknown_depth_corresponds_to_nothing(views: list[ConsistencyView]) -> None:
    blind = dataclasses.replace(views[1], depth=np.zeros_like(views[1].depth))
    assert len(find_correspondences(views[0], blind)[0]) == 0
    assert len(find_correspondences(blind, views[0])[0]) == 0


def test_angles_between_views_are_those_of_their_rotations(views: list[ConsistencyView]) -> None:
    angles = rotation_angles(np.stack([view.camera_to_world for view in views]))
    expected = 14.0 * np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
    np.testing.assert_allclose(angles, expected, atol=1e-5)


def test_pairs_lie_in_their_bins_and_never_across_scenes(views: list[ConsistencyView]) -> None:
    mixed = [dataclasses.replace(view, scene="ab"[i % 2]) for i, view in enumerate(views)]
    pairs = find_pairs(mixed)
    edges = PairSettings().angle_edges
    assert [(pair.first, pair.second) for pair in pairs] == sorted(
        (i, j) for i in range(6) for j in range(i + 1, 6) if (j - i) % 2 == 0
    )
    for pair in pairs:
        assert edges[pair.bin] <= pair.angle < edges[pair.bin + 1]
        assert pair.angle == pytest.approx(14 * (pair.second - pair.first), abs=1e-5)


def test_pairs_per_bin_are_bounded_and_drawn_by_the_seed(views: list[ConsistencyView]) -> None:
    def draw(seed: int) -> list[tuple[int, int]]:
        return [(p.first, p.second) for p in find_pairs(views, PairSettings(max_pairs=2, seed=seed))]

    assert draw(0) == draw(0)
    assert len({tuple(draw(seed)) for seed in range(5)}) > 1
    bins = [pair.bin for pair in find_pairs(views, PairSettings(max_pairs=2))]
    assert max(bins.count(index) for index in bins) == 2


def test_views_without_common_points_are_refused(views: list[ConsistencyView]) -> None:
    apart = [dataclasses.replace(view, scene=str(i)) for i, view in enumerate(views)]
    with pytest.raises(InputError, match="no two of the 6 views"):
        find_pairs(apart)
    wrong_unit = [dataclasses.replace(view, depth=view.depth / 1000) for view in views]
    with pytest.raises(InputError, match="depth and poses are in the same unit"):
        find_pairs(wrong_unit)


def test_consistent_features_score_high_and_random_ones_low(views: list[ConsistencyView]) -> None:
    random = [torch.randn(*GRID, 8) for _ in views]
    arms = {"wall": lambda index: wall_map(views[index]), "random": lambda index: random[index]}
    results = measure_consistency(views, arms, PairSettings(angle_edges=(0.0, 30.0, 60.0, 90.0)))
    for index in range(2):
        assert results["wall"].cosine[index] > 0.95
        assert results["wall"].recall[index] > 0.9
        assert abs(results["random"].cosine[index]) < 0.3
    # Two patches around the true place are 13 of 48: chance, where no border cuts them off.
    assert results["random"].recall[0] < 0.45
    assert results["wall"].pairs == results["random"].pairs
    bins = [result.pair_bins for result in results.values()]
    assert bins[0] == bins[1]
    assert [bins[0].count(index) for index in range(3)] == results["wall"].pairs


def test_bins_average_over_the_pairs_of_a_scene_and_then_over_scenes(views: list[ConsistencyView]) -> None:
    # Of one scene four views, of the other two: the pairs of the smaller one must not count less.
    mixed = [dataclasses.replace(view, scene="aabaab"[index]) for index, view in enumerate(views)]
    maps = [torch.randn(*GRID, 8) for _ in views]
    [result] = measure_consistency(mixed, {"a": maps.__getitem__}).values()
    assert sum(result.pairs) == len(result.pair_recall) == 7
    for index, count in enumerate(result.pairs):
        by_scene = {
            scene: [
                recall
                for recall, place, at in zip(result.pair_recall, result.pair_scenes, result.pair_bins, strict=True)
                if (place, at) == (scene, index)
            ]
            for scene in (0, 1)
        }
        assert sum(map(len, by_scene.values())) == count
        means = [np.mean(recalls) for recalls in by_scene.values() if recalls]
        assert result.recall[index] == pytest.approx(np.mean(means) if means else np.nan, nan_ok=True)
    assert {*result.pair_scenes} == {0, 1}
    assert result.pairs[-1] == 0
    assert np.isnan(result.cosine[-1])


def test_cosine_and_recall_equal_loops() -> None:
    random = np.random.default_rng(0)
    first, second = torch.randn(4, 5, 6), torch.randn(3, 7, 6)
    places = [random.random((20, 2)) for _ in range(2)]
    pair = ViewPair(0, 1, 10.0, 0, *places)
    cosine, recall = compare_maps(first, second, pair, recall_patches=1.5)
    cosines, hits = [], 0
    for a, b in zip(sample_features(first, places[0]), sample_features(second, places[1]), strict=True):
        cosines.append(float(F.cosine_similarity(a, b, dim=0)))
    for a, (x, y) in zip(sample_features(first, places[0]), places[1], strict=True):
        scores = {(r, c): float(F.cosine_similarity(a, second[r, c], dim=0)) for r in range(3) for c in range(7)}
        r, c = max(scores, key=scores.__getitem__)
        hits += np.hypot(c + 0.5 - 7 * x, r + 0.5 - 3 * y) <= 1.5
    assert cosine == pytest.approx(np.mean(cosines), abs=1e-5)
    assert recall == pytest.approx(hits / 20)
