"""Rates and momentum at the places where the published schedules are known."""

from __future__ import annotations

import pytest
import torch

from fit3d_finetune.probing.paper.schedules import depth_momentum, depth_rate, segmentation_rate, set_rate


def test_segmentation_warms_up_within_a_straight_line_to_zero() -> None:
    rates = [segmentation_rate(step, 40_000, 1_500, 1e-3) for step in range(40_000)]
    assert rates[0] == pytest.approx(1e-9)
    assert rates[750] == pytest.approx(1e-3 * (1 - 750 / 40_000) / 2, rel=1e-4)
    assert rates[1_500] == pytest.approx(1e-3 * (1 - 1_500 / 40_000))
    assert rates[20_000] == pytest.approx(5e-4)
    assert rates[-1] == pytest.approx(1e-3 / 40_000)


def test_depth_warms_up_for_a_third_within_half_a_cosine() -> None:
    rates = [depth_rate(step, 38_400, 12_800, 1e-4) for step in range(38_400)]
    assert rates[0] == pytest.approx(1e-7)
    assert rates[12_800] == pytest.approx(0.75e-4), "cos(pi / 3) is a half"
    assert rates[19_200] == pytest.approx(0.5e-4)
    assert rates[25_600] == pytest.approx(0.25e-4)
    assert rates[-1] < 1e-10
    assert max(rates) == pytest.approx(max(rates[10_000:13_000])), "the peak comes at the end of the warm-up"


def test_momentum_falls_and_rises_once_while_depth_is_trained() -> None:
    momenta = [depth_momentum(step, 1_000) for step in range(1_000)]
    assert (momenta[0], momenta[299], momenta[999]) == pytest.approx((0.95, 0.85, 0.95))
    assert momenta[:300] == sorted(momenta[:300], reverse=True)
    assert momenta[299:] == sorted(momenta[299:])


@pytest.mark.parametrize("iterations", [1, 2, 3, 4, 7])
def test_short_trainings_have_schedules_too(iterations: int) -> None:
    for step in range(iterations):
        assert 0.85 <= depth_momentum(step, iterations) <= 0.95
        assert 0 < depth_rate(step, iterations, iterations // 3, 1e-4) <= 1e-4
        assert 0 < segmentation_rate(step, iterations, iterations // 10, 1e-3) <= 1e-3


def test_an_optimiser_takes_both_and_keeps_its_second_momentum() -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    set_rate(optimizer, 0.25, 0.9)
    [group] = optimizer.param_groups
    assert (group["lr"], group["betas"]) == (0.25, (0.9, 0.999))
    set_rate(optimizer, 0.5)
    assert (group["lr"], group["betas"]) == (0.5, (0.9, 0.999))
