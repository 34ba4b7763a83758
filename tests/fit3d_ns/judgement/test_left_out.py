"""A photo beside what the others show: the other views alone decide it, and exposure is told from everything else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from fit3d_ns.features.decoder import FeatureDecoder
from fit3d_ns.judgement.judge import is_wrong
from fit3d_ns.judgement.left_out import OtherPhotos, colour_residual, exposure, gain_and_offset
from fit3d_ns.judgement.poses import _moved, fit_pose
from fit3d_ns.judgement.scene import JudgedScene
from fit3d_ns.scene.render import render_rgb
from fit3d_ns.scene.views import PinholeView
from tests.fit3d_ns.lifting.scenes import small_scene

ONES = torch.ones(24, 32, 1)


def make_scene(views: int = 5, masked: bool = False) -> JudgedScene:
    """Photos are the renderings, and features are random."""
    splats, cameras = small_scene(n=400, views=views, grid=(5, 7), masked=masked, size=0.25)
    splats = dataclasses.replace(splats, sh=torch.rand(400, 1, 3) * 3 - 1.5)
    with torch.no_grad():
        images = [render_rgb(splats, view)[0] for view in cameras]
    return JudgedScene(
        name="small",
        splats=splats,
        features=torch.zeros(400, 4),
        decoder=FeatureDecoder("linear", 4, 8),
        position=None,
        views=cameras,
        maps=[torch.rand(*view.grid, 8) for view in cameras],
        photos=[(image * 255).round().to(torch.uint8).numpy() for image in images],
        names=[str(index) for index in range(views)],
    )


def looked(scene: JudgedScene) -> OtherPhotos:
    photos = OtherPhotos(scene)
    photos.look()
    return photos


@pytest.mark.parametrize("masked", [False, True])
def test_what_the_others_show_of_a_gaussian_does_not_know_the_view_that_is_left_out(masked: bool) -> None:
    scene = make_scene(masked=masked)
    before = looked(scene).without(2)
    photos = list(scene.photos)
    photos[2] = 255 - photos[2]
    after = looked(dataclasses.replace(scene, photos=photos)).without(2)
    torch.testing.assert_close(after[:, :4], before[:, :4], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(looked(dataclasses.replace(scene, photos=photos)).without(1), looked(scene).without(1))


def test_it_is_the_mean_of_the_other_views() -> None:
    scene = make_scene()
    found = looked(scene).without(0)
    kept = {name: getattr(scene, name)[1:] for name in ("views", "maps", "photos", "names")}
    rest = OtherPhotos(dataclasses.replace(scene, **kept))
    rest.look()
    seen = rest.sums[:, 3:4]
    expected = torch.where(seen > 4, rest.sums[:, :3] / seen.clamp_min(1e-6), 0.0)
    torch.testing.assert_close(found[:, :3], expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("stops", [-1.0, -0.3, 0.0, 0.5])
def test_exposure_is_the_ratio_in_stops_in_each_channel(stops: float) -> None:
    others = torch.rand(24, 32, 3) * 0.4 + 0.2
    factors = torch.tensor([2.0**stops, 1.0, 1.1])
    found = exposure(others, others * factors, ONES)
    assert found == pytest.approx((stops, 0.0, np.log2(1.1)), abs=1e-3)


def test_exposure_is_unknown_where_all_is_dark() -> None:
    assert np.isnan(exposure(torch.full((24, 32, 3), 0.01), torch.rand(24, 32, 3), ONES)).all()


def clipped(others: Tensor) -> Tensor:
    return (2.5 * others).clamp(0, 1)


def hazy(others: Tensor) -> Tensor:
    return 0.5 * others + 0.3


def of_something_else(others: Tensor) -> Tensor:
    return others.flip(1)


def test_exposure_explains_haze_and_highlights_and_no_other_picture() -> None:
    others = torch.rand(24, 32, 3)
    stops = (np.log2(2.5),) * 3
    assert colour_residual(others, clipped(others), ONES, stops) < 0.01
    assert colour_residual(others, hazy(others), ONES, (0.0, 0.0, 0.0)) < 0.01
    assert colour_residual(others, of_something_else(others), ONES, (0.0, 0.0, 0.0)) > 0.5


def test_gain_and_offset_are_those_of_the_pixels_that_count() -> None:
    others, weight = torch.rand(24, 32, 3), ONES.clone()
    weight[:, :10] = 0
    photo = 0.7 * others + 0.1
    photo[:, :10] = 1.0
    gain, offset = gain_and_offset(others, photo, weight)
    torch.testing.assert_close(gain, torch.full((3,), 0.7), atol=2e-3, rtol=0)
    torch.testing.assert_close(offset, torch.full((3,), 0.1), atol=2e-3, rtol=0)


def test_a_pose_that_was_turned_is_found_and_a_right_one_left() -> None:
    scene = make_scene(views=8)
    change = torch.tensor([0.0, 0.05, 0.0, 0.0, 0.0, 0.0])
    views: list[PinholeView] = list(scene.views)
    views[3] = _moved(views[3], change)
    photos = looked(dataclasses.replace(scene, views=views))
    wrong, right = fit_pose(photos, 3), fit_pose(photos, 5)
    assert is_wrong(wrong)
    assert 1 < wrong.degrees < 4  # of 2.9: the means of so few and so soft Gaussians are blurred
    assert not is_wrong(right)
