"""The folds of a cross-validation as one table over all scenes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from fit3d_finetune.probing.cross_validation import folds_of, pool
from fit3d_finetune.probing.results import Arm, ProbeResults
from fit3d_finetune.probing.significance import compare_arms, holm
from fit3d_finetune.probing.tables import comparison_table, scene_table
from fit3d_ns.common.errors import InputError
from tests.fit3d_finetune.probing.tables import FRAMES, table


def folds(gain: float = 0.03, count: int = 5, **noise: float) -> list[ProbeResults]:
    """Two rooms each."""
    random = np.random.default_rng(0)
    return [table(random, 2, gain, names=f"fold{index}", **noise) for index in range(count)]


def test_every_scene_of_every_fold_is_in_the_table_once_with_its_own_figures() -> None:
    runs = folds(of_rooms=0.01)
    comparisons = pool(runs)
    assert [(c.arm, c.task) for c in comparisons] == [
        (arm, task) for arm in ("one", "two") for task in ("segmentation", "depth", "consistency")
    ]
    for comparison in comparisons:
        assert [scene.scene for scene in comparison.scenes] == [name for run in runs for name in run.scenes]
        assert comparison.frames == 10 * FRAMES
        alone = [
            scene
            for run in runs
            for other in compare_arms([[run]])
            if (other.arm, other.task) == (comparison.arm, comparison.task)
            for scene in other.scenes
        ]
        assert comparison.scenes == alone
        assert comparison.difference == pytest.approx(np.mean([scene.difference for scene in alone]))
        assert comparison.tested


def test_ten_rooms_find_what_two_cannot() -> None:
    runs = folds(of_rooms=0.008, of_frames=0.02)
    assert not any(comparison.tested for comparison in pool(runs[:1]))
    assert {comparison.verdict for comparison in pool(runs)} == {"better", "worse"}


def test_only_the_named_pairs_are_compared_and_corrected_for() -> None:
    runs = folds(of_rooms=0.02)
    alone = pool(runs, [("one", "two")])
    assert {(c.arm, c.baseline) for c in alone} == {("one", "two")}
    both = pool(runs, [("one", "original"), ("one", "two")])
    assert [c.p_value for c in both[3:]] == [c.p_value for c in alone]
    assert [c.p_holm for c in both] == holm(np.array([c.p_value for c in both])).tolist()
    assert [c.p_holm for c in alone] == holm(np.array([c.p_value for c in alone])).tolist()
    with pytest.raises(InputError, match="no arm “three” to compare; there are original, one, two"):
        pool(runs, [("three", "one")])


def test_a_second_seed_of_fine_tuning_is_averaged_and_its_spread_widens_the_interval() -> None:
    runs = folds(of_rooms=0.01)

    def again(run: ProbeResults, luck: float) -> ProbeResults:
        """The same rooms after another fine-tuning, which changed arm "one" by `luck` everywhere."""
        counts = run.segmentation["one"].counts
        more = (counts.intersections + luck * counts.unions).astype(np.int64)
        changed = dataclasses.replace(run.segmentation["one"], counts=dataclasses.replace(counts, intersections=more))
        return dataclasses.replace(run, segmentation={**run.segmentation, "one": changed})

    def of(results: list[ProbeResults], arm: str = "one") -> Any:
        return next(c for c in pool(results) if (c.arm, c.task) == (arm, "segmentation"))

    once = of(runs)
    same = of([*runs, again(runs[0], 0.0), again(runs[1], 0.0)])
    lucky = of([*runs, again(runs[0], 0.05), again(runs[1], -0.05)])
    assert len(folds_of([*runs, again(runs[0], 0.05)])) == 5
    assert [scene.scene for scene in lucky.scenes] == [scene.scene for scene in once.scenes]
    assert lucky.scenes[0].difference == pytest.approx(once.scenes[0].difference + 0.025, abs=1e-4)
    assert lucky.scenes[9].difference == once.scenes[9].difference
    widths = [c.confidence_high - c.confidence_low for c in (once, same, lucky)]
    assert widths[1] == pytest.approx(widths[0], rel=0.1)
    # Two runs of 0.05 apart: a standard deviation of 0.035 in each of five folds.
    assert widths[2] > 1.5 * widths[0]


def test_runs_that_do_not_fit_together_are_refused() -> None:
    runs = folds(count=2)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"seeds": [7, 8, 9]}, "has other seeds than the one tested on fold0_0, fold0_1"),
        ({"arms": [Arm("original", ("original",))]}, "has other arms"),
        ({"classes": ["a", "c"]}, "has other classes"),
        ({"depth": {}}, "has other tasks"),
        ({"protocol": "paper"}, "has other protocol"),
        ({"scenes": ["fold0_1", "fold1_1"]}, "fold0_1 is tested on in two folds"),
        ({"scenes": runs[0].scenes, "test_images": ["other"]}, "differ in their images"),
    ]
    for changes, sentence in cases:
        with pytest.raises(InputError, match=sentence):
            pool([runs[0], dataclasses.replace(runs[1], **changes)])
    with pytest.raises(InputError, match="no probing run to pool"):
        pool([])


def test_the_tables_have_a_row_for_each_comparison_and_each_scene_of_it() -> None:
    comparisons = pool(folds(of_rooms=0.01))
    head, *rows = scene_table(comparisons)
    assert len(rows) == 6 * 10
    for row, (comparison, scene) in zip(rows, [(c, s) for c in comparisons for s in c.scenes], strict=True):
        found = dict(zip(head, row, strict=True))
        assert (found["arm"], found["metric"], found["scene"]) == (comparison.arm, comparison.metric, scene.scene)
        assert found["difference"] == pytest.approx(found["after"] - found["before"])
    head, *rows = comparison_table(comparisons)
    assert [dict(zip(head, row, strict=True))["p_holm"] for row in rows] == [c.p_holm for c in comparisons]
    head, *rows = comparison_table(pool(folds(count=1)))
    for row in rows:
        assert dict(zip(head, row, strict=True))["p_holm"] == ""
        assert not any("significan" in str(cell) for cell in row)
