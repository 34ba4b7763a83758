"""The agreement of two protocols: orders compared pair by pair, ties within the spread told from clear differences."""

from __future__ import annotations

from benchmarks.protocols import compare, table
from fit3d_finetune.probing.results import Arm, ProbeResults, SegmentationResult
from fit3d_finetune.report.metrics import metrics_of


def results(protocol: str, **miou: list[float]) -> ProbeResults:
    return ProbeResults(
        protocol=protocol,
        seeds=[0, 1],
        arms=[Arm(name, (name,)) for name in miou],
        backbones={},
        train_data=["/somewhere/room_a"],
        test_data=["/somewhere/room_b"],
        test_images=["one"],
        classes=["wall"],
        counted_classes=[0],
        segmentation={
            name: SegmentationResult(values, values, values, [[value] for value in values], [[0.0], [0.0]])
            for name, values in miou.items()
        },
    )


FAST = results("fast", a=[0.30, 0.32], b=[0.31, 0.33], c=[0.50, 0.52])
PAPER = results("paper", a=[0.28, 0.34], b=[0.27, 0.33], c=[0.60, 0.62])


def test_a_swap_within_the_spread_is_no_clear_one() -> None:
    found = compare(metrics_of(FAST)[0], FAST, PAPER)
    assert abs(found.tau - 1 / 3) < 1e-9
    assert found.opposite == (("a", "b"),)
    assert (found.clear, found.clear_opposite) == (2, 0)


def test_a_swap_beyond_the_spread_is_a_clear_one() -> None:
    turned = results("paper", a=[0.60, 0.62], b=[0.40, 0.42], c=[0.10, 0.12])
    found = compare(metrics_of(FAST)[0], FAST, turned)
    assert found.tau == -1
    assert found.opposite == (("a", "b"), ("a", "c"), ("b", "c"))
    assert (found.clear, found.clear_opposite) == (2, 2)


def test_the_table_has_both_protocols_and_no_place_of_this_machine() -> None:
    text = table(FAST, PAPER, 100)
    assert "| c | 51.0 ± 1.4 | 61.0 ± 1.4 |" in text
    assert "/somewhere" not in text
    assert "100 iterations" in text
