"""Which pixels of two views correspond, against a plane whose geometry is known exactly and in the sample room."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from fit3d_finetune.probing.consistency import compare_maps, measure_consistency
from fit3d_finetune.probing.correspondences import (
    PairSettings,
    ViewPair,
    find_correspondences,
    find_pairs,
    rotation_angles,
)
from fit3d_finetune.probing.data.views import ConsistencyView
from fit3d_ns.common.errors import InputError
from tests.scenes import ROOM

Array = np.ndarray[Any, np.dtype[Any]]

K_OFF_CENTRE = np.array([[60.0, 0.0, 37.3], [0.0, 55.0, 21.8], [0.0, 0.0, 1.0]])
SIZE = (48, 64)
PLANE_Z = 3.0


def turn(axis: tuple[float, float, float], degrees: float) -> Array:
    vector = np.array(axis) / np.linalg.norm(axis)
    rotation: Array = cv2.Rodrigues(vector * np.radians(degrees))[0]
    return rotation


def pose(rotation: Array | None = None, position: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Array:
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3) if rotation is None else rotation
    matrix[:3, 3] = position
    return matrix


TILTED = pose(turn((0.2, 1.0, 0.1), 10.0), (-0.4, 0.1, 0.2))


def plane_view(
    camera_to_world: Array, K: Array = K_OFF_CENTRE, size: tuple[int, int] = SIZE, scene: str = ""
) -> ConsistencyView:
    """A view of the plane z = 3 of the world."""
    rays = camera_to_world[:3, :3] @ np.linalg.solve(K, pixel_centres(*size))
    depth = (PLANE_Z - camera_to_world[2, 3]) / rays[2]
    return ConsistencyView(np.where(depth > 0, depth, 0).reshape(size).astype(np.float32), K, camera_to_world, scene)


def pixel_centres(H: int, W: int) -> Array:
    y, x = np.mgrid[:H, :W] + 0.5
    return np.stack([x.ravel(), y.ravel(), np.ones(H * W)])


def plane_points(view: ConsistencyView, places: Array) -> Array:
    """[n, 3]: where the rays through places of a `plane_view` meet the plane."""
    pixels = np.concatenate([places * (SIZE[1], SIZE[0]), np.ones((len(places), 1))], axis=1)
    rays = view.camera_to_world[:3, :3] @ np.linalg.solve(view.K, pixels.T)
    origin = view.camera_to_world[:3, 3:]
    points: Array = (origin + rays * (PLANE_Z - origin[2]) / rays[2]).T
    return points


def patch_centres(h: int, w: int) -> Array:
    return pixel_centres(h, w)[:2].T / (w, h)


def painted_map(view: ConsistencyView) -> torch.Tensor:
    """Smooth features [12, 16, 64] that depend on nothing but the point of the plane that a patch shows."""
    random = np.random.default_rng(5)
    waves, phases = random.normal(size=(2, 64)) * 2.0, random.uniform(0, 2 * np.pi, 64)
    points = plane_points(view, patch_centres(12, 16))[:, :2]
    return torch.from_numpy(np.cos(points @ waves + phases)).reshape(12, 16, 64)


def bilinear(map: Array, x: float, y: float) -> Array:
    h, w = map.shape[:2]
    column, row = np.clip(x * w - 0.5, 0, w - 1), np.clip(y * h - 0.5, 0, h - 1)
    c, r = min(int(column), w - 2), min(int(row), h - 2)
    a, b = column - c, row - r
    top = (1 - a) * map[r, c] + a * map[r, c + 1]
    bottom = (1 - a) * map[r + 1, c] + a * map[r + 1, c + 1]
    value: Array = (1 - b) * top + b * bottom
    return value


def test_corresponding_places_show_exactly_the_same_point_with_a_principal_point_off_centre() -> None:
    first, second = plane_view(pose()), plane_view(TILTED)
    places_first, places_second = find_correspondences(first, second)
    assert len(places_first) > 400
    np.testing.assert_allclose(plane_points(first, places_first), plane_points(second, places_second), atol=1e-5)


def test_correspondences_equal_those_of_a_loop_over_pixels() -> None:
    random = np.random.default_rng(3)
    noise = [(random.random(SIZE) > 0.2) * random.uniform(0.97, 1.03, SIZE).astype(np.float32) for _ in range(2)]
    views = [plane_view(pose()), plane_view(TILTED)]
    first, second = (dataclasses.replace(v, depth=v.depth * n) for v, n in zip(views, noise, strict=True))
    to_second = np.linalg.inv(second.camera_to_world) @ first.camera_to_world
    expected = []
    for row in range(SIZE[0]):
        for column in range(SIZE[1]):
            z = float(first.depth[row, column])
            if z == 0:
                continue
            ray = np.linalg.inv(first.K) @ (column + 0.5, row + 0.5, 1.0)
            point = to_second @ (*(ray * z), 1.0)
            u, v, w = second.K @ point[:3]
            if point[2] <= 0 or not (0 <= u / w < SIZE[1] and 0 <= v / w < SIZE[0]):
                continue
            seen = float(second.depth[int(v / w), int(u / w)])
            if seen > 0 and abs(point[2] - seen) <= 0.02 * seen:
                expected.append(((column + 0.5) / SIZE[1], (row + 0.5) / SIZE[0], u / w / SIZE[1], v / w / SIZE[0]))
    found = np.concatenate(find_correspondences(first, second, samples=SIZE[0] * SIZE[1]), axis=1)
    assert 300 < len(expected) < 0.8 * SIZE[0] * SIZE[1]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_nearer_surface_hides_what_is_behind_it_and_nothing_else() -> None:
    first, second = plane_view(pose()), plane_view(pose(position=(0.3, 0.0, 0.0)))
    depth = second.depth.copy()
    depth[:, :32] = 1.5  # a board in front of the left half
    _, places = find_correspondences(first, dataclasses.replace(second, depth=depth))
    _, unhidden = find_correspondences(first, second)
    assert (unhidden[:, 0] < 0.5).sum() > 100
    np.testing.assert_array_equal(places, unhidden[unhidden[:, 0] >= 0.5])


def test_points_behind_the_second_camera_do_not_correspond_at_any_tolerance() -> None:
    behind = ConsistencyView(np.full(SIZE, 3.0, np.float32), K_OFF_CENTRE, pose(position=(0.0, 0.0, 6.0)))
    assert len(find_correspondences(plane_view(pose()), behind, depth_tolerance=5.0)[0]) == 0


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_unknown_or_infinite_depth_in_either_view_corresponds_to_nothing(value: float) -> None:
    view = plane_view(pose())
    other = dataclasses.replace(view, depth=np.full_like(view.depth, value))
    assert len(find_correspondences(view, other)[0]) == 0
    assert len(find_correspondences(other, view)[0]) == 0


def test_a_smaller_depth_map_of_the_second_view_gives_the_same_correspondences() -> None:
    first, second = plane_view(pose()), plane_view(TILTED)
    half = plane_view(TILTED, np.diag([0.5, 0.5, 1.0]) @ K_OFF_CENTRE, (24, 32))
    np.testing.assert_allclose(find_correspondences(first, second)[1], find_correspondences(first, half)[1], atol=1e-12)


@pytest.mark.parametrize("degrees", [0.0, 7.5, 30.0, 90.0, 179.0])
def test_the_angle_is_that_of_the_rotation_about_any_axis(degrees: float) -> None:
    base = turn((1.0, -2.0, 0.5), 40.0)
    turned = turn((0.3, 0.2, -1.0), degrees) @ base
    angles = rotation_angles(np.stack([pose(base, (1.0, 2.0, 3.0)), pose(turned, (-4.0, 0.0, 1.0))]))
    np.testing.assert_allclose(angles, [[0.0, degrees], [degrees, 0.0]], atol=2e-6)


def test_bins_have_their_lower_edges_and_the_last_has_its_upper_one() -> None:
    views = [plane_view(pose()), plane_view(pose(turn((0, 0, 1), 10.0)))]
    angle = find_pairs(views)[0].angle
    for edges, bin in (((0, angle, 180), 1), ((0, np.nextafter(angle, 180), 180), 0), ((0, 5, angle), 1)):
        [pair] = find_pairs(views, PairSettings(angle_edges=edges))
        assert pair.bin == bin


def test_pairs_with_little_in_common_are_left_out() -> None:
    views = [plane_view(pose(position=(x, 0.0, 0.0))) for x in (0.0, 3.0, 0.1)]
    overlap = len(find_correspondences(views[0], views[1])[0])
    assert 0 < overlap < 200
    for least, is_kept in ((overlap, True), (overlap + 1, False)):
        kept = {(pair.first, pair.second) for pair in find_pairs(views, PairSettings(min_correspondences=least))}
        assert ((0, 1) in kept) is is_kept
        assert (0, 2) in kept


def test_of_given_pairs_all_and_no_others_are_looked_at() -> None:
    views = [plane_view(pose(position=(0.1 * i, 0.0, 0.0))) for i in range(5)]
    settings = PairSettings(max_pairs=1, among=((3, 1), (0, 2), (1, 3)))
    pairs = find_pairs(views, settings)
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 2), (1, 3)]
    by_draw = {(pair.first, pair.second): pair for pair in find_pairs(views)}
    for pair in pairs:
        assert pair.angle == by_draw[pair.first, pair.second].angle
        np.testing.assert_array_equal(pair.places_second, by_draw[pair.first, pair.second].places_second)


def test_angle_edges_that_do_not_rise_are_refused() -> None:
    with pytest.raises(InputError, match="angle edges"):
        find_pairs([plane_view(pose()), plane_view(pose())], PairSettings(angle_edges=(0, 60, 30)))


def test_a_view_of_wrong_shapes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"camera_to_world \[4, 4\]"):
        ConsistencyView(np.ones(SIZE, np.float32), np.eye(3), np.eye(4)[:3])


def test_features_painted_on_a_plane_are_all_found_again() -> None:
    views = [plane_view(pose()), plane_view(TILTED)]
    maps = [painted_map(view) for view in views]
    result = measure_consistency(views, {"painted": maps.__getitem__})["painted"]
    assert result.pairs == [1, 0, 0, 0, 0, 0]
    assert result.cosine[0] > 0.98  # but for the interpolation between patches
    assert result.recall[0] == 1.0


def test_the_block_of_larger_features_decides_more_of_a_concatenation() -> None:
    views = [plane_view(pose()), plane_view(TILTED)]
    [pair] = find_pairs(views)
    painted, noise = [painted_map(view) for view in views], torch.randn(2, 12, 16, 64, dtype=torch.float64)
    recalls = []
    for size in (0.1, 1.0, 10.0):
        first, second = (torch.cat([painted[i], size * noise[i]], dim=-1) for i in range(2))
        recalls.append(compare_maps(first, second, pair)[1])
    assert recalls[0] > 0.99
    assert recalls[2] < 0.2
    assert recalls[0] > recalls[1] > recalls[2]


def test_random_features_are_found_again_by_chance_only() -> None:
    views = [plane_view(pose()), plane_view(TILTED)]
    maps = torch.randn(2, 24, 32, 16)
    [pair] = find_pairs(views)
    cosine, recall = compare_maps(maps[0], maps[1], pair)
    distances = (patch_centres(24, 32)[None] - pair.places_second[:, None]) * (32, 24)
    chance = (np.linalg.norm(distances, axis=-1) <= 2.0).mean()
    assert recall == pytest.approx(chance, abs=0.025)  # hundreds of trials of probability 0.015
    assert abs(cosine) < 0.05


def test_cosine_and_recall_equal_a_loop_in_float64_with_its_own_interpolation() -> None:
    random = np.random.default_rng(2)
    pair = ViewPair(0, 1, 20.0, 1, random.random((40, 2)), random.random((40, 2)))
    first, second = torch.randn(6, 8, 5, dtype=torch.float64), torch.randn(7, 9, 5, dtype=torch.float64)
    cosines, hits = [], []
    for (x, y), (u, v) in zip(pair.places_first, pair.places_second, strict=True):
        query, target = bilinear(first.numpy(), x, y), bilinear(second.numpy(), u, v)
        cosines.append(query @ target / np.linalg.norm(query) / np.linalg.norm(target))
        similar = second.numpy() @ query / np.linalg.norm(second.numpy(), axis=-1)
        row, column = np.unravel_index(similar.argmax(), similar.shape)
        hits.append(np.hypot(column + 0.5 - u * 9, row + 0.5 - v * 7) <= 2.5)
    cosine, recall = compare_maps(first, second, pair, recall_patches=2.5)
    assert cosine == pytest.approx(np.mean(cosines), abs=1e-12)
    assert recall == np.mean(hits)
    assert 0 < recall < 1


def test_corresponding_pixels_of_the_sample_room_agree_in_colour_and_label() -> None:
    meta = json.loads((ROOM / "transforms.json").read_text())
    K = np.array([[meta["fl_x"], 0, meta["cx"]], [0, meta["fl_y"], meta["cy"]], [0, 0, 1.0]])
    views, labels, images = [], [], []
    for frame in meta["frames"][::3]:
        depth = cv2.imread(str(ROOM / frame["depth_file_path"]), cv2.IMREAD_UNCHANGED).astype(np.float32) / 1000
        opencv = np.array(frame["transform_matrix"]) @ np.diag([1.0, -1.0, -1.0, 1.0])
        views.append(ConsistencyView(depth, K, opencv, "room"))
        labels.append(cv2.imread(str(ROOM / frame["semantic_file_path"]), cv2.IMREAD_UNCHANGED))
        images.append(cv2.imread(str(ROOM / frame["file_path"])).astype(int))
    same_label, colour_difference = [], []
    pairs = find_pairs(views)
    for pair in pairs:
        a, b = (tuple((p * (448, 336)).astype(int)[:, ::-1].T) for p in (pair.places_first, pair.places_second))
        same_label.append(labels[pair.first][a] == labels[pair.second][b])
        colour_difference.append(np.abs(images[pair.first][a] - images[pair.second][b]).max(-1))
    assert len(pairs) > 30
    assert np.concatenate(same_label).mean() > 0.98
    assert (np.concatenate(colour_difference) <= 20).mean() > 0.9
