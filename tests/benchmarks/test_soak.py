"""What the soak and the table of reactions say of what was measured."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.soak import Result, Run
from benchmarks.viewer import Reaction, Row, page


def _run(samples: list[tuple[float, int, int]]) -> Run:
    trainer: Any = SimpleNamespace()
    run = Run(trainer)
    run.samples = samples
    return run


def test_the_longest_pause_is_the_longest_time_without_a_step() -> None:
    assert _run([(0, 1, 0), (1, 2, 0), (2, 2, 0), (5, 2, 0), (6, 3, 0), (7, 4, 0)]).longest_pause() == 5
    # A training that stops for good has paused until the end.
    assert _run([(0, 1, 0), (1, 2, 0), (9, 2, 0)]).longest_pause() == 8


def test_growth_is_measured_from_where_memory_has_settled() -> None:
    samples = [(float(second), second, 50 + 50 * (second >= 60) + (second >= 290) * 10) for second in range(300)]
    assert _run(samples).growth(120) == pytest.approx(0.1)
    assert _run(samples).growth(0) == pytest.approx(1.2)


def _result(**changes: Any) -> Result:
    log = {"unanswered": [], "answers": {"move": [0.2, 0.3]}, "vanished": 2, "pictures": 9}
    return Result(**{"alone": [(10, 15), (20, 30)], "watched": [(11, 15), (23, 30)], "log": log, **changes})


def test_a_soak_fails_for_each_thing_that_is_wrong_and_for_no_other() -> None:
    assert _result().failures() == []
    assert len(_result(pause=1000.0).failures()) == 1
    assert len(_result(growth=0.5).failures()) == 1
    assert len(_result(watched=[(13, 15), (26, 30)]).failures()) == 1
    assert len(_result(log={"unanswered": ["pick: nothing came", "k: nothing came"]}).failures()) == 2


def test_turns_are_compared_with_their_own_time_without_clients() -> None:
    # The second turn has more Gaussians: what counts is 1.1 and 1.15 times.
    assert _result().slowdown(_result().watched) == pytest.approx(1.125)
    assert _result().slowdown(_result().watched, 1) == 1
    assert any("and 1.00 times" in line for line in _result().table())


def test_the_table_tells_first_reactions_from_later_ones() -> None:
    rows = [Row("opens", [Reaction(1, 2)]), Row("k", [Reaction(3, 4), Reaction(0.1, 0.2), Reaction(0.3, 0.4)])]
    lines = page(rows, "about", 0.05).splitlines()
    assert "| opens | 1.00 | 2.00 |  |  |" in lines
    assert "| k | 3.00 | 4.00 | 0.20 | 0.30 |" in lines
    assert any("50 ms" in line for line in lines)
