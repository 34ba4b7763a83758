"""Paired comparisons say better, worse or neither, and mean it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fit3d_finetune.probing.significance import compare

BASE = np.random.default_rng(0).uniform(0.3, 0.8, 40)
NOISE = np.random.default_rng(1).normal(0, 0.01, 40)


def test_a_known_gain_is_significant_and_its_interval_holds_it() -> None:
    found = compare("pixel accuracy", "%", "tuned", BASE + 0.03 + NOISE, "original", BASE)
    assert found.mean_difference == pytest.approx(0.03 + NOISE.mean())
    assert 0 < found.confidence_low < found.mean_difference < found.confidence_high
    assert found.confidence_high - found.confidence_low == pytest.approx(2 * 1.96 * NOISE.std() / 40**0.5, rel=0.15)
    assert found.p_value < 1e-6
    assert found.count == 40
    assert "tuned against original +2" in found.statement or "tuned against original +3" in found.statement
    assert "points" in found.statement
    assert found.statement.endswith("significantly better.")


@pytest.mark.parametrize(
    ("shift", "lower_is_better", "verdict"),
    [(0.03, False, "better"), (-0.03, False, "worse"), (-0.03, True, "better"), (0.03, True, "worse")],
)
def test_the_direction_depends_on_whether_it_is_an_error(shift: float, lower_is_better: bool, verdict: str) -> None:
    found = compare("m", "m", "arm", BASE + shift + NOISE, "original", BASE, lower_is_better)
    assert found.statement.endswith(f"significantly {verdict}.")
    assert np.sign(found.mean_difference) == np.sign(shift)


def test_no_difference_and_mere_noise_are_not_significant() -> None:
    same = compare("RMSE", "m", "arm", BASE, "original", BASE, lower_is_better=True)
    assert same.p_value == 1.0
    assert same.mean_difference == same.confidence_low == same.confidence_high == 0
    assert same.statement.endswith("no significant difference.")
    noise = NOISE - NOISE.mean()
    assert compare("RMSE", "m", "arm", BASE + noise, "original", BASE).statement.endswith("no significant difference.")


def test_two_images_are_too_few_for_a_verdict() -> None:
    assert compare("a", "%", "arm", [0.6, 0.7], "original", [0.1, 0.2]).statement.endswith("no significant difference.")


def test_pairs_with_nan_are_left_out_and_nothing_left_is_said() -> None:
    values = BASE + 0.03 + NOISE
    values[3], base = math.nan, BASE.copy()
    base[5] = math.nan
    assert compare("a", "%", "arm", values, "original", base).count == 38
    nothing = compare("a", "%", "arm", [math.nan], "original", [1.0])
    assert nothing.count == 0
    assert math.isnan(nothing.mean_difference)
    assert "nothing to compare" in nothing.statement


def test_the_same_data_gives_the_same_interval() -> None:
    first, second = (compare("a", "%", "arm", BASE + NOISE, "original", BASE) for _ in range(2))
    assert first == second
