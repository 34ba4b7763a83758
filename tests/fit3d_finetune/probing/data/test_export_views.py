"""Depth and cameras from an export, for consistency without a depth sensor."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fit3d_finetune.commands.probe import ProbeArguments, run
from fit3d_finetune.probing.correspondences import find_correspondences
from fit3d_finetune.probing.data import export_views
from fit3d_finetune.probing.data.checks import require_data
from fit3d_finetune.probing.data.datasets import read_data
from fit3d_finetune.probing.data.export_views import read_export
from fit3d_ns.common.errors import InputError
from fit3d_ns.scene.gaussians import FeatureGaussians
from fit3d_ns.scene.render import render_depth
from fit3d_ns.scene.views import PinholeView
from tests.fit3d_finetune.probing.scenes import BACKBONE
from tests.fit3d_ns.scene.scenes import make_gaussians


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """Three views of a wall across all of them, as an export that can be read."""
    gaussians = dataclasses.replace(
        make_gaussians(tmp_path / "capture", count=1),
        means=torch.zeros(1, 3),
        quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        scales=torch.tensor([[50.0, 50.0, 0.001]]),  # 3 ahead of the first view
        opacities=torch.tensor([0.99]),
    )
    gaussians.save(tmp_path / "runs/wall")
    return tmp_path / "runs/wall"


def test_the_depth_of_an_export_is_where_its_gaussians_are(tmp_path: Path) -> None:
    gaussians = dataclasses.replace(
        make_gaussians(tmp_path, count=1),
        means=torch.tensor([[0.0, 0.0, 2.0]]),
        scales=torch.full((1, 3), 0.2),
        opacities=torch.tensor([0.99]),
    )
    K = torch.tensor([[40.0, 0.0, 24.0], [0.0, 40.0, 16.0], [0.0, 0.0, 1.0]])
    depth = render_depth(gaussians, PinholeView(torch.eye(4), K, 48, 32, grid=(32, 48)))
    assert depth.shape == (32, 48)
    assert depth[16, 24] == pytest.approx(2.0, abs=1e-4)
    assert depth[0, 0] == 0  # nothing there
    assert 20 < int((depth > 0).sum()) < 200


def test_views_of_an_export_are_undistorted_shrunk_and_masked(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = np.full((24, 32), 255, np.uint8)
    mask[:, :16] = 0
    cv2.imwrite(str(tmp_path / "capture/masks/0.png"), mask)
    monkeypatch.setattr(export_views, "MAX_SIZE", 16)
    images = read_export(export).images
    views = [image.consistency_view("wall") for image in images]
    info = FeatureGaussians.load(export).scene.views[0]
    pinhole = info.pinhole()
    H, W = views[0].depth.shape
    assert len(views) == 3
    assert max(H, W) == 16
    np.testing.assert_allclose(views[0].K[0] / W, pinhole.K[0] / pinhole.width)
    np.testing.assert_allclose(views[0].K[1] / H, pinhole.K[1] / pinhole.height)
    np.testing.assert_allclose(views[0].camera_to_world @ info.world_to_camera, np.eye(4), atol=1e-12)
    assert (views[0].depth[:, : W // 2 - 1] == 0).all()
    np.testing.assert_allclose(views[0].depth[:, W // 2 + 2 :], 3.0, rtol=1e-3)
    np.testing.assert_allclose(views[1].depth, 3.1, rtol=1e-3)
    assert len(find_correspondences(views[1], views[2])[0]) > 500


def test_consistency_is_measured_on_an_export_alone(export: Path, tmp_path: Path) -> None:
    results = run(
        ProbeArguments(
            test_data=(str(export),), backbone=BACKBONE, tasks=("consistency",), device="cpu", output_dir=tmp_path / "o"
        )
    )
    measured = results.consistency["original"]
    assert measured.pairs[0] == 3
    assert measured.recall[0] > 0.9, "views a tenth of a unit apart are nearly the same"
    assert results.test_images == ["wall/0", "wall/1", "wall/2"]
    assert (tmp_path / "o/report.html").is_file()


def test_images_of_an_export_may_have_moved(export: Path, tmp_path: Path) -> None:
    (tmp_path / "capture").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="--images-root"):
        read_data([str(export)])
    [data] = read_data([f"export:{export}"], tmp_path / "elsewhere")
    assert data.images[0].image().shape == (*data.images[0].size(), 3)
    with pytest.raises(InputError, match="--tasks segmentation needs labels"):
        require_data(["segmentation"], [data], [data])
