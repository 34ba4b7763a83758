"""Robust deviations: the odd ones stand out and do not move the measure."""

from __future__ import annotations

import numpy as np
import pytest

from fit3d_ns.judgement.statistics import deviations


def test_of_normal_values_they_are_standard_scores() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 20_000)
    np.testing.assert_allclose(deviations(values, 0.0), (values - 3) / 2, atol=0.2)


@pytest.mark.parametrize("odd", [1e2, 1e6])
def test_an_odd_value_leaves_the_others_where_they_are(odd: float) -> None:
    values = np.linspace(1, 2, 31)
    found = deviations(np.append(values, odd), 0.0)
    assert np.abs(found[:-1]).max() < 1.5
    assert found[-1] > 100


def test_among_equal_values_a_small_difference_is_none() -> None:
    values = np.append(np.full(30, 0.2), 0.21)
    assert deviations(values, 0.05).max() == pytest.approx(0.2)


def test_what_is_not_known_stays_unknown_and_out_of_the_median() -> None:
    found = deviations(np.array([1.0, np.nan, 2.0, 3.0]), 1.0)
    assert np.isnan(found[1])
    assert found[2] == 0
    assert np.isnan(deviations(np.array([np.nan]), 1.0)).all()
