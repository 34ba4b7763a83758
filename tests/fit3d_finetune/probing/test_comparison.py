"""What a comparison says in words: the test's verdict where there is one, else the differences by scene."""

from __future__ import annotations

from typing import Any

import pytest

from fit3d_finetune.probing.comparison import Comparison, SceneFigures, Verdict, number

NAN = float("nan")


def comparison(differences: list[float], p_holm: float = NAN, **changes: Any) -> Comparison:
    """mIoU from 0.4, changed by so much in each scene."""
    scenes = [SceneFigures(f"room_{i}", 0.4, 0.4 + d, 40) for i, d in enumerate(differences)]
    mean = sum(differences) / len(differences) if differences else NAN
    tested = p_holm == p_holm
    values: dict[str, Any] = {
        **{"task": "segmentation", "metric": "mIoU", "unit": "%", "higher_is_better": True, "arm": "tuned"},
        **{"baseline": "original", "before": 0.4, "after": 0.4 + mean, "difference": mean, "scenes": scenes},
        **{"confidence_low": mean - 0.01 if tested else NAN, "confidence_high": mean + 0.01 if tested else NAN},
        **{"p_value": p_holm / 4, "p_holm": p_holm, "seeds": 3},
    }
    return Comparison(**{**values, **changes})


FIVE = [0.01, 0.02, 0.03, 0.02, 0.02]


@pytest.mark.parametrize(
    ("differences", "p_holm", "higher_is_better", "verdict", "words"),
    [
        (FIVE, 0.01, True, "better", "significantly better"),
        (FIVE, 0.01, False, "worse", "significantly worse"),
        ([-d for d in FIVE], 0.01, False, "better", "significantly better"),
        (FIVE, 0.05, True, "unclear", "no significant difference"),
        ([0.0] * 5, 1.0, True, "unclear", "no significant difference"),
        ([0.012, 0.034], NAN, True, "better-everywhere", "better in 2 of 2 scenes"),
        ([0.012, 0.034], NAN, False, "worse-everywhere", "worse in 2 of 2 scenes"),
        ([0.012, -0.034, 0.0], NAN, True, "mixed", "better in 1 of 3 scenes"),
        ([-0.012, 0.0], NAN, True, "mixed", "worse in 1 of 2 scenes"),
        ([0.0, 0.0], NAN, True, "equal", "equal in 2 of 2 scenes"),
        ([0.012], NAN, True, "better-everywhere", "better in 1 of 1 scene"),
        ([], NAN, True, "untested", "nothing to compare"),
    ],
)
def test_the_verdict_is_the_tests_or_that_of_the_scenes(
    differences: list[float], p_holm: float, higher_is_better: bool, verdict: Verdict, words: str
) -> None:
    found = comparison(differences, p_holm, higher_is_better=higher_is_better)
    assert (found.verdict, found.words) == (verdict, words)
    assert words in found.statement
    if not found.tested:
        assert "significan" not in found.statement


def test_it_is_the_corrected_p_value_that_decides() -> None:
    assert comparison(FIVE, 0.06, p_value=0.01).verdict == "unclear"


def test_a_statement_without_a_test_names_every_scene() -> None:
    assert comparison([0.012, 0.034]).statement == (
        "mIoU: tuned against original better in 2 of 2 scenes: room_0 +1.2, room_1 +3.4 points "
        "(40.0 → 42.3 %; 80 images, 3 seeds)."
    )


def test_a_statement_of_a_test_has_its_interval_and_both_p_values() -> None:
    assert comparison(FIVE, 0.04).statement == (
        "mIoU: tuned against original +2.0 points (40.0 → 42.0 %; 95 % interval +1.0 to +3.0, p = 0.010, "
        "0.040 after Holm; 5 scenes, 200 images, 3 seeds): significantly better."
    )


def test_lengths_are_in_metres_and_angles_are_no_figures() -> None:
    found = comparison([-0.031], unit="m", metric="RMSE", higher_is_better=False)
    assert "room_0 −0.031 m (0.400 → 0.369 m;" in found.statement
    found = comparison([0.05], metric="recall at 30–60°", task="consistency", seeds=0)
    assert found.figures == "recall at 30–60°: 40.0 → 45.0 %"
    assert found.statement.endswith("(40.0 → 45.0 %; 40 pairs of views).")


def test_numbers_have_true_minus_signs_and_no_negative_zero() -> None:
    assert number(-0.25, 2, signed=True) == "−0.25"
    assert number(0.25, 2, signed=True) == "+0.25"
    assert number(-0.0001, 2, signed=True) == "0.00"
    assert number(NAN, 2) == "–"
