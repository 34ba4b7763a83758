"""Metrics against loops over pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fit3d_finetune.probing.counts import counts_of
from fit3d_finetune.probing.metrics import DEPTH_METRICS, confusion_matrix, counted_classes, depth_metrics

K = 4
SEEDS = st.integers(0, 100_000)


def labels_and_predictions(seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(1, 7, 2))
    labels = random.choice([*range(random.integers(1, K + 1)), 255], shape).astype(np.uint8)
    return labels, random.integers(0, K, shape)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_confusion_matrices_equal_loops(seed: int) -> None:
    labels, predicted = labels_and_predictions(seed)
    confusion = confusion_matrix(labels, predicted, K)
    pairs = [(int(t), int(p)) for t, p in zip(labels.flat, predicted.flat, strict=True) if t != 255]
    assert confusion.sum() == len(pairs)
    assert all(confusion[t, p] == pairs.count((t, p)) for t in range(K) for p in range(K))
    intersections, unions = counts_of(confusion)
    for k in range(K):
        assert intersections[k] == sum(t == p == k for t, p in pairs)
        assert unions[k] == sum(t == k or p == k for t, p in pairs)


def test_classes_count_from_two_thousandths_of_the_labelled_pixels() -> None:
    assert counted_classes(np.array([995, 2, 1, 0, 2])) == [0, 1, 4]
    assert counted_classes(np.zeros(3, int)) == []


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.floats(2.0, 8.0))
def test_depth_metrics_equal_loops(seed: int, max_depth: float) -> None:
    random = np.random.default_rng(seed)
    depth = np.where(random.random((4, 5)) < 0.2, 0, random.uniform(0.5, 10, (4, 5))).astype(np.float32)
    predicted = random.uniform(0.5, 10, (4, 5)).astype(np.float32)
    pairs = [(float(d), float(p)) for d, p in zip(depth.flat, predicted.flat, strict=True) if 0 < d <= max_depth]
    found = depth_metrics(depth, predicted, max_depth)
    assert tuple(found) == DEPTH_METRICS
    n = len(pairs)
    if n == 0:
        assert all(math.isnan(value) for value in found.values())
        return
    expected = {
        "rmse": math.sqrt(sum((d - p) ** 2 for d, p in pairs) / n),
        "abs_rel": sum(abs(d - p) / d for d, p in pairs) / n,
        "log10": sum(abs(math.log10(d / p)) for d, p in pairs) / n,
        **{f"delta{k}": sum(max(d / p, p / d) < 1.25**k for d, p in pairs) / n for k in (1, 2, 3)},
    }
    assert found == pytest.approx(expected, rel=1e-9)
