"""What callers rely on besides numbers: odd scenes, determinism, threads, options, agreement with gsplat."""

from __future__ import annotations

import math
import subprocess
import sys
import threading

import pytest
import torch
from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci, _spherical_harmonics
from gsplat.strategy import DefaultStrategy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fit3d_ns.rasterization import rasterization
from fit3d_ns.rasterization.torch_reference import rasterization_reference

from .scenes import Scene, cameras, error, leaves, random_scene, with_sh

PARAMETERS = ("means", "quats", "scales", "opacities", "colors", "viewmats")


def render(scene: Scene, names: tuple[str, ...] = PARAMETERS, **options: object) -> list[torch.Tensor]:
    """Image, alpha, and the gradients of `names` for a fixed loss."""
    inputs = leaves(scene, names)
    image, alpha, _ = rasterization(**inputs, **options)
    weight = torch.linspace(-1, 1, image.numel()).reshape(image.shape)
    if image.requires_grad:
        ((image * weight).sum() + alpha.sum()).backward()
    return [image.detach(), alpha.detach(), *(inputs[name].grad for name in names)]


def blank(scene: Scene) -> Scene:
    return {**scene, "backgrounds": torch.tensor([[0.2, 0.4, 0.6]])}


def assert_background_only(scene: Scene) -> None:
    image, alpha, *gradients = render(blank(scene))
    assert torch.equal(image, torch.tensor([0.2, 0.4, 0.6]).expand_as(image))
    assert not alpha.any()
    assert all(g is not None and not g.any() for g in gradients)


def test_no_gaussians_give_the_background() -> None:
    assert_background_only(random_scene(0))


@pytest.mark.parametrize("channels", [3, 64])
@pytest.mark.parametrize("mode", ["RGB", "RGB+ED"])
def test_no_gaussians_work_in_every_mode(channels: int, mode: str) -> None:
    image, *_ = render(random_scene(0, channels=channels), render_mode=mode)
    assert image.shape == (1, 40, 56, channels + (mode != "RGB"))
    assert not image.any()


def test_gaussians_behind_the_camera_give_the_background() -> None:
    scene = random_scene(30)
    assert_background_only({**scene, "means": scene["means"] - torch.tensor([0.0, 0.0, 40.0])})


def test_gaussians_beside_the_image_give_the_background() -> None:
    scene = random_scene(30)
    assert_background_only({**scene, "means": scene["means"] + torch.tensor([100.0, 0.0, 0.0])})


def test_transparent_gaussians_give_the_background() -> None:
    scene = random_scene(30)
    assert_background_only({**scene, "opacities": torch.zeros(30)})


def test_near_and_far_planes_and_radius_clip_cull() -> None:
    scene = random_scene(60)
    exact = leaves(scene, (), torch.float64)
    for options in ({"near_plane": 4.0}, {"far_plane": 4.0}, {"radius_clip": 9.0}):
        _, _, info = rasterization(**scene, **options)
        _, _, exact_info = rasterization_reference(**exact, **options)
        assert 0 < (info["radii"] > 0).sum() < 60
        assert torch.equal(info["radii"], exact_info["radii"])


finite = {"allow_nan": False, "allow_infinity": False, "width": 32}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 40),
    log_scale=st.floats(-12, 3, **finite),
    opacity=st.floats(0, 1, **finite),
    depth=st.floats(-3, 30, **finite),
    same_place=st.booleans(),
    channels=st.sampled_from([3, 6]),
    width=st.integers(1, 50),
    height=st.integers(1, 50),
)
def test_any_scene_matches_float64_and_stays_finite(
    seed: int,
    n: int,
    log_scale: float,
    opacity: float,
    depth: float,
    same_place: bool,
    channels: int,
    width: int,
    height: int,
) -> None:
    scene = random_scene(n, seed=seed, channels=channels)
    scene["scales"] = scene["scales"] / 0.15 * math.exp(log_scale)
    scene["opacities"] = torch.full((n,), opacity)
    scene["means"] = scene["means"] + torch.tensor([0.0, 0.0, depth])
    if same_place:
        scene["means"] = scene["means"][:1].repeat(n, 1)
    scene.update(width=width, height=height)
    image, alpha, *gradients = render(scene)
    exact_image, exact_alpha, info = rasterization_reference(**leaves(scene, (), torch.float64), find_ambiguous=True)
    keep = ~info["ambiguous"][..., None]
    # Single pixels of single Gaussians, so their own float32 rounding shows: looser than the norm over a scene.
    assert (image - exact_image).abs().mul(keep).max() < 1e-4
    assert (alpha - exact_alpha).abs().mul(keep).max() < 1e-4
    assert all(g.isfinite().all() for g in gradients)


def test_nan_gaussians_do_not_spread() -> None:
    scene = random_scene(50)
    clean, *_ = rasterization(**{k: v[1:] if k in PARAMETERS[:5] else v for k, v in scene.items()})
    scene["means"][0] = float("nan")
    assert torch.equal(rasterization(**scene)[0], clean)


@pytest.mark.parametrize("scene", [with_sh(random_scene(400), 3), random_scene(400, channels=64)], ids=["sh", "64"])
def test_runs_are_bit_identical(scene: Scene) -> None:
    first, second = render(scene), render(scene)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_feature_gradients_do_not_depend_on_whether_geometry_learns() -> None:
    scene = random_scene(300, channels=64)
    full = render(scene)[2 + PARAMETERS.index("colors")]
    alone = render(scene, ("colors",))[2]
    assert torch.equal(full, alone)


def test_input_errors_are_named() -> None:
    scene = random_scene(5)
    with pytest.raises(ValueError, match=r"quats has shape \[5, 3\]"):
        rasterization(**{**scene, "quats": scene["quats"][:, :3]})
    with pytest.raises(TypeError, match=r"means is torch\.float64"):
        rasterization(**{**scene, "means": scene["means"].double()})
    with pytest.raises(ValueError, match="packed"):
        rasterization(**scene, packed=True)
    with pytest.raises(ValueError, match="tile_size"):
        rasterization(**scene, tile_size=8)
    with pytest.raises(ValueError, match="render_mode"):
        rasterization(**scene, render_mode="normals")
    with pytest.raises(ValueError, match="16 coefficients"):
        rasterization(**{**scene, "colors": torch.rand(5, 9, 3)}, sh_degree=3)
    with pytest.raises(ValueError, match="at most 1"):
        rasterization(**{**scene, "opacities": scene["opacities"] + 1})


def test_importing_the_interface_loads_no_kernels() -> None:
    code = "import sys, fit3d_ns.rasterization; print('numba' in sys.modules, 'gsplat' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]


def test_threads_render_at_the_same_time_and_get_their_own_results() -> None:
    scenes = [random_scene(200, seed=s, channels=c) for s, c in ((1, 3), (2, 64), (3, 4), (4, 12))]
    expected = [render(scene) for scene in scenes]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(15):
            got = render(scenes[index])
            if not all(torch.equal(a, b) for a, b in zip(got, expected[index], strict=True)):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(scenes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_projection_equals_gsplats_torch_helper() -> None:
    scene = random_scene(200, seed=5, n_cameras=2)
    covars, _ = _quat_scale_to_covar_preci(scene["quats"].double(), scene["scales"].double(), True, False)
    radii, means2d, depths, conics, _ = _fully_fused_projection(
        scene["means"].double(), covars, scene["viewmats"].double(), scene["Ks"].double(), 56, 40
    )
    _, _, info = rasterization(**scene)
    seen = info["radii"] > 0
    assert torch.equal(info["radii"], radii)
    for name, theirs in (("means2d", means2d), ("depths", depths), ("conics", conics)):
        assert error(info[name][seen], theirs[seen]) < 1e-6


def test_harmonics_equal_gsplats_torch_helper() -> None:
    scene = with_sh(random_scene(1), 3)
    scene["means"], scene["scales"] = torch.tensor([[0.3, 0.2, 4.0]]), torch.full((1, 3), 9.0)
    scene["opacities"] = torch.ones(1)
    image, alpha, _ = rasterization(**scene)
    direction = scene["means"] - torch.inverse(scene["viewmats"])[0, :3, 3]
    color = (_spherical_harmonics(3, direction, scene["colors"]) + 0.5).clamp(min=0)
    assert error(image / alpha, color.expand_as(image)) < 1e-6


def test_gsplats_densification_reads_our_info() -> None:
    scene = random_scene(100)
    names = ("means", "quats", "scales", "opacities")
    params = torch.nn.ParameterDict({k: torch.nn.Parameter(scene[k]) for k in names})
    strategy = DefaultStrategy(absgrad=True, refine_start_iter=10)
    state = strategy.initialize_state()
    image, _, info = rasterization(**{**scene, **dict(params.items())}, absgrad=True)
    strategy.step_pre_backward(params, {}, state, 0, info)
    image.square().sum().backward()
    strategy._update_state(params, state, info)
    assert torch.equal(state["count"], (info["radii"][0] > 0).float())
    half_size = torch.tensor([28.0, 20.0])
    expected = (info["means2d"].absgrad[0] * half_size).norm(dim=-1) * state["count"]
    assert error(state["grad2d"], expected) < 1e-6
    assert (info["means2d"].absgrad + 1e-6 >= info["means2d"].grad.abs()).all()


def test_a_camera_pose_is_recovered_by_its_gradient() -> None:
    scene = random_scene(300, seed=21)
    target, *_ = rasterization(**scene)
    shift = torch.tensor([0.05, -0.04, 0.03])
    offset = torch.nn.Parameter(shift.clone())
    optimizer = torch.optim.Adam([offset], lr=0.01)
    for _ in range(60):
        viewmats = cameras()[0].clone()
        viewmats[0, :3, 3] = viewmats[0, :3, 3] + offset
        image, *_ = rasterization(**{**scene, "viewmats": viewmats})
        optimizer.zero_grad()
        (image - target).square().mean().backward()
        optimizer.step()
    assert offset.norm() < 0.1 * shift.norm()
