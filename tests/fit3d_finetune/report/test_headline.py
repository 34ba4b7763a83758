"""The sentence at the top: it says what the figures say, losses included."""

from __future__ import annotations

import dataclasses

import pytest

from fit3d_finetune.probing.results import Arm, Comparison
from fit3d_finetune.report.headline import find_changes, headline, headline_arm
from fit3d_finetune.report.metrics import best_arms, mean, metrics_of, number, spread
from tests.fit3d_finetune.report.samples import ARMS, NAN, make_results

BOTH = "original + fine-tuned"


def compared(metric: str, difference: float, low: float, high: float, p_value: float) -> Comparison:
    return Comparison(metric, BOTH, "original", difference, low, high, p_value, 80, "")


def test_a_gain_is_said_with_its_figures() -> None:
    sentence = headline(make_results())
    assert sentence.startswith(f"“{BOTH}” against “original”: significantly better in segmentation")
    assert "mIoU 39.4 → 41.9 %, +2.5 points" in sentence
    assert "RMSE 0.482 → 0.451 m, −6.4 %" in sentence


def test_a_loss_is_said_to_be_one() -> None:
    results = make_results(comparisons=[compared("RMSE", 0.05, 0.03, 0.07, 1e-4)])
    results = dataclasses.replace(
        results, depth={**results.depth, BOTH: dataclasses.replace(results.depth[BOTH], rmse=[0.532] * 3)}
    )
    assert "significantly worse in depth estimation (RMSE 0.482 → 0.532 m, +10.4 %)" in headline(results)


@pytest.mark.parametrize(("low", "high", "p_value"), [(-0.01, 0.03, 0.01), (0.01, 0.03, 0.2), (0.01, 0.03, NAN)])
def test_a_difference_that_fails_a_test_is_none(low: float, high: float, p_value: float) -> None:
    sentence = headline(make_results(comparisons=[compared("pixel accuracy", 0.02, low, high, p_value)]))
    assert "no significant difference in segmentation" in sentence
    assert "significantly better" not in sentence


def test_a_test_that_contradicts_the_figure_is_called_mixed() -> None:
    sentence = headline(make_results(comparisons=[compared("pixel accuracy", -0.02, -0.03, -0.01, 1e-4)]))
    assert "a mixed result in segmentation (mIoU 39.4 → 41.9 %" in sentence


def test_without_tests_nothing_is_called_significant() -> None:
    sentence = headline(make_results(comparisons=[]))
    assert "not tested for significance in segmentation" in sentence
    assert "significantly" not in sentence


def test_each_test_is_counted_for_its_own_task() -> None:
    results = make_results(
        comparisons=[
            compared("nearest-neighbour accuracy", 0.02, 0.01, 0.03, 1e-4),
            compared("correspondence recall", 0.02, -0.01, 0.05, 0.3),
        ]
    )
    verdicts = {finding.task: finding.verdict for finding in find_changes(results, ARMS[2])}
    assert verdicts == {
        "segmentation": "untested",
        "depth": "untested",
        "nearest_neighbours": "better",
        "consistency": "unclear",
    }


def test_it_is_about_the_widest_arm_that_is_no_control() -> None:
    arm = headline_arm(make_results())
    assert arm is not None
    assert arm.name == BOTH
    assert headline_arm(make_results(arms=[ARMS[0], ARMS[3], ARMS[4]])) is None


def test_a_single_arm_is_compared_with_nothing() -> None:
    sentence = headline(make_results(arms=[Arm("original", ("original",))]))
    assert "nothing to compare" in sentence
    assert "mIoU 39.4" in sentence


def test_an_arm_without_figures_in_common_says_so() -> None:
    empty = make_results(segmentation={}, depth={}, nearest_neighbours={}, consistency={}, comparisons=[])
    assert "no figure in common" in headline(empty)


def test_mean_and_spread_leave_nan_out() -> None:
    assert mean([1.0, NAN, 3.0]) == 2.0
    assert spread([1.0, NAN, 3.0]) == pytest.approx(2**0.5)
    assert number(mean([NAN]), 2) == number(spread([1.0]), 2) == "–"


def test_numbers_have_true_minus_signs_and_no_negative_zero() -> None:
    assert number(-0.25, 2, signed=True) == "−0.25"
    assert number(0.25, 2, signed=True) == "+0.25"
    assert number(-0.0001, 2, signed=True) == "0.00"


def test_the_best_arm_is_the_highest_of_a_score_and_the_lowest_of_an_error() -> None:
    results = make_results()
    best = {(metric.part, metric.name): best_arms(results, metric) for metric in metrics_of(results)}
    assert best["segmentation", "mIoU"] == {"fine-tuned"}
    assert best["depth", "RMSE"] == {BOTH}
    assert best["nearest_neighbours", "pixel acc."] == {arm.name for arm in ARMS}


def test_nan_is_never_the_best() -> None:
    results = make_results()
    spoiled = dataclasses.replace(results.segmentation["fine-tuned"], miou=[NAN] * 3)
    results = dataclasses.replace(results, segmentation={**results.segmentation, "fine-tuned": spoiled})
    metric = metrics_of(results)[0]
    assert best_arms(results, metric) == {BOTH}
