"""The running sums of densification against gsplat's own, and its bound."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gsplat.strategy import DefaultStrategy
from hypothesis import given, settings
from hypothesis import strategies as st

from fit3d_ns.method.densification import CappedStrategy


def step_info(cameras: int, count: int, generator: torch.Generator) -> dict[str, Any]:
    """What a rendering and its backward leave; the unseen have no gradient, as both rasterisers say."""
    radii = torch.randint(-1, 20, (cameras, count), generator=generator).clamp_min(0).int()
    means2d = torch.rand(cameras, count, 2, generator=generator)
    seen = (radii > 0)[..., None]
    means2d.grad = torch.randn(cameras, count, 2, generator=generator) * seen
    means2d.absgrad = means2d.grad.abs() * 2  # type: ignore[attr-defined]
    return {
        "width": 448, "height": 336, "n_cameras": cameras, "radii": radii, "gaussian_ids": None, "means2d": means2d,
    }  # fmt: skip


@pytest.mark.parametrize("absgrad", [True, False])
@pytest.mark.parametrize(("cameras", "size_until"), [(1, 0), (1, 100), (3, 0)])
def test_sums_equal_gsplats(absgrad: bool, cameras: int, size_until: int) -> None:
    generator = torch.Generator().manual_seed(cameras)
    options: dict[str, Any] = {"absgrad": absgrad, "refine_scale2d_stop_iter": size_until}
    params = {"means": torch.zeros(200, 3)}
    ours, theirs = CappedStrategy(**options), DefaultStrategy(**options)
    states = ours.initialize_state(), theirs.initialize_state()
    for _ in range(3):
        info = step_info(cameras, 200, generator)
        for strategy, state in zip((ours, theirs), states, strict=True):
            strategy._update_state(params, state, info)
    assert states[0].keys() == states[1].keys()
    for name, expected in states[1].items():
        torch.testing.assert_close(states[0][name], expected, rtol=1e-6, atol=1e-6)


def random_gaussians(count: int, generator: torch.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters of every kind of Gaussian, and an optimiser for each."""
    shapes = {"means": 3, "quats": 4, "scales": 3, "opacities": 1}
    params = {name: torch.nn.Parameter(torch.randn(count, n, generator=generator)) for name, n in shapes.items()}
    params["scales"].data.mul_(2).sub_(4)
    params["opacities"].data.mul_(4)
    return params, {name: torch.optim.Adam([values], lr=0.01) for name, values in params.items()}


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    start=st.integers(1, 60),
    room=st.integers(-20, 60),
    size_until=st.sampled_from([0, 4, 1000]),
    options=st.fixed_dictionaries(
        {
            "grow_grad2d": st.sampled_from([0.0, 1e-3, 10.0]),
            "grow_scale3d": st.sampled_from([0.0, 0.01, 10.0]),
            "grow_scale2d": st.sampled_from([0.0, 0.02, 1.0]),
            "prune_opa": st.sampled_from([0.0, 0.005, 0.5]),
            "absgrad": st.booleans(),
            "revised_opacity": st.booleans(),
        }
    ),
)
def test_there_are_never_more_gaussians_than_the_bound(
    seed: int, start: int, room: int, size_until: int, options: dict[str, Any]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    bound = max(0, start + room)
    strategy = CappedStrategy(
        **options, cap_max=bound, refine_scale2d_stop_iter=size_until, refine_start_iter=0, refine_every=2,
        reset_every=7,
    )  # fmt: skip
    params, optimizers = random_gaussians(start, generator)
    state = strategy.initialize_state()
    for step in range(9):
        count = len(params["means"])
        if count == 0:
            return
        info = step_info(1, count, generator)
        strategy.step_post_backward(params, optimizers, state, step, info)
        assert len(params["means"]) <= max(bound, count)


def test_within_the_bound_densification_is_gsplats() -> None:
    options: dict[str, Any] = {"refine_scale2d_stop_iter": 100, "refine_start_iter": 0, "refine_every": 2}
    results = []
    for strategy in (CappedStrategy(**options, cap_max=1000), DefaultStrategy(**options)):
        generator = torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        params, optimizers = random_gaussians(50, generator)
        state = strategy.initialize_state()
        for step in range(5):
            info = step_info(1, len(params["means"]), generator)
            strategy.step_post_backward(params, optimizers, state, step, info)
        results.append(params)
    assert len(results[0]["means"]) > 50
    for name, values in results[1].items():
        torch.testing.assert_close(results[0][name], values, rtol=1e-6, atol=1e-6)


def test_the_largest_on_screen_are_split_when_not_all_may_be() -> None:
    generator = torch.Generator().manual_seed(1)
    strategy = CappedStrategy(cap_max=53, refine_scale2d_stop_iter=100, grow_grad2d=1e9)
    params, optimizers = random_gaussians(50, generator)
    radii = torch.rand(50, generator=generator) + 0.1
    marks = params["means"].detach().clone()
    state = {"grad2d": torch.zeros(50), "count": torch.ones(50), "radii": radii.clone(), "scene_scale": 1.0}
    assert strategy._grow_gs(params, optimizers, state, step=1) == (0, 3)
    split = [int(i) for i in range(50) if not bool((params["means"] == marks[i]).all(1).any())]
    assert split == sorted(radii.topk(3).indices.tolist())
