"""How much a capture has to compare, before it is made."""

from __future__ import annotations

import pytest

from fit3d_ns.reconstruction.pairs import all_pairs, sequential_pairs
from fit3d_ns.reconstruction.preview import count_pairs


@pytest.mark.parametrize("count", [3, 12, 100])
def test_pairs_are_those_that_will_be_compared(count: int) -> None:
    names = [str(index) for index in range(count)]
    assert count_pairs("exhaustive", count) == (len(all_pairs(names)), "")
    assert count_pairs("sequential", count) == (len(sequential_pairs(names)), "")


def test_pairs_of_photos_that_are_alike_are_known_as_a_bound_alone() -> None:
    assert count_pairs("alike", 10) == (45, "up to ")
    assert count_pairs("alike", 1000) == (32_000, "up to ")
