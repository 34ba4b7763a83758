"""Rendering a loaded scene."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from fit3d_ns.scene.gaussians import FeatureGaussians
from fit3d_ns.scene.render import render_features, render_rgb
from fit3d_ns.scene.views import PinholeView
from tests.fit3d_ns.scene.scenes import make_gaussians

K = torch.tensor([[40.0, 0.0, 24.0], [0.0, 40.0, 16.0], [0.0, 0.0, 1.0]])
VIEW = PinholeView(torch.eye(4), K, 48, 32, grid=(32, 48))
C0 = 0.28209479177387814


def one_gaussian(tmp_path: Path) -> FeatureGaussians:
    """A round, nearly opaque Gaussian whose centre projects to x = 34, y = 11, coloured (0.9, 0.5, 0.2)."""
    gaussians = make_gaussians(tmp_path, count=1, sh_coefficients=1, feature_dim=3)
    return dataclasses.replace(
        gaussians,
        means=torch.tensor([[0.5, -0.25, 2.0]]),
        quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        scales=torch.full((1, 3), 0.05),
        opacities=torch.tensor([0.99]),
        sh=((torch.tensor([0.9, 0.5, 0.2]) - 0.5) / C0).reshape(1, 1, 3),
        features=torch.tensor([[3.0, -2.0, 7.0]]),
        scene=dataclasses.replace(gaussians.scene, rasterize_mode="classic"),
    )


def test_a_gaussian_appears_where_its_centre_projects(tmp_path: Path) -> None:
    gaussians = one_gaussian(tmp_path)
    features, alpha = render_features(gaussians, VIEW)
    assert features.shape == (32, 48, 3)
    assert alpha.shape == (32, 48, 1)
    rows, columns = torch.meshgrid(torch.arange(32) + 0.5, torch.arange(48) + 0.5, indexing="ij")
    weights = alpha[..., 0] / alpha.sum()
    assert float((weights * columns).sum()) == pytest.approx(34.0, abs=0.05)
    assert float((weights * rows).sum()) == pytest.approx(11.0, abs=0.05)
    torch.testing.assert_close(features, alpha * gaussians.features, rtol=1e-5, atol=1e-6)


def test_colour_is_blended_over_the_background_as_its_harmonics_say(tmp_path: Path) -> None:
    gaussians = one_gaussian(tmp_path)
    rgb, alpha = render_rgb(gaussians, VIEW, background=(0.0, 1.0, 0.5))
    expected = alpha * torch.tensor([0.9, 0.5, 0.2]) + (1 - alpha) * torch.tensor([0.0, 1.0, 0.5])
    torch.testing.assert_close(rgb, expected, rtol=1e-5, atol=1e-5)
    assert float(alpha.max()) > 0.7


def test_what_was_loaded_renders_as_what_was_saved(tmp_path: Path) -> None:
    gaussians = make_gaussians(tmp_path, count=200)
    gaussians.save(tmp_path / "room")
    loaded = FeatureGaussians.load(tmp_path / "room")
    view = loaded.scene.views[1].pinhole()
    saved_rgb, _ = render_rgb(gaussians, view)
    loaded_rgb, alpha = render_rgb(loaded, view)
    assert float(alpha.max()) > 0.5
    torch.testing.assert_close(loaded_rgb, saved_rgb, rtol=1e-4, atol=1e-4)
    saved_features, _ = render_features(gaussians, view)
    loaded_features, _ = render_features(loaded, view)
    # float16 keeps 11 bits: a relative error of 2^-11 per Gaussian, blended with weights that add up to at most 1.
    bound = float(gaussians.features.abs().max()) * 2.0**-11 + 1e-4
    assert float((loaded_features - saved_features).abs().max()) <= bound
    assert not math.isclose(float(saved_features.abs().max()), 0.0)


def test_features_can_be_learned_through_the_rendering(tmp_path: Path) -> None:
    gaussians = one_gaussian(tmp_path)
    gaussians.features.requires_grad_()
    features, alpha = render_features(gaussians, VIEW)
    features.sum().backward()
    gradient = gaussians.features.grad
    assert gradient is not None
    torch.testing.assert_close(gradient, alpha.sum().expand(1, 3), rtol=1e-4, atol=1e-4)
