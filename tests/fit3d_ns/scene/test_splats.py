"""Gaussians with activated values: where they come from, and that they stay together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fit3d_ns.scene.render import render_features, render_rgb
from fit3d_ns.scene.splats import SH_DEGREES, TENSORS, Splats
from fit3d_ns.scene.views import PinholeView
from tests.fit3d_ns.scene.scenes import make_gaussians

RAW = {
    "means": torch.randn(7, 3),
    "quats": torch.randn(7, 4),
    "scales": torch.randn(7, 3),
    "opacities": torch.randn(7, 1),
}


def test_raw_parameters_are_logarithms_of_sizes_and_logits_of_opacities() -> None:
    splats = Splats.from_raw(RAW, torch.zeros(7, 4, 3), "antialiased")
    torch.testing.assert_close(splats.scales.log(), RAW["scales"])
    torch.testing.assert_close(torch.logit(splats.opacities)[:, None], RAW["opacities"])
    assert splats.means is RAW["means"]
    assert splats.quats is RAW["quats"]
    assert (len(splats), splats.sh_degree, splats.rasterize_mode) == (7, 1, "antialiased")


@pytest.mark.parametrize(("coefficients", "degree"), SH_DEGREES.items())
def test_the_degree_follows_from_the_coefficients(coefficients: int, degree: int) -> None:
    assert coefficients == (degree + 1) ** 2
    assert Splats.from_raw(RAW, torch.zeros(7, coefficients, 3), "classic").sh_degree == degree


def test_gradients_reach_the_raw_parameters_but_not_those_of_detached_gaussians() -> None:
    raw = {name: values.clone().requires_grad_() for name, values in RAW.items()}
    splats = Splats.from_raw(raw, torch.zeros(7, 1, 3), "classic")
    assert all(getattr(splats, name).requires_grad for name in TENSORS if name != "sh")
    held = splats.detached()
    assert not any(getattr(held, name).requires_grad for name in TENSORS)
    assert torch.equal(held.scales, splats.scales)


def test_gaussians_with_features_render_as_their_scene_says(tmp_path: Path) -> None:
    gaussians = make_gaussians(tmp_path)
    assert gaussians.rasterize_mode == gaussians.scene.rasterize_mode == "antialiased"
    plain = gaussians.splats
    assert type(plain) is Splats
    assert plain.rasterize_mode == "antialiased"
    assert all(getattr(plain, name) is getattr(gaussians, name) for name in TENSORS)


def test_moving_gaussians_takes_all_they_have_along(tmp_path: Path) -> None:
    moved = make_gaussians(tmp_path).splats.to("meta")
    assert {getattr(moved, name).device.type for name in TENSORS} == {"meta"}
    assert moved.rasterize_mode == "antialiased"


def test_a_resized_view_shows_the_same_at_another_size(tmp_path: Path) -> None:
    gaussians = make_gaussians(tmp_path, count=200)
    view = gaussians.scene.views[0].pinhole()
    large = view.resized(4 * view.width, 4 * view.height)
    small, _ = render_rgb(gaussians, view)
    fine, _ = render_rgb(gaussians, large)
    assert fine.shape == (4 * view.height, 4 * view.width, 3)
    pooled = fine.reshape(view.height, 4, view.width, 4, 3).mean((1, 3))
    # The low-pass filter of the rasteriser is narrower there.
    assert float((pooled - small).abs().mean()) < 0.03
    assert float((pooled.flip(1) - small).abs().mean()) > 0.06


def test_a_view_renders_the_same_in_any_precision(tmp_path: Path) -> None:
    gaussians = make_gaussians(tmp_path)
    view = gaussians.scene.views[0].pinhole()
    assert view.K.dtype == torch.float64
    single = PinholeView(view.world_to_camera.float(), view.K.float(), view.width, view.height, view.grid)
    assert torch.equal(render_features(gaussians, view)[0], render_features(gaussians, single)[0])
