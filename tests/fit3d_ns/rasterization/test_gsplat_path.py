"""The branches for GPUs, through gsplat's own Python and kernels by contract on the CPU (`tests.gsplat_kernels`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fit3d_ns.lifting.operator import RenderOperator, SparseOperator, patch_operator
from fit3d_ns.lifting.solver import LiftOptions, solve_features
from fit3d_ns.method.export import export_run
from fit3d_ns.rasterization import channels_per_pass, rasterization
from fit3d_ns.scene.gaussians import FeatureGaussians
from tests.fit3d_ns.lifting.scenes import small_scene
from tests.fit3d_ns.method.runs import make_config, train
from tests.fit3d_ns.rasterization.scenes import error, leaves, random_scene, with_sh
from tests.gsplat_kernels import COMPILED_CHANNELS, Kernels, emulated, require

NAMES = ("means", "quats", "scales", "opacities", "colors", "viewmats")
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "rgb": (with_sh(random_scene(200), 3), {}),
    "five channels": (random_scene(200, channels=5), {}),
    "64 channels and one": (random_scene(200, channels=65), {}),
    "antialiased": (random_scene(200, size=0.05), {"rasterize_mode": "antialiased"}),
    "expected depth": (with_sh(random_scene(200), 2), {"render_mode": "RGB+ED"}),
    "depth alone": (random_scene(200), {"render_mode": "ED"}),
    "two cameras": (random_scene(200, n_cameras=2), {}),
}


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernels]:
    with emulated(monkeypatch) as found:
        yield found


def rendered(scene: dict[str, Any], options: dict[str, Any]) -> dict[str, Tensor]:
    inputs = leaves(scene, NAMES)
    image, alpha, info = rasterization(**inputs, absgrad=True, **options)
    ramp = torch.linspace(-1, 1, image.numel()).reshape(image.shape)
    ((image * ramp).sum() + alpha.square().sum()).backward()
    grads = {name: inputs[name].grad for name in NAMES if inputs[name].grad is not None}
    seen = info["radii"] > 0
    return {
        "image": image, "alpha": alpha, "radii": info["radii"], "means2d": info["means2d"][seen],
        "depths": info["depths"][seen], "absgrad": info["means2d"].absgrad, **grads,
    }  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_gsplats_python_and_our_kernels_agree(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = rendered(*CASES[case])
    with emulated(monkeypatch) as kernels:
        theirs = rendered(*CASES[case])
    assert kernels.calls["rasterize_to_pixels_fwd"] >= 1
    assert ours.keys() == theirs.keys()
    assert torch.equal(ours["radii"], theirs["radii"])
    passes = len(kernels.channels)
    for name in ours.keys() - {"radii", *(("absgrad",) if passes > 1 else ())}:
        assert error(ours[name], theirs[name]) < 1e-4, name


def test_features_with_their_error_take_two_passes(kernels: Kernels) -> None:
    rendered(*CASES["64 channels and one"])
    assert kernels.channels == [33, 32]
    kernels.channels.clear()
    rendered(*CASES["expected depth"])
    assert kernels.channels == [4]


@pytest.mark.parametrize("channels", range(1, 140))
def test_passes_are_as_few_as_can_be_and_compiled(channels: int) -> None:
    width = channels_per_pass(channels)
    widths = [min(width, channels - start) for start in range(0, channels, width)]
    assert len(widths) == -(-channels // 33)
    assert all(width <= max(COMPILED_CHANNELS[:11]) for width in widths)


def test_a_later_pass_overwrites_the_absolute_gradients(kernels: Kernels) -> None:
    """Why densification must never read them from a rendering of features."""
    inputs = leaves(random_scene(100, channels=40), NAMES)
    image, _, info = rasterization(**inputs, absgrad=True)
    image[..., -1].sum().backward()
    assert float(info["means2d"].absgrad.abs().max()) >= 0
    assert kernels.calls["rasterize_to_pixels_bwd"] == 2


@pytest.mark.parametrize("fault", ["contiguous", "dtype"])
def test_the_stand_in_refuses_what_kernels_cannot_read(fault: str) -> None:
    values = torch.zeros(4, 4).T if fault == "contiguous" else torch.zeros(4, dtype=torch.float64)
    values = values[:, :2] if fault == "contiguous" else values
    with pytest.raises(RuntimeError, match=r"contiguous|expected scalar type"):
        require(values)


# ---- lifting


@pytest.mark.parametrize("settings", [{}, {"masked": True}, {"antialiased": True}, {"n": 300, "size": 0.4}])
def test_the_operator_on_prepared_views_is_the_matrix(settings: dict[str, Any], kernels: Kernels) -> None:
    geometry, views = small_scene(**settings)
    sparse, operator = SparseOperator.build(geometry, views), patch_operator(geometry, views)
    assert isinstance(operator, RenderOperator)
    features, values = torch.randn(len(geometry), 40), torch.randn(sparse.num_cells, 7)
    weights = torch.rand(sparse.num_cells)
    for _ in range(2):
        torch.testing.assert_close(operator.apply(features), sparse.apply(features), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(operator.transpose(values), sparse.transpose(values), rtol=1e-4, atol=1e-4)
        normal = operator.normal(features, weights)
        torch.testing.assert_close(normal, sparse.normal(features, weights), rtol=1e-4, atol=1e-3)
    # kept_bytes is what is free on a GPU; there is none here, so every product prepares its views.
    assert kernels.calls["fully_fused_projection_fwd"] == 6 * len(views)


def test_views_are_projected_once_where_there_is_room(kernels: Kernels) -> None:
    geometry, views = small_scene()
    room = RenderOperator(geometry, views, kept_bytes=10**9)
    features = torch.randn(len(geometry), 8)
    for _ in range(3):
        room.apply(features)
        room.normal(features, torch.ones(room.num_cells))
    assert kernels.calls["fully_fused_projection_fwd"] == len(views)
    assert kernels.calls["isect_tiles"] == len(views)
    assert kernels.calls["fully_fused_projection_bwd"] == 0, "geometry has no gradients"
    one = next(iter(room._prepared.values())).num_bytes
    kernels.calls.clear()
    little = RenderOperator(geometry, views, kept_bytes=one)
    little.apply(features)
    little.apply(features)
    assert len(little._prepared) == 1
    assert kernels.calls["fully_fused_projection_fwd"] == 2 * len(views) - 1


def test_a_view_that_sees_nothing_has_zero_rows_and_gradients(kernels: Kernels) -> None:
    geometry, views = small_scene()
    views[1].world_to_camera[2, 3] = -100
    operator, sparse = RenderOperator(geometry, views), SparseOperator.build(geometry, views)
    features = torch.randn(len(geometry), 3)
    torch.testing.assert_close(operator.apply(features), sparse.apply(features), rtol=1e-4, atol=1e-5)
    weights = torch.ones(sparse.num_cells)
    torch.testing.assert_close(
        operator.normal(features, weights), sparse.normal(features, weights), rtol=1e-4, atol=1e-4
    )


def test_the_solve_is_the_same(kernels: Kernels) -> None:
    geometry, views = small_scene(n=120)
    sparse, operator = SparseOperator.build(geometry, views), RenderOperator(geometry, views, kept_bytes=10**9)
    targets, weights = torch.randn(sparse.num_cells, 3), torch.ones(sparse.num_cells)
    options = LiftOptions(regularization=0.5)
    expected, found = (solve_features(kind, targets, weights, options) for kind in (sparse, operator))
    torch.testing.assert_close(found.features, expected.features, rtol=1e-2, atol=1e-3)


# ---- the method


@pytest.mark.parametrize("strategy", ["default", pytest.param("mcmc", marks=pytest.mark.slow)])
def test_a_training_with_densification_lifting_and_export(
    strategy: str, tiny_capture: Path, tmp_path: Path, kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fit3d_ns.lifting.operator._free_bytes", lambda device: 10**9)
    config = make_config(
        tiny_capture, tmp_path / "outputs", steps=17, strategy=strategy, feature_lift="solve", warmup_length=2,
        refine_every=5, densify_grad_thresh=1e-5, stop_split_at=30, max_gs_num=3_000, feature_dim=8,
    )  # fmt: skip
    # Nothing is split in the 9 + 5 steps after the opacities were reset, as which the start counts.
    trainer = train(config)
    assert kernels.calls["rasterize_to_pixels_bwd"] >= 17
    assert len(trainer.pipeline.model.means) > 1_500, "Gaussians were added"
    if strategy == "mcmc":
        assert kernels.calls["compute_relocation"] > 0
    folder = export_run(trainer.base_dir / "config.yml", tmp_path / "runs")
    exported = FeatureGaussians.load(folder)
    assert bool(exported.features.any())
    assert exported.features.shape[1] == 8
