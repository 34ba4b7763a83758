"""The agreement of two protocols: orders pair by pair, clear differences told from those that scenes do not show."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.protocols import agreement, table
from fit3d_finetune.probing.counts import ClassCounts
from fit3d_finetune.probing.results import Arm, DepthResult, ProbeResults, SegmentationResult

# Deviations of scenes from an arm's mean: those of an arm that follow another's are told apart by any difference.
SCENES = (-0.05, -0.02, 0.07)
OTHER_SCENES = (0.06, -0.05, -0.01)


def results(protocol: str, spread: tuple[float, ...] = SCENES, repeats: int = 1, **means: float) -> ProbeResults:
    """Arms with given means over the scenes (of one image each); the last arm's scenes deviate by `spread`."""
    last = list(means)[-1]
    scenes = len(SCENES) * repeats
    by_scene = {
        name: [value + more for more in (spread if name == last else SCENES)] * repeats for name, value in means.items()
    }
    values = {name: [value] for name, value in means.items()}
    unions = np.full((1, scenes, 1), 10_000)
    return ProbeResults(
        protocol=protocol,
        seeds=[0],
        arms=[Arm(name, (name,)) for name in means],
        backbones={},
        train_data=["/somewhere/room_a"],
        test_data=["/somewhere/room_b"],
        test_images=[str(index) for index in range(scenes)],
        scenes=[f"scene {index}" for index in range(scenes)],
        image_scenes=list(range(scenes)),
        classes=["wall"],
        counted_classes=[0],
        labelled_pixels=unions[0],
        segmentation={
            name: SegmentationResult(
                *(v, v, v, v, [v]), ClassCounts((unions * np.array(by_scene[name])[:, None]).astype(np.int64), unions)
            )
            for name, v in values.items()
        },
        depth={
            name: DepthResult(*[v] * 6, squared_error=[[value**2 for value in by_scene[name]]], pixels=[1] * scenes)
            for name, v in values.items()
        },
    )


FAST = results("fast", a=0.30, b=0.31, c=0.50)


@pytest.mark.parametrize("repeats", [1, 2])
def test_all_pairs_alike(repeats: int) -> None:
    fast = results("fast", repeats=repeats, a=0.30, b=0.31, c=0.50)
    for task in ("segmentation", "depth"):
        found = agreement(task, fast, results("paper", repeats=repeats, a=0.60, b=0.70, c=0.80))
        assert (found.tau, found.opposite, found.clear, found.clear_opposite) == (1, (), 3, 0)


def test_all_pairs_turned_round() -> None:
    found = agreement("depth", FAST, results("paper", a=0.60, b=0.40, c=0.10))
    assert found.tau == -1
    assert found.opposite == (("a", "b"), ("a", "c"), ("b", "c"))
    assert (found.clear, found.clear_opposite) == (3, 3)


@pytest.mark.parametrize("repeats", [1, 2])
def test_a_swap_that_the_scenes_do_not_agree_on_is_no_clear_one(repeats: int) -> None:
    fast = results("fast", OTHER_SCENES, repeats, a=0.3, b=0.9, c=0.32)
    found = agreement("depth", fast, results("paper", OTHER_SCENES, repeats, a=0.3, b=0.9, c=0.28))
    assert abs(found.tau - 1 / 3) < 1e-9
    assert found.opposite == (("a", "c"),)
    assert (found.clear, found.clear_opposite) == (2, 0)


def test_the_table_has_both_protocols_and_no_place_of_this_machine() -> None:
    text = table("depth", FAST, results("paper", a=0.6, b=0.7, c=0.8), 100)
    assert "| c | 0.500 | 0.800 |" in text
    assert "/somewhere" not in text
    assert "mIoU" not in text
    assert "100 iterations" in text
    assert "differs in the same direction in all 3 test scenes under both protocols" in text
    assert "significan" not in text
    many = [results(name, repeats=2, a=0.3, b=0.4, c=0.5) for name in ("fast", "paper")]
    assert "differs significantly under both protocols" in table("depth", *many, 100)
