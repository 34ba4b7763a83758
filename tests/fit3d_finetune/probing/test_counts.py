"""Counts in a file are the counts in memory."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fit3d_finetune.probing.counts import ClassCounts


@given(st.integers(0, 10_000), st.integers(0, 3), st.integers(0, 4), st.integers(1, 5))
def test_counts_come_back_from_json_and_zeros_take_no_room(seed: int, seeds: int, images: int, classes: int) -> None:
    random = np.random.default_rng(seed)
    intersections, more = random.integers(0, 3, (2, seeds, images, classes))
    counts = ClassCounts(intersections, intersections + more)
    text = json.dumps(counts.to_sparse())
    back = ClassCounts.from_sparse(json.loads(text), classes)
    if seeds:
        np.testing.assert_array_equal(back.intersections, counts.intersections)
        np.testing.assert_array_equal(back.unions, counts.unions)
    assert sum(len(flat) for of_seed in counts.to_sparse() for flat in of_seed) == 3 * (counts.unions > 0).sum()
