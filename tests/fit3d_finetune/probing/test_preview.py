"""From the times of small probings to that of a large one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fit3d_finetune.probing.data.tasks import TASKS
from fit3d_finetune.probing.preview import STAGES, Work, extrapolated

SECONDS = st.floats(0, 100)


@given(SECONDS, SECONDS, SECONDS, st.integers(0, 2000), st.integers(0, 2000))
def test_what_grows_in_proportion_is_found_exactly(
    fixed: float, a: float, b: float, iterations: int, amount: int
) -> None:
    def takes(work: Work) -> float:
        return fixed + a * work.iterations + b * work.amount

    measured = [Work(5, 2, ""), Work(45, 2, ""), Work(5, 4, "")]
    asked = Work(iterations, amount, "")
    seconds, _ = extrapolated(asked, measured, [takes(work) for work in measured])
    assert seconds == pytest.approx(takes(asked), rel=1e-6, abs=1e-6)


def test_times_that_fall_by_chance_are_no_rates() -> None:
    measured = [Work(5, 2, ""), Work(45, 2, ""), Work(5, 4, "")]
    seconds, _ = extrapolated(Work(1000, 1000, ""), measured, [3.0, 2.0, 1.0])
    assert seconds == 3.0


def test_every_task_has_its_stage() -> None:
    assert set(STAGES) == set(TASKS)
