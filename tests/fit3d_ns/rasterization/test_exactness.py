"""The CPU kernels against float64: forward below 1e-5, every gradient below 1e-4."""

from __future__ import annotations

import pytest
import torch

from fit3d_ns.rasterization import rasterization
from fit3d_ns.rasterization.torch_reference import project, rasterization_reference

from .scenes import Scene, error, leaves, naive_render, random_scene, with_sh

GEOMETRY = ("means", "quats", "scales", "opacities", "viewmats")
FORWARD, GRADIENT = 1e-5, 1e-4


def test_the_reference_equals_loops_over_pixels() -> None:
    scene = leaves(random_scene(60, seed=3), (), torch.float64)
    image, alpha, _ = rasterization_reference(**scene)
    means2d, depths, cov, _, radii = project(
        scene["means"], scene["quats"], scene["scales"], scene["viewmats"][0], scene["Ks"][0], 56, 40
    )
    arrays = [t.numpy() for t in (means2d, cov, depths, radii, scene["opacities"], scene["colors"])]
    loop_image, loop_alpha = naive_render(*arrays, 56, 40)
    assert error(image[0], torch.from_numpy(loop_image)) < 1e-12
    assert error(alpha[0], torch.from_numpy(loop_alpha)) < 1e-12


def compare(scene: Scene, names: tuple[str, ...], **options: object) -> None:
    """Forward and all gradients. Pixels at a threshold, where float32 may decide otherwise, carry no weight."""
    ours, exact = leaves(scene, names), leaves(scene, names, torch.float64)
    image, alpha, info = rasterization(**ours, **options)
    exact_image, exact_alpha, exact_info = rasterization_reference(**exact, **options, find_ambiguous=True)
    keep = ~exact_info["ambiguous"][..., None]
    assert keep.double().mean() > 0.98
    assert error(image * keep, exact_image * keep) < FORWARD
    assert error(alpha * keep, exact_alpha * keep) < FORWARD
    assert torch.equal(info["radii"], exact_info["radii"])
    generator = torch.Generator().manual_seed(9)
    for_image = torch.randn(image.shape, generator=generator) * keep
    for_alpha = torch.randn(alpha.shape, generator=generator) * keep
    ((image * for_image).sum() + (alpha * for_alpha).sum()).backward()
    ((exact_image * for_image.double()).sum() + (exact_alpha * for_alpha.double()).sum()).backward()
    for name in names:
        assert exact[name].grad.norm() > 0, name
        assert error(ours[name].grad, exact[name].grad) < GRADIENT, name


@pytest.mark.parametrize("channels", [1, 3, 4, 5, 64, 67])
def test_values_of_any_width_match_float64(channels: int) -> None:
    compare(random_scene(channels=channels), (*GEOMETRY, "colors"))


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_spherical_harmonics_match_float64(degree: int) -> None:
    compare(with_sh(random_scene(), degree), (*GEOMETRY, "colors"))


@pytest.mark.parametrize("mode", ["D", "ED", "RGB+D", "RGB+ED"])
def test_depth_modes_match_float64(mode: str) -> None:
    names = GEOMETRY if mode in ("D", "ED") else (*GEOMETRY, "colors")
    compare(random_scene(seed=4), names, render_mode=mode)


def test_wide_values_with_depth_match_float64() -> None:
    compare(random_scene(seed=4, channels=64), (*GEOMETRY, "colors"), render_mode="RGB+ED")


@pytest.mark.parametrize("channels", [3, 64])
def test_antialiased_matches_float64(channels: int) -> None:
    compare(random_scene(seed=5, size=0.05, channels=channels), (*GEOMETRY, "colors"), rasterize_mode="antialiased")


@pytest.mark.parametrize("channels", [3, 64])
def test_backgrounds_match_float64(channels: int) -> None:
    scene = {**random_scene(seed=6, channels=channels), "backgrounds": torch.rand(1, channels)}
    compare(scene, (*GEOMETRY, "colors", "backgrounds"))


@pytest.mark.parametrize("channels", [3, 64])
def test_two_cameras_match_float64(channels: int) -> None:
    scene = random_scene(seed=7, n_cameras=2, channels=channels)
    compare({**scene, "backgrounds": torch.rand(2, channels)}, (*GEOMETRY, "colors", "backgrounds"))


def test_two_cameras_with_shared_harmonics_match_float64() -> None:
    compare(with_sh(random_scene(seed=7, n_cameras=2), 3), (*GEOMETRY, "colors"), render_mode="RGB+ED")


@pytest.mark.parametrize("channels", [3, 20])
def test_values_per_camera_match_float64(channels: int) -> None:
    scene = random_scene(seed=8, n_cameras=2)
    compare({**scene, "colors": torch.rand(2, len(scene["means"]), channels)}, (*GEOMETRY, "colors"))


def test_dense_opaque_scene_that_ends_pixels_early_matches_float64() -> None:
    scene = random_scene(800, seed=10, size=0.4)
    scene["opacities"] = 0.5 + 0.5 * torch.rand(800, generator=torch.Generator().manual_seed(0))
    compare(scene, (*GEOMETRY, "colors"))


def test_many_wide_gaussians_per_tile_match_float64() -> None:
    compare(random_scene(1500, seed=11, size=0.12, channels=33), (*GEOMETRY, "colors"))


@pytest.mark.parametrize("channels", [3, 20])
def test_absgrad_is_the_sum_of_absolute_pixel_gradients(channels: int) -> None:
    scene = {**random_scene(40, seed=12, channels=channels), "width": 20, "height": 18}
    ours, exact = leaves(scene, ("means",)), leaves(scene, ("means",), torch.float64)
    image, _, info = rasterization(**ours, absgrad=True)
    info["means2d"].retain_grad()
    exact_image, _, exact_info = rasterization_reference(**exact, find_ambiguous=True)
    weight = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    weight = weight * ~exact_info["ambiguous"][..., None]
    (image * weight).sum().backward()
    per_pixel = (exact_image * weight).sum(-1).flatten()
    means2d = exact_info["means2d_nodes"][0]
    gradients = torch.stack([torch.autograd.grad(p, means2d, retain_graph=True)[0] for p in per_pixel])
    assert error(info["means2d"].grad[0], gradients.sum(0)) < GRADIENT
    assert error(info["means2d"].absgrad[0], gradients.abs().sum(0)) < GRADIENT
