"""Figures, ratios, aims and fitted exponents of python -m benchmarks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.rows import Aim, Row, milliseconds
from benchmarks.timing import Spread, alternately, compare, fitted_exponent, product_floor

positive = st.floats(1e-3, 1e6)


@given(ours=positive, reference=positive)
def test_a_ratio_is_ours_over_the_reference(ours: float, reference: float) -> None:
    row = Row("a", "ms", ours, reference)
    assert row.ratio == ours / reference
    assert row.ratio_of_minima is None
    assert row.met is None


@pytest.mark.parametrize(
    ("aim", "met"),
    [
        (Aim("ratio", "at most", 0.5), True),
        (Aim("ratio", "at most", 0.49), False),
        (Aim("ratio", "at least", 0.5), True),
        (Aim("ratio", "at least", 0.51), False),
        (Aim("ours", "at most", 3.0), True),
        (Aim("ours", "at most", 2.9), False),
        (Aim("ours", "at least", 3.1), False),
    ],
)
def test_an_aim_bounds_our_figure_or_its_ratio(aim: Aim, met: bool) -> None:
    assert Row("a", "s", 3.0, 6.0, aim=aim).met is met


def test_an_aim_on_a_ratio_without_reference_is_neither_met_nor_missed() -> None:
    assert Row("a", "s", 3.0, aim=Aim("ratio", "at most", 1.0)).met is None


def test_timings_become_milliseconds_with_both_ratios() -> None:
    row = milliseconds("a", Spread(0.002, 0.001), Spread(0.008, 0.005), "twin")
    assert (row.unit, row.ours, row.ours_least, row.reference, row.reference_least) == ("ms", 2, 1, 8, 5)
    assert row.ratio == pytest.approx(1 / 4)
    assert row.ratio_of_minima == pytest.approx(1 / 5)
    assert milliseconds("a", Spread(0.002, 0.001)).ratio is None


def test_functions_run_in_turn_and_the_first_rounds_do_not_count() -> None:
    calls: list[str] = []

    def function(name: str) -> int:
        calls.append(name)
        return len(calls)

    columns = alternately([lambda: function("a"), lambda: function("b")], repeats=2, warmup=1)
    assert calls == ["a", "b"] * 3
    assert columns == [[3, 5], [4, 6]]


def test_each_function_is_timed_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    takes = iter([9.0, 9.0, 1.0, 5.0, 3.0, 4.0, 2.0, 6.0])

    def work() -> None:
        clock[0] += next(takes)

    assert compare([work, work], repeats=3) == [Spread(2.0, 1.0), Spread(5.0, 4.0)]


@given(power=st.floats(-3, 3), factor=st.floats(1e-3, 1e3), count=st.integers(2, 8))
def test_exact_powers_are_fitted_exactly(power: float, factor: float, count: int) -> None:
    points = [(10.0 * 2**i, factor * (10.0 * 2**i) ** power) for i in range(count)]
    assert math.isclose(fitted_exponent(points), power, abs_tol=1e-9)


def test_a_fit_is_the_least_squares_line_of_the_logarithms() -> None:
    random = np.random.default_rng(0)
    x = np.array([1.0, 2.0, 5.0, 10.0])
    y = x**1.3 * np.exp(0.1 * random.normal(size=4))
    u, v = np.log(x) - np.log(x).mean(), np.log(y) - np.log(y).mean()
    assert fitted_exponent(list(zip(x, y, strict=True))) == pytest.approx((u * v).sum() / (u * u).sum())


def test_every_library_computes_the_same_product_scaled_to_the_operations_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results: list[np.ndarray] = []

    def one_second(function: Callable[[], Any], device: str = "cpu") -> float:
        result = np.array(function())
        results.append(result if result.shape[1] == 64 else result.T)
        return 1.0

    monkeypatch.setattr("benchmarks.timing.seconds", one_second)
    for operations in (2.0 * 256 * 64 * 10, 2.0 * 256 * 64 * 10.5):
        results.clear()
        for floor in product_floor(operations, 64, threads=1):
            assert floor() == pytest.approx(operations / (2.0 * 256 * 64 * 10))
        assert len(results) == 2
        assert results[0].shape == (10, 64)
        np.testing.assert_allclose(*results, rtol=1e-5)
