"""Targets of depth and normals: of surfaces that are known, and how much a patch counts that other views deny."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from fit3d_finetune.targets.geometry import SceneDepth, agreement, geometry_target, log_focal, render_scene_depth
from fit3d_finetune.targets.rule import TargetRule
from fit3d_ns.scene.views import PinholeView
from tests.fit3d_finetune.scenes import scene_of, store_of

GRID = (6, 8)
HEIGHT, WIDTH = 48, 64
RULE = TargetRule()


def camera(x: float, focal: float = 60.0, tilt: float = 0.0) -> PinholeView:
    """A camera 3 units before the plane z = 3 of the world, x aside, turned about y by `tilt` radians."""
    pose = torch.eye(4)
    pose[0, 0] = pose[2, 2] = math.cos(tilt)
    pose[0, 2], pose[2, 0] = math.sin(tilt), -math.sin(tilt)
    pose[:3, 3] = pose[:3, :3] @ torch.tensor([-x, 0.0, 0.0])
    K = torch.tensor([[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]])
    return PinholeView(pose, K, WIDTH, HEIGHT, GRID)


def wall(view: PinholeView, z: float = 3.0) -> torch.Tensor:
    """Depth of the plane z = `z` of the world."""
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], -1) @ torch.linalg.inv(view.K).T
    rotation, centre = view.world_to_camera[:3, :3], torch.linalg.inv(view.world_to_camera)[:3, 3]
    return (z - centre[2]) / (rays @ rotation[:, 2])


def seen(views: list[PinholeView]) -> SceneDepth:
    return SceneDepth(views, [wall(view) for view in views], log_unit=0.0)


@pytest.mark.parametrize("tilt", [0.0, 0.3, -0.4])
def test_a_wall_gives_its_depth_and_its_normal(tilt: float) -> None:
    view = camera(0.0, tilt=tilt)
    values, weights = geometry_target(seen([view]), 0, None, RULE)
    centres = wall(view).reshape(6, 8, 8, 8).permute(0, 2, 1, 3)[:, :, 3:5, 3:5].mean((2, 3))
    torch.testing.assert_close(values[..., 0], (centres / (60 / HEIGHT)).log(), atol=2e-2, rtol=0)
    normal = view.world_to_camera[:3, :3] @ torch.tensor([0.0, 0.0, -1.0])
    torch.testing.assert_close(values[..., 1:4], normal.expand(*GRID, 3), atol=1e-3, rtol=0)
    assert values[..., 4].min() > 0.99, "a wall is flat"
    torch.testing.assert_close(weights, torch.ones(GRID))


def test_depth_does_not_depend_on_the_unit_nor_on_the_focal_length() -> None:
    """Twice as near with half of the focal length looks the same, and so does everything in another unit."""
    near, far = camera(0.0, focal=40.0), camera(0.0, focal=80.0)
    near_depth, far_depth = torch.full((HEIGHT, WIDTH), 1.5), torch.full((HEIGHT, WIDTH), 3.0)
    found = [geometry_target(SceneDepth([v], [d], 0.0), 0, None, RULE)[0][..., 0] for v, d in
             ((near, near_depth), (far, far_depth))]  # fmt: skip
    torch.testing.assert_close(found[0], found[1])


def test_patches_without_depth_or_under_a_mask_do_not_count() -> None:
    view = camera(0.0)
    depth = wall(view)
    depth[:8] = 0
    mask = torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
    mask[:, :8] = False
    values, weights = geometry_target(SceneDepth([view], [depth], 0.0), 0, mask, RULE)
    assert (weights[0] == 0).all()
    assert (weights[:, 0] == 0).all()
    assert (weights[1:, 1:] == 1).all()
    assert (values[0] == 0).all()
    assert values.isfinite().all()


def test_what_other_views_look_through_counts_little_and_what_they_see_counts_whole() -> None:
    views = [camera(0.1 * x) for x in range(-3, 4)]
    whole = seen(views)
    for view in range(len(views)):
        assert agreement(whole, view).min() == 1
    depths = list(whole.depths)
    depths[3] = depths[3].clone()
    depths[3][16:32, 24:40] *= 0.5  # a floater that only this view sees
    floating = dataclasses.replace(whole, depths=depths)
    found = agreement(floating, 3)
    assert (found[2:4, 3:5] == 0).all()
    found[2:4, 3:5] = 1
    assert (found == 1).all()
    # For the others it would lie before what they see: they are hidden from view 3 there, not contradicted.
    assert min(float(agreement(floating, view).min()) for view in (0, 6)) == 1


def test_what_something_nearer_hides_from_other_views_is_not_denied() -> None:
    views = [camera(0.0), camera(0.5)]
    depths = [wall(views[0]), wall(views[1])]
    depths[1] = torch.full_like(depths[1], 1.0)  # a board right before the second camera
    assert (agreement(SceneDepth(views, depths, 0.0), 0) == 1).all()


def test_a_store_keeps_the_geometry_of_every_view(tmp_path: Path) -> None:
    scene = scene_of(tmp_path)
    store = store_of(tmp_path, scene, kind="geometry")
    pinholes = [scene.pinhole(view) for view in range(scene.num_views)]
    rendered = render_scene_depth(scene.load(), pinholes)
    for view, pinhole in enumerate(pinholes):
        values, weights = geometry_target(rendered, view, None, store.rule)
        kept = store.get(0, view)
        torch.testing.assert_close(kept.features, values, atol=2e-3, rtol=0)
        torch.testing.assert_close(kept.weights, weights, atol=1e-3, rtol=0)
        assert kept.weights.any()
        # The plane of Gaussians is 3 units away from every camera.
        counted = kept.weights > 0.9
        expected = math.log(3.0) - log_focal(pinhole) - rendered.log_unit
        assert kept.features[counted][:, 0].mean() == pytest.approx(expected, abs=0.1)
