"""Depth and cameras from an export, for consistency without a depth sensor."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fit3d_finetune.probing.correspondences import find_correspondences
from fit3d_finetune.probing.export_views import render_depth, views_from_export
from tests.export_format.scenes import make_gaussians


def test_the_depth_of_an_export_is_where_its_gaussians_are(tmp_path: Path) -> None:
    gaussians = dataclasses.replace(
        make_gaussians(tmp_path, count=1),
        means=torch.tensor([[0.0, 0.0, 2.0]]),
        scales=torch.full((1, 3), 0.2),
        opacities=torch.tensor([0.99]),
    )
    K = torch.tensor([[40.0, 0.0, 24.0], [0.0, 40.0, 16.0], [0.0, 0.0, 1.0]])
    depth = render_depth(gaussians, torch.eye(4), K, 48, 32)
    assert depth.shape == (32, 48)
    assert depth[16, 24] == pytest.approx(2.0, abs=1e-4)
    assert depth[0, 0] == 0  # nothing there
    assert 20 < int((depth > 0).sum()) < 200


def test_views_of_an_export_are_undistorted_shrunk_and_masked(tmp_path: Path) -> None:
    gaussians = dataclasses.replace(
        make_gaussians(tmp_path, count=1),
        means=torch.zeros(1, 3),
        quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        scales=torch.tensor([[50.0, 50.0, 0.001]]),  # a wall across every view, 3 ahead of the first
        opacities=torch.tensor([0.99]),
    )
    mask = np.full((24, 32), 255, np.uint8)
    mask[:, :16] = 0
    cv2.imwrite(str(tmp_path / "masks" / "0.png"), mask)
    views = views_from_export(gaussians, max_size=16)
    info = gaussians.scene.views[0]
    K, width, height = info.pinhole()
    H, W = views[0].depth.shape
    assert len(views) == 3
    assert max(H, W) == 16
    np.testing.assert_allclose(views[0].K[0] / W, K[0] / width)
    np.testing.assert_allclose(views[0].K[1] / H, K[1] / height)
    np.testing.assert_allclose(views[0].camera_to_world @ info.world_to_camera, np.eye(4), atol=1e-12)
    assert (views[0].depth[:, : W // 2 - 1] == 0).all()
    np.testing.assert_allclose(views[0].depth[:, W // 2 + 2 :], 3.0, rtol=1e-3)
    np.testing.assert_allclose(views[1].depth, 3.1, rtol=1e-3)
    assert len(find_correspondences(views[1], views[2])[0]) > 500
