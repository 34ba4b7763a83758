"""MCMC densification on the CPU: its two formulas against loops, and its steps on a small scene."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from gsplat.strategy import MCMCStrategy
from gsplat.strategy import ops as gsplat_ops
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fit3d_ns.method import mcmc
from fit3d_ns.method.mcmc import PortableMCMCStrategy, compute_relocation, opacity_and_scale_penalty

BINOMS = MCMCStrategy().initialize_state()["binoms"]
N_MAX = len(BINOMS)


def relocation_loop(old: float, scale: float, n: int) -> tuple[float, float]:
    """Equation 9 of arXiv 2404.09591 for one Gaussian, as the two nested sums are printed."""
    new = 1 - (1 - old) ** (1 / n)
    denominator = 0.0
    for i in range(1, n + 1):
        for k in range(i):
            denominator += math.comb(i - 1, k) * (-1) ** k / math.sqrt(k + 1) * new ** (k + 1)
    return new, old / denominator * scale


def relocate_one(old: float, n: int) -> tuple[float, float]:
    opacities, scales = compute_relocation(torch.tensor([old]), torch.ones(1, 3), torch.tensor([n]), BINOMS)
    assert scales.unique().numel() == 1
    return float(opacities), float(scales[0, 0])


# ---- relocation


@settings(max_examples=200, deadline=None)
@given(old=st.floats(0.005, 0.9999), n=st.integers(1, N_MAX))
def test_relocation_equals_the_nested_sums(old: float, n: int) -> None:
    assert relocate_one(old, n) == pytest.approx(relocation_loop(float(np.float32(old)), 1.0, n), rel=1e-5)


def test_each_gaussian_of_a_batch_gets_its_own_ratio_and_keeps_its_shape() -> None:
    opacities, scales = 0.01 + 0.98 * torch.rand(200), torch.rand(200, 3)
    ratios = torch.randint(1, N_MAX + 1, (200,))
    new_opacities, new_scales = compute_relocation(opacities, scales, ratios, BINOMS)
    for i in range(200):
        opacity, factor = relocation_loop(float(opacities[i]), 1.0, int(ratios[i]))
        assert float(new_opacities[i]) == pytest.approx(opacity, rel=1e-5)
        np.testing.assert_allclose(new_scales[i], factor * scales[i], rtol=1e-5)


@settings(max_examples=100, deadline=None)
@given(old=st.floats(0.005, 0.999), n=st.integers(1, N_MAX))
def test_n_copies_together_are_as_opaque_as_the_one_they_replace(old: float, n: int) -> None:
    new, _ = relocate_one(old, n)
    assert (1 - new) ** n == pytest.approx(1 - old, rel=1e-4, abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(old=st.floats(0.005, 0.999), n=st.integers(2, N_MAX))
def test_copies_are_fainter_and_no_larger(old: float, n: int) -> None:
    new, scale = relocate_one(old, n)
    assert 0 < new < old
    assert 0 < scale <= 1


def test_one_copy_is_the_gaussian_itself() -> None:
    opacities, scales = 0.01 + 0.98 * torch.rand(50), torch.rand(50, 3)
    new_opacities, new_scales = compute_relocation(opacities, scales, torch.ones(50, dtype=torch.long), BINOMS)
    torch.testing.assert_close(new_opacities, opacities)
    torch.testing.assert_close(new_scales, scales)


@pytest.mark.parametrize("n", [2, 20, 30, 40, N_MAX])
def test_a_wholly_opaque_gaussian_stays_finite_and_positive(n: int) -> None:
    new, scale = relocate_one(1.0, n)
    assert 0 < new <= 1
    assert 0.4 < scale <= 1


def test_ratios_beyond_the_table_count_as_its_end() -> None:
    assert relocate_one(0.7, 10 * N_MAX) == relocate_one(0.7, N_MAX)
    assert relocate_one(0.7, 0) == relocate_one(0.7, 1)


def test_opacities_may_be_a_column_as_in_nerfstudio() -> None:
    opacities, scales, ratios = torch.rand(20), torch.rand(20, 3), torch.randint(1, 9, (20,))
    flat = compute_relocation(opacities, scales, ratios, BINOMS)
    column = compute_relocation(opacities[:, None], scales, ratios, BINOMS)
    assert column[0].shape == (20, 1)
    torch.testing.assert_close(column[0][:, 0], flat[0])
    torch.testing.assert_close(column[1], flat[1])


@pytest.mark.gpu
def test_relocation_equals_gsplats_cuda_kernel() -> None:
    from gsplat.relocation import compute_relocation as reference

    opacities, scales = 0.01 + 0.98 * torch.rand(500).cuda(), torch.rand(500, 3).cuda()
    ratios = torch.randint(1, 12, (500,)).cuda()
    actual = compute_relocation(opacities, scales, ratios, BINOMS.cuda())
    expected = reference(opacities, scales, ratios.clone(), BINOMS.cuda())
    torch.testing.assert_close(actual[0], expected[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(actual[1], expected[1], rtol=1e-3, atol=1e-5)


# ---- covariances


def test_covariances_are_rotated_squared_scales() -> None:
    quats, scales = 3 * torch.randn(40, 4), torch.rand(40, 3)
    covariances, nothing = mcmc._covariances(quats, scales, compute_covar=True, compute_preci=False, triu=False)
    assert nothing is None
    for quat, scale, covariance in zip(quats.double().numpy(), scales.double().numpy(), covariances, strict=True):
        w, x, y, z = quat / np.linalg.norm(quat)
        R = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
            ]
        )
        S = np.diag(scale)
        np.testing.assert_allclose(covariance, R @ S @ S.T @ R.T, rtol=1e-4, atol=1e-6)


# ---- steps


def small_scene(n: int = 100, dead: int = 0) -> tuple[nn.ParameterDict, dict[str, torch.optim.Optimizer]]:
    """`n` Gaussians with one extra entry, the first `dead` of them transparent; Adam has taken one step.

    `means` and `features` hold the number of the Gaussian, so that copies can be told from each other.
    """
    number = torch.arange(n, dtype=torch.float32)[:, None]
    opacities = torch.logit(0.2 + 0.7 * torch.rand(n, 1))
    opacities[:dead] = -9.0
    params = nn.ParameterDict(
        {
            "means": nn.Parameter(number.repeat(1, 3)),
            "quats": nn.Parameter(torch.randn(n, 4)),
            "scales": nn.Parameter(torch.log(0.01 + 0.1 * torch.rand(n, 3))),
            "opacities": nn.Parameter(opacities),
            "features": nn.Parameter(number.repeat(1, 5)),
        }
    )
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.Adam([value], lr=0.0) for name, value in params.items()
    }
    for name, value in params.items():
        value.grad = torch.ones_like(value)
        optimizers[name].step()
    return params, optimizers


def strategy_of(noise_lr: float = 0.0, cap_max: int = 130) -> PortableMCMCStrategy:
    return PortableMCMCStrategy(
        cap_max=cap_max, noise_lr=noise_lr, refine_start_iter=0, refine_stop_iter=1000, refine_every=10
    )


def take_steps(
    strategy: PortableMCMCStrategy, params: Any, optimizers: Any, steps: range | tuple[int, ...], lr: float = 1e-3
) -> None:
    state = strategy.initialize_state()
    for step in steps:
        strategy.step_pre_backward(params, optimizers, state, step, {})
        strategy.step_post_backward(params, optimizers, state, step, {}, lr=lr)


def rows(params: Any) -> Tensor:
    """For each Gaussian the number of the one it descends from, by its extra entry."""
    return params["features"].detach()[:, 0].long()


def test_the_number_of_gaussians_grows_by_a_twentieth_up_to_the_cap() -> None:
    params, optimizers = small_scene(100)
    strategy = strategy_of(cap_max=130)
    numbers = []
    for step in range(10, 80, 10):
        take_steps(strategy, params, optimizers, (step,))
        numbers.append(len(params["means"]))
    assert numbers == [105, 110, 115, 120, 126, 130, 130]
    assert {name: len(value) for name, value in params.items()} == dict.fromkeys(params.keys(), 130)


def test_between_refinements_and_after_them_the_number_stays() -> None:
    params, optimizers = small_scene(100)
    take_steps(strategy_of(), params, optimizers, (0, 1, 9, 11, 1000, 1010))
    assert len(params["means"]) == 100


def test_new_gaussians_carry_every_entry_of_the_one_they_copy() -> None:
    params, optimizers = small_scene(300)
    before = {name: value.detach().clone() for name, value in params.items()}
    take_steps(strategy_of(cap_max=1000), params, optimizers, (10,))
    parents = rows(params)
    assert len(parents) == 315
    assert bool((parents[:300] == torch.arange(300)).all())
    assert bool((params["features"] == before["features"][parents]).all())
    for name in ("means", "quats"):
        torch.testing.assert_close(params[name].detach(), before[name][parents])
    for values in (params["opacities"], params["scales"]):  # changed, but the same for all copies of one
        for parent in parents[300:].unique():
            copies = values.detach()[parents == parent]
            torch.testing.assert_close(copies, copies[:1].expand_as(copies), rtol=1e-4, atol=1e-4)
    alone = torch.bincount(parents, minlength=300)[parents] == 1
    torch.testing.assert_close(params["scales"].detach()[alone], before["scales"][parents][alone])


def test_optimisers_follow_the_gaussians() -> None:
    params, optimizers = small_scene(100, dead=10)
    take_steps(strategy_of(), params, optimizers, (10,))
    for name, optimizer in optimizers.items():
        (group,) = optimizer.param_groups
        assert group["params"][0] is params[name]
        moments = optimizer.state[params[name]]
        assert moments["exp_avg"].shape == moments["exp_avg_sq"].shape == params[name].shape
        assert bool((moments["exp_avg"][100:] == 0).all())
        params[name].grad = torch.ones_like(params[name])
        optimizer.step()


def test_dead_gaussians_move_onto_living_ones() -> None:
    params, optimizers = small_scene(100, dead=10)
    take_steps(strategy_of(cap_max=100), params, optimizers, (10,))
    parents = rows(params)
    assert len(parents) == 100
    assert bool((parents >= 10).all())
    assert bool((parents[10:] == torch.arange(10, 100)).all())
    torch.testing.assert_close(params["means"].detach()[:, 0].round().long(), parents)
    assert float(torch.sigmoid(params["opacities"]).min().detach()) > 0.005


def test_noise_moves_faint_gaussians_along_their_axes_and_leaves_opaque_ones() -> None:
    params, optimizers = small_scene(100)
    with torch.no_grad():
        params["opacities"][:50] = torch.logit(torch.tensor(0.001))
        params["opacities"][50:] = torch.logit(torch.tensor(0.9))
        params["quats"][:] = torch.tensor([2.0, 0.0, 0.0, 0.0])
        params["scales"][:] = torch.log(torch.tensor([0.3, 1e-4, 1e-4]))
    before = params["means"].detach().clone()
    take_steps(strategy_of(noise_lr=100.0), params, optimizers, (1,), lr=1e-2)
    moved = (params["means"].detach() - before).abs()
    assert float(moved[:50, 0].mean()) > 1e-3
    assert float(moved[:50, 1:].max()) < 1e-4
    assert float(moved[50:].max()) < 1e-4


def test_all_values_stay_finite_over_many_refinements() -> None:
    params, optimizers = small_scene(60, dead=20)
    with torch.no_grad():
        params["opacities"][20:23] = 30.0  # a sigmoid of exactly one
        params["opacities"][23:] = -4.0
    take_steps(strategy_of(noise_lr=10.0, cap_max=400), params, optimizers, range(10, 500, 10))
    assert len(params["means"]) == 400
    assert all(bool(value.isfinite().all()) for value in params.values())


def module_functions() -> tuple[Any, Any]:
    return gsplat_ops.compute_relocation, gsplat_ops.quat_scale_to_covar_preci


def test_gsplats_own_functions_are_back_after_a_step() -> None:
    before = module_functions()
    take_steps(strategy_of(), *small_scene(50), (10,))
    assert module_functions() == before


def test_gsplats_own_functions_are_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    before, during = module_functions(), []

    def fail(*_: object, **__: object) -> None:
        during.append(module_functions())
        raise RuntimeError("out of memory")

    monkeypatch.setattr(MCMCStrategy, "step_post_backward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        take_steps(strategy_of(), *small_scene(50), (10,))
    assert during == [(compute_relocation, mcmc._covariances)]
    assert module_functions() == before


# ---- penalty


def test_the_penalty_is_the_mean_opacity_and_the_mean_scale() -> None:
    opacities, scales = torch.rand(30, 1), torch.rand(30, 3)
    penalty = opacity_and_scale_penalty(torch.logit(opacities), torch.log(scales), 0.01, 0.5)
    assert float(penalty) == pytest.approx(0.01 * float(opacities.mean()) + 0.5 * float(scales.mean()), rel=1e-4)
    assert float(opacity_and_scale_penalty(torch.logit(opacities), torch.log(scales), 0.0, 0.0)) == 0
