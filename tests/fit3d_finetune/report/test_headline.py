"""The sentence at the top: it says what the figures say, losses included."""

from __future__ import annotations

import dataclasses

import pytest

from fit3d_finetune.probing.comparison import number
from fit3d_finetune.probing.results import Arm
from fit3d_finetune.report.headline import headline, headline_arm, is_control
from fit3d_finetune.report.metrics import best_arms, mean, metrics_of, spread
from tests.fit3d_finetune.report.samples import ARMS, NAN, compared, make_results

BOTH = "original + fine-tuned"


def test_a_gain_in_every_scene_is_said_with_its_figures_by_scene() -> None:
    sentence = headline(make_results())
    assert sentence.startswith(
        f"“{BOTH}” against “original”: better in 2 of 2 scenes for segmentation (mIoU 39.4 → 41.9 %"
    )
    assert "mIoU 39.4 → 41.9 %: +2.4, +2.6 points" in sentence
    assert "RMSE 0.482 → 0.451 m: −0.029, −0.033 m" in sentence
    assert "recall at 30–60°: 29.0 → 36.7 %: +7.7, +7.7 points" in sentence


@pytest.mark.parametrize("scenes", [1, 2, 4])
def test_with_few_scenes_there_is_no_word_of_significance(scenes: int) -> None:
    assert "significan" not in headline(make_results(scenes=scenes))


def test_with_five_scenes_or_more_it_is_the_tests_verdict() -> None:
    sentence = headline(make_results(scenes=6))
    assert sentence.startswith(
        f"“{BOTH}” against “original”: significantly better in segmentation (mIoU 39.4 → 41.9 %, "
    )
    assert "+2.5 points" in sentence
    assert "RMSE 0.482 → 0.451 m, −0.031 m" in sentence


def test_a_loss_is_said_to_be_one() -> None:
    results = make_results()
    worse = dataclasses.replace(
        results.depth[BOTH], squared_error=[[1.3 * error for error in of] for of in results.depth[BOTH].squared_error]
    )
    results = compared(results, depth={**results.depth, BOTH: worse})
    assert "; worse in 2 of 2 scenes for depth estimation (RMSE 0.482 → 0.514 m: +0.0" in headline(results)


def test_verdicts_stand_from_better_to_unclear_each_with_its_tasks() -> None:
    results = make_results(scenes=6)
    verdicts = {"segmentation": 0.2, "depth": 0.001, "nearest_neighbours": 0.5, "consistency": 0.001}
    verdicts |= {"normals": 0.9, "matching": 0.01}
    comparisons = [dataclasses.replace(c, p_holm=verdicts[c.task]) for c in results.comparisons]
    sentence = headline(dataclasses.replace(results, comparisons=comparisons))
    better, unclear = sentence.split("; ")
    assert "significantly better in depth estimation (" in better
    assert ", multi-view consistency (" in better
    assert " and geometric matching (" in better
    assert unclear.startswith("no significant difference in segmentation (")
    assert ", surface normals (" in unclear
    assert " and nearest-neighbour segmentation (" in unclear


def test_a_comparison_with_another_baseline_is_not_in_the_headline() -> None:
    results = make_results()
    others = [dataclasses.replace(c, baseline="2D control") for c in results.comparisons]
    assert "no figure in common" in headline(dataclasses.replace(results, comparisons=others))


def test_a_backbone_beside_itself_is_a_control() -> None:
    assert [arm.name for arm in ARMS if is_control(arm)] == [
        "2D control",
        "original + original",
        "original + 2D control",
    ]


def test_it_is_about_the_widest_arm_that_is_no_control() -> None:
    arm = headline_arm(make_results())
    assert arm is not None
    assert arm.name == BOTH
    assert headline_arm(make_results(arms=[ARMS[0], ARMS[2], ARMS[3], ARMS[5]])) is None


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
