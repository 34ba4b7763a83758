"""The test over scenes: rarely wrong where nothing differs, whatever the noise, and right where something does."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fit3d_finetune.probing.comparison import LEVEL, Comparison
from fit3d_finetune.probing.results import ProbeResults
from fit3d_finetune.probing.significance import blocks, compare_arms, holm
from tests.fit3d_finetune.probing.tables import FRAMES, SEEDS, table

TABLES = 200
DRAWS = 100


def significant(comparisons: list[Comparison]) -> bool:
    """Whether anything in the table is called so."""
    return any(comparison.verdict in ("better", "worse") for comparison in comparisons)


@pytest.mark.parametrize("rooms", [5, 10])
@pytest.mark.parametrize(
    "noise",
    [
        {"of_rooms": 0.03},
        {"of_rooms": 0.02, "of_frames": 0.05, "of_seeds": 0.005},
        {"of_seeds": 0.03, "of_frames": 0.01},
    ],
    ids=["rooms", "all", "seeds"],
)
def test_arms_that_differ_by_noise_are_told_apart_in_one_table_of_twenty_at_most(
    rooms: int, noise: dict[str, float]
) -> None:
    """The noise of images of one room is correlated: what took them for independent called 0.6 points significant."""
    random = np.random.default_rng(rooms)
    found = [significant(compare_arms([[table(random, rooms, **noise)]], draws=DRAWS)) for _ in range(TABLES)]
    assert sum(found) <= LEVEL * TABLES


@pytest.mark.parametrize("rooms", [5, 10])
def test_identical_arms_never_differ(rooms: int) -> None:
    random = np.random.default_rng(rooms)
    for _ in range(TABLES):
        comparisons = compare_arms([[table(random, rooms)]], draws=10)
        assert {(c.difference, c.p_value, c.p_holm, c.verdict) for c in comparisons} == {(0, 1, 1, "unclear")}


@pytest.mark.parametrize(("rooms", "gain"), [(5, 0.08), (10, 0.03)])
def test_a_gain_in_every_room_is_found(rooms: int, gain: float) -> None:
    random = np.random.default_rng(1)
    comparisons = [
        comparison
        for _ in range(20)
        for comparison in compare_arms(
            [[table(random, rooms, gain, of_rooms=0.01, of_frames=0.02, of_seeds=0.0005)]], draws=DRAWS
        )
    ]
    verdicts = [comparison.verdict for comparison in comparisons if comparison.task != "depth"]
    assert verdicts.count("better") > 0.9 * len(verdicts)
    # The same change of an error is a loss.
    verdicts = [comparison.verdict for comparison in comparisons if comparison.task == "depth"]
    assert verdicts.count("worse") > 0.9 * len(verdicts)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    random, gain = np.random.default_rng(2), 0.02
    held = []
    for _ in range(100):
        for comparison in compare_arms([[table(random, 8, gain, of_rooms=0.03)]], draws=DRAWS):
            assert comparison.confidence_low <= comparison.difference <= comparison.confidence_high
            held.append(comparison.confidence_low <= gain <= comparison.confidence_high)
    assert 0.94 < np.mean(held) < 0.985


def test_without_noise_of_frames_and_seeds_it_is_a_t_test_over_rooms() -> None:
    results = table(np.random.default_rng(3), 9, 0.01, of_rooms=0.02)
    for comparison in compare_arms([[results]], draws=20_000):
        differences = np.array([scene.difference for scene in comparison.scenes])
        error = float(differences.std(ddof=1)) / 3
        assert comparison.p_value == pytest.approx(2 * stats.t.sf(abs(differences.mean()) / error, 7), rel=0.1)
        reach = error * stats.t.ppf(0.975, 7)
        assert comparison.confidence_low == pytest.approx(differences.mean() - reach, abs=0.05 * reach)
        assert comparison.confidence_high == pytest.approx(differences.mean() + reach, abs=0.05 * reach)


def test_the_luck_of_seeds_widens_the_interval() -> None:
    def width(of_seeds: float) -> float:
        found = compare_arms([[table(np.random.default_rng(4), 8, of_rooms=0.01, of_seeds=of_seeds)]])
        return float(np.mean([c.confidence_high - c.confidence_low for c in found if c.task == "segmentation"]))

    assert width(0.03) > 2 * width(0.0)


def test_fewer_than_five_scenes_are_not_tested() -> None:
    for rooms in (1, 2, 4):
        for comparison in compare_arms([[table(np.random.default_rng(rooms), rooms, gain=0.1)]]):
            assert not comparison.tested
            assert math.isnan(comparison.p_value)
            assert math.isnan(comparison.p_holm)
            assert math.isnan(comparison.confidence_low)
            assert len(comparison.scenes) == rooms
            assert comparison.verdict == ("worse-everywhere" if comparison.task == "depth" else "better-everywhere")
            assert "significan" not in comparison.statement
    assert compare_arms([[table(np.random.default_rng(5), 5)]])[0].tested


def test_a_scene_without_the_figure_is_left_out_and_named_nowhere() -> None:
    results = table(np.random.default_rng(0), 6, gain=0.05)
    blind = {
        arm: dataclasses.replace(found, pixels=[0] * FRAMES + found.pixels[FRAMES:])
        for arm, found in results.depth.items()
    }
    [comparison, *_] = [c for c in compare_arms([[dataclasses.replace(results, depth=blind)]]) if c.task == "depth"]
    assert [scene.scene for scene in comparison.scenes] == [f"room_{index}" for index in range(1, 6)]
    assert comparison.frames == 5 * FRAMES
    assert comparison.tested
    assert comparison.after - comparison.before == pytest.approx(comparison.difference)


def test_one_comparison_for_each_arm_and_task_corrected_together() -> None:
    comparisons = compare_arms([[table(np.random.default_rng(6), 7, 0.01, of_rooms=0.01)]])
    assert [(c.arm, c.task) for c in comparisons] == [
        (arm, task) for arm in ("one", "two") for task in ("segmentation", "depth", "consistency")
    ]
    assert [c.seeds for c in comparisons] == [SEEDS, SEEDS, 0] * 2
    p_values = np.array([c.p_value for c in comparisons])
    assert [c.p_holm for c in comparisons] == holm(p_values).tolist()
    assert min(c.p_holm for c in comparisons) == pytest.approx(6 * p_values.min())


def test_the_same_results_give_the_same_comparisons() -> None:
    def found() -> list[Comparison]:
        results: ProbeResults = table(np.random.default_rng(7), 6, 0.01, of_rooms=0.02, of_frames=0.02)
        return compare_arms([[results]])

    assert found() == found()


@given(st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=8))
def test_holm_rejects_what_its_step_down_procedure_rejects(p_values: list[float]) -> None:
    adjusted = holm(np.array(p_values)) if p_values else np.zeros(0)
    known = sorted(p for p in p_values if not math.isnan(p))
    for level in (0.01, 0.05, 0.3):
        rejected: list[float] = []
        for rank, p in enumerate(known):
            if p * (len(known) - rank) >= level:
                break
            rejected.append(p)
        assert sorted(p for p, a in zip(p_values, adjusted, strict=True) if a < level) == rejected
    assert [math.isnan(a) for a in adjusted] == [math.isnan(p) for p in p_values]


@given(st.integers(0, 400))
def test_blocks_are_consecutive_frames_about_as_long_as_there_are_blocks(frames: int) -> None:
    parts = blocks(frames)
    assert np.concatenate(parts).tolist() == list(range(frames))
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1
    if frames:
        assert abs(max(lengths) - len(parts)) <= 2
