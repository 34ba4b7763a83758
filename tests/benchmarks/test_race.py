"""Solves against a training: when it ends, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks import lifting
from benchmarks.lifting import Problem, Reached, race


@pytest.fixture
def problem(monkeypatch: pytest.MonkeyPatch) -> Problem:
    """Solves take 1 s at first and 2 s afterwards, to a cosine of 0.8; training gains 0.01 a second."""
    takes = iter([1.0] + [2.0] * 100)
    monkeypatch.setattr(lifting, "solved", lambda *_: Reached(next(takes), 0.8))
    monkeypatch.setattr(lifting, "fit_space", lambda *_: None)

    def training(*_: Any) -> Iterator[Reached]:
        return (Reached(float(second), 0.01 * second, 10 * second) for second in range(1, 1000))

    monkeypatch.setattr(lifting, "training", training)
    return Problem(None, type("Views", (), {"maps": None})(), None)  # type: ignore[arg-type]


def test_a_training_ends_where_it_reaches_the_solves(problem: Problem) -> None:
    solves, trained, equalled = race(problem, repeats=5, budget=100)
    assert equalled
    assert trained == Reached(80.0, pytest.approx(0.8), 800)
    assert [solve.seconds for solve in solves] == [2.0] * 5


def test_a_training_that_falls_short_has_had_its_multiple_of_the_solves_beside_it(problem: Problem) -> None:
    solves, trained, equalled = race(problem, repeats=5, budget=25)
    assert not equalled
    assert trained.seconds == 50.0, "25 times 2 s, not 25 times the first solve's second"
    assert len(solves) == 5
