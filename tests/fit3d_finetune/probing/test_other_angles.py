"""Neighbours from other angles: which patches may be compared and count, and what is found by features of the point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fit3d_finetune.probing.data.datasets import read_data
from fit3d_finetune.probing.data.labelled_images import LabelledImage
from fit3d_finetune.probing.data.views import ConsistencyView
from fit3d_finetune.probing.nearest_neighbours import LabelledMaps
from fit3d_finetune.probing.other_angles import (
    _left_out,
    patch_rays,
    seen_from_elsewhere,
    segmentation_from_other_angles,
)
from fit3d_finetune.probing.results import Arm, NearestNeighbourResult
from fit3d_ns.common.errors import InputError
from tests.fit3d_finetune.probing.scenes import CLASSES, HEIGHT, WIDTH, write_scene

GRID = (6, 8)
ONE = [Arm("one", ("a",))]
Features = Callable[[ConsistencyView, np.ndarray, np.ndarray], torch.Tensor]
"""From a view, its patches' points on the wall [n, 2] and their classes [n] to features [n, C]."""


@pytest.fixture
def images(scene: Path) -> list[LabelledImage]:
    """Six views of a wall, each turned by 14 degrees from the one before."""
    return list(read_data([str(scene)])[0].images)


def views_of(images: Sequence[LabelledImage]) -> list[ConsistencyView]:
    return [image.consistency_view("wall") for image in images]


def ray_loop(view: ConsistencyView) -> np.ndarray:
    """[h * w, 3], one by one."""
    found = []
    for row in range(GRID[0]):
        for column in range(GRID[1]):
            x, y = (column + 0.5) * WIDTH / GRID[1], (row + 0.5) * HEIGHT / GRID[0]
            ray = np.array([(x - view.K[0, 2]) / view.K[0, 0], (y - view.K[1, 2]) / view.K[1, 1], 1.0])
            ray = view.camera_to_world[:3, :3] @ ray
            found.append(ray / np.linalg.norm(ray))
    return np.array(found)


def wall_points(view: ConsistencyView) -> np.ndarray:
    """Where on the wall z = 0 the patches look: [h * w, 3]."""
    rays, centre = ray_loop(view), view.camera_to_world[:3, 3]
    return centre - rays * (centre[2] / rays[:, 2:])


def classes_at(points: np.ndarray) -> np.ndarray:
    """As `write_scene` paints the wall."""
    x, y = points[:, 0], points[:, 1]
    return np.where(x > 0.6, 2, np.where(np.abs(x) + np.abs(y) < 0.5, 1, 0))


def degrees(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.degrees(np.arccos(np.clip((a * b).sum(-1), -1, 1)))


def segment(
    images: Sequence[LabelledImage], features: Features, scenes: Sequence[int] | None = None, min_angle: float = 30.0
) -> tuple[NearestNeighbourResult, np.ndarray]:
    views = views_of(images)

    def read(index: int) -> LabelledMaps:
        points = wall_points(views[index])
        map = features(views[index], points, classes_at(points)).reshape(*GRID, -1)
        return {"a": map}, images[index].labels(len(CLASSES))

    scenes = [0] * len(images) if scenes is None else scenes
    found, labelled = segmentation_from_other_angles(
        views, read, ONE, len(CLASSES), scenes, range(len(CLASSES)), k=1, min_angle=min_angle
    )
    return found["one"], labelled


def of_the_point(view: ConsistencyView, points: np.ndarray, classes: np.ndarray) -> torch.Tensor:
    phases = [f * points[:, axis] for f in (0.5, 1.0) for axis in (0, 1)]
    return torch.from_numpy(np.stack([wave(p) for p in phases for wave in (np.sin, np.cos)], axis=-1)).float()


def of_the_side(view: ConsistencyView, points: np.ndarray, classes: np.ndarray) -> torch.Tensor:
    """The class, under a name that changes with every 30 degrees of the side that it is seen from, and that side."""
    rays = ray_loop(view)
    side = np.floor(np.degrees(np.arctan2(rays[:, 0], -rays[:, 2])) / 30).astype(np.int64)
    named = F.one_hot(torch.from_numpy((classes + side) % 3), 3)
    return torch.cat([named.float(), 4 * torch.from_numpy(rays).float()], dim=-1)


def test_rays_go_through_the_middles_of_patches(images: list[LabelledImage]) -> None:
    for view in views_of(images):
        np.testing.assert_allclose(patch_rays(view, GRID), ray_loop(view), atol=1e-12)


@pytest.mark.parametrize("min_angle", [10.0, 30.0, 50.0])
def test_a_patch_counts_if_another_view_sees_its_point_from_far_enough_aside(
    images: list[LabelledImage], min_angle: float
) -> None:
    views = views_of(images)
    shares = []
    for index, view in enumerate(views):
        points, own = wall_points(view), ray_loop(view)
        seen, unsure = np.zeros(len(points), bool), np.zeros(len(points), bool)
        for other, second in enumerate(views):
            if other == index:
                continue
            rays = points - second.camera_to_world[:3, 3]
            aside = degrees(own, rays / np.linalg.norm(rays, axis=1, keepdims=True)) - min_angle
            place = (rays @ second.camera_to_world[:3, :3]) @ second.K.T
            x, y = place[:, 0] / place[:, 2], place[:, 1] / place[:, 2]
            edge = np.minimum(np.minimum(x, WIDTH - x), np.minimum(y, HEIGHT - y))  # a wall hides nothing of itself
            seen |= (aside >= 0) & (edge > 0)
            unsure |= (np.abs(aside) < 0.2) | (np.abs(edge) < 0.2)
        found = seen_from_elsewhere(views, index, range(len(views)), GRID, min_angle)
        np.testing.assert_array_equal(found[~unsure], seen[~unsure])
        assert unsure.mean() < 0.2
        shares.append(found.mean())
    assert 0.1 < np.mean(shares) < 1


def test_only_pixels_of_such_patches_count(images: list[LabelledImage]) -> None:
    result, labelled = segment(images, of_the_point)
    views = views_of(images)
    for index, image in enumerate(images):
        seen = seen_from_elsewhere(views, index, range(len(views)), GRID, 30.0).reshape(GRID)
        pixels = seen.repeat(HEIGHT // GRID[0], 0).repeat(WIDTH // GRID[1], 1)
        expected = np.bincount(image.labels(len(CLASSES))[pixels], minlength=3)
        np.testing.assert_array_equal(labelled[index], expected)
        assert result.counts.intersections[0, index].sum() <= expected.sum()


def test_features_of_the_point_are_found_from_the_other_side_and_those_of_a_side_are_not(
    images: list[LabelledImage],
) -> None:
    known, _ = segment(images, of_the_point)
    assert known.miou > 0.6  # patches on borders of classes
    near, _ = segment(images, of_the_side, min_angle=0.0)
    far, _ = segment(images, of_the_side)
    assert near.miou > 0.5
    assert far.miou < 0.25


def test_patches_of_the_same_image_and_along_near_rays_are_left_out(images: list[LabelledImage]) -> None:
    rays = [torch.from_numpy(patch_rays(view, GRID)) for view in views_of(images)]
    memory, origins = torch.cat(rays), torch.arange(len(rays)).repeat_interleave(len(rays[0]))
    left_out = _left_out(rays[2], memory, origins == 2, 30.0)
    for rows in (slice(0, 48), slice(7, 11)):
        for own, row in zip(rays[2][rows], left_out(rows), strict=True):
            for ray, origin, hidden in zip(memory, origins.tolist(), row.tolist(), strict=True):
                assert hidden == (origin == 2 or float(degrees(own.numpy(), ray.numpy())) < 30)


def test_scenes_have_memories_of_their_own(tmp_path: Path) -> None:
    parts = [list(read_data([str(write_scene(tmp_path / str(seed), seed=seed))])[0].images) for seed in (1, 2)]
    apart, labelled = segment([*parts[0], *parts[1]], of_the_side, [0] * 6 + [1] * 6)
    alone, own = segment(parts[0], of_the_side)
    np.testing.assert_array_equal(labelled[:6], own)
    np.testing.assert_array_equal(apart.counts.unions[:, :6], alone.counts.unions)
    np.testing.assert_array_equal(apart.counts.unions[:, 6:], alone.counts.unions)


def test_a_camera_that_turned_on_the_spot_is_refused(images: list[LabelledImage]) -> None:
    turned = []
    for image in images:
        assert image.camera is not None
        pose = np.array(image.camera.camera_to_world)
        pose[:3, 3] = [0, 0, 3]
        turned.append(replace(image, camera=replace(image.camera, camera_to_world=pose)))
    with pytest.raises(InputError, match="from at least 30 degrees aside: leave nearest-neighbours-across out"):
        segment(turned, of_the_point)
