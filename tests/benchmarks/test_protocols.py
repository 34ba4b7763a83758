"""The agreement of two protocols: orders pair by pair, clear differences told from those that images do not show."""

from __future__ import annotations

from benchmarks.protocols import agreement, table
from fit3d_finetune.probing.results import Arm, DepthResult, ProbeResults, SegmentationResult

# Deviations of six images from an arm's mean: those of an arm that follow another's are told apart by any difference.
IMAGES = (-0.2, -0.1, -0.05, 0.05, 0.1, 0.2)
OTHER_IMAGES = (0.2, -0.2, 0.1, -0.1, 0.05, -0.05)


def results(protocol: str, spread: tuple[float, ...] = IMAGES, **means: float) -> ProbeResults:
    """Arms with given means over the images; the last arm's images deviate by `spread`."""
    last = list(means)[-1]
    images = {
        name: [[value + more + i * 1e-4 for i, more in enumerate(spread if name == last else IMAGES)]]
        for name, value in means.items()
    }
    values = {name: [value] for name, value in means.items()}
    return ProbeResults(
        protocol=protocol,
        seeds=[0],
        arms=[Arm(name, (name,)) for name in means],
        backbones={},
        train_data=["/somewhere/room_a"],
        test_data=["/somewhere/room_b"],
        test_images=[str(index) for index in range(len(IMAGES))],
        classes=["wall"],
        counted_classes=[0],
        segmentation={name: SegmentationResult(v, v, v, [v], images[name]) for name, v in values.items()},
        depth={name: DepthResult(v, v, v, v, v, v, images[name]) for name, v in values.items()},
    )


FAST = results("fast", a=0.30, b=0.31, c=0.50)


def test_all_pairs_alike() -> None:
    for task in ("segmentation", "depth"):
        found = agreement(task, FAST, results("paper", a=0.60, b=0.70, c=0.80))
        assert (found.tau, found.opposite, found.clear, found.clear_opposite) == (1, (), 3, 0)


def test_all_pairs_turned_round() -> None:
    found = agreement("depth", FAST, results("paper", a=0.60, b=0.40, c=0.10))
    assert found.tau == -1
    assert found.opposite == (("a", "b"), ("a", "c"), ("b", "c"))
    assert (found.clear, found.clear_opposite) == (3, 3)


def test_a_swap_that_the_images_do_not_show_is_no_clear_one() -> None:
    fast = results("fast", OTHER_IMAGES, a=0.3, b=0.9, c=0.32)
    found = agreement("depth", fast, results("paper", OTHER_IMAGES, a=0.3, b=0.9, c=0.28))
    assert abs(found.tau - 1 / 3) < 1e-9
    assert found.opposite == (("a", "c"),)
    assert (found.clear, found.clear_opposite) == (2, 0)


def test_the_table_has_both_protocols_and_no_place_of_this_machine() -> None:
    text = table("depth", FAST, results("paper", a=0.6, b=0.7, c=0.8), 100)
    assert "| c | 0.500 | 0.800 |" in text
    assert "/somewhere" not in text
    assert "mIoU" not in text
    assert "100 iterations" in text
