"""Views between the photographed ones: their cameras, and that image and target come from the same one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from fit3d_finetune.commands.finetune import FinetuneArguments, parse
from fit3d_finetune.targets.novel_views import views_between
from fit3d_finetune.targets.scenes import view_refs, with_novel_views
from fit3d_finetune.training.train import finetune
from fit3d_ns.features.patch_grid import pool_to_patch_grid
from fit3d_ns.scene.description import ViewInfo
from fit3d_ns.scene.render import render_features, render_rgb
from fit3d_ns.scene.views import PinholeView
from tests.fit3d_finetune.scenes import GRID, make_view, run_of, scene_of, store_of


def posed(view: ViewInfo, centre: tuple[float, float, float], degrees: float = 0.0, split: str = "train") -> ViewInfo:
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("y", degrees, degrees=True).as_matrix()
    pose[:3, 3] = centre
    return dataclasses.replace(view, world_to_camera=np.linalg.inv(pose), split=split)


def centre_of(view: PinholeView) -> np.ndarray:
    return np.linalg.inv(view.world_to_camera)[:3, 3]


def test_novel_views_divide_the_way_to_the_nearest_neighbour_evenly(tmp_path: Path) -> None:
    base = make_view(tmp_path, 1)
    views = [posed(base, (0, 0, 0)), posed(base, (1, 0, 0), 30.0), posed(base, (9, 0, 0), 30.0)]
    novel = views_between(views, 2)
    found = sorted((round(float(centre_of(view)[0]), 6), *np.round(centre_of(view)[1:], 6)) for view in novel)
    expected_x = sorted([1 / 3, 2 / 3, 9 - 8 / 3, 9 - 16 / 3])  # the pair of the first two counts once
    np.testing.assert_allclose([x for x, _, _ in found], expected_x, atol=1e-6)
    assert all(y == z == 0 for _, y, z in found)
    between = next(view for view in novel if abs(centre_of(view)[0] - 1 / 3) < 1e-6)
    turned = Rotation.from_matrix(np.linalg.inv(between.world_to_camera)[:3, :3]).as_euler("yxz", degrees=True)
    np.testing.assert_allclose(turned, (10, 0, 0), atol=1e-6)


def test_cameras_that_look_elsewhere_are_no_neighbours(tmp_path: Path) -> None:
    base = make_view(tmp_path, 1)
    views = [posed(base, (0, 0, 0)), posed(base, (0.1, 0, 0), 90.0), posed(base, (5, 0, 0), 20.0)]
    centres = [centre_of(view)[0] for view in views_between(views, 1)]
    np.testing.assert_allclose(sorted(centres), [2.5], atol=1e-6)


def test_held_out_views_have_no_part_in_it(tmp_path: Path) -> None:
    base = make_view(tmp_path, 1)
    views = [posed(base, (0, 0, 0)), posed(base, (0.1, 0, 0), split="eval"), posed(base, (4, 0, 0))]
    [between] = views_between(views, 1)
    np.testing.assert_allclose(centre_of(between), (2, 0, 0), atol=1e-6)
    assert views_between(views[:2], 1) == []


def test_image_and_target_of_a_novel_view_come_from_the_same_camera(tmp_path: Path) -> None:
    scene = with_novel_views(scene_of(tmp_path), 1)
    kept, anew = store_of(tmp_path, scene), store_of(tmp_path / "other", scene, limit_bytes=0)
    novel = [index for index in range(scene.num_views) if scene.photograph(index) is None]
    assert 2 <= len(novel) <= 4
    assert novel == list(range(len(scene.views), scene.num_views))
    gaussians = scene.load()
    for index in novel:
        view = scene.pinhole(index)
        rgb, _ = render_rgb(gaussians, view)
        features, _ = render_features(gaussians, view)
        pooled, _ = pool_to_patch_grid(features, GRID)
        target = pooled @ gaussians.decoder["weight"].T + gaussians.decoder["bias"]
        for store in (kept, anew):
            torch.testing.assert_close(store.image(0, index), rgb.permute(2, 0, 1), atol=0.5 / 255 + 1e-6, rtol=0)
            torch.testing.assert_close(store.get(0, index).features, target, atol=5e-3, rtol=2e-3)
        assert torch.equal(kept.image(0, index), anew.image(0, index))


def test_the_control_sees_novel_views_too(tmp_path: Path) -> None:
    scene = with_novel_views(scene_of(tmp_path), 1)
    kept, anew = store_of(tmp_path, scene, kind="mirror"), store_of(tmp_path, scene, kind="mirror", limit_bytes=0)
    assert torch.equal(kept.get(0, 5).features, anew.get(0, 5).features)
    assert torch.equal(kept.image(0, 5), store_of(tmp_path, scene).image(0, 5))


def test_novel_views_are_for_training_and_off_unless_asked_for(tmp_path: Path) -> None:
    assert FinetuneArguments(exports=tmp_path).novel_views == 0
    assert parse(["--exports", "runs"]).novel_views == 0
    scene = scene_of(tmp_path)
    assert with_novel_views(scene, 0).num_views == scene.num_views
    more = with_novel_views(scene, 2)
    assert len(view_refs([more], "train")) == len(view_refs([scene], "train")) + len(views_between(scene.views, 2))
    assert more.num_views > scene.num_views
    assert more.views == scene.views
    assert len(view_refs([more], "eval")) == len(view_refs([scene], "eval"))


def test_the_model_card_tells_how_many_views_were_rendered(tmp_path: Path) -> None:
    scene = scene_of(tmp_path)
    folder = finetune(run_of(tmp_path / "out", [with_novel_views(scene, 1)], max_steps=1))
    count = len(views_between(scene.views, 1))
    card = (folder / "README.md").read_text()
    assert f"{4 + count} training views ({count} of them rendered between photographs)" in card
