"""Figures by scene against loops, and what is shown is what is compared."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fit3d_finetune.probing.counts import ClassCounts, counts_of
from fit3d_finetune.probing.metrics import confusion_matrix
from fit3d_finetune.probing.scene_figures import (
    accuracy_sums,
    figures_of,
    image_rmse,
    iou_per_class,
    iou_sums,
    mean_over_scenes,
    value_sums,
)
from fit3d_finetune.report.metrics import mean, metrics_of
from tests.fit3d_finetune.report.samples import make_results

K, IMAGES, SCENES = 4, 5, 2
COUNTED = [0, 1, 3]


def images(seed: int) -> tuple[list[np.ndarray], list[np.ndarray], list[int]]:
    """Labels, predictions and scenes of some images; a scene may lack classes, or labels altogether."""
    random = np.random.default_rng(seed)
    labels = [random.choice([*range(random.integers(1, K + 1)), 255], (3, 5)) for _ in range(IMAGES)]
    predicted = [random.integers(0, K, (3, 5)) for _ in range(IMAGES)]
    return labels, predicted, random.integers(0, SCENES, IMAGES).tolist()


def counted(labels: list[np.ndarray], predicted: list[np.ndarray]) -> tuple[ClassCounts, np.ndarray]:
    found = [counts_of(confusion_matrix(t, p, K)) for t, p in zip(labels, predicted, strict=True)]
    intersections, unions = (np.stack(side)[None] for side in zip(*found, strict=True))
    return ClassCounts(intersections, unions), np.stack([np.bincount(t.ravel(), minlength=256)[:K] for t in labels])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000))
def test_segmentation_figures_equal_loops_over_the_pixels_of_each_scene(seed: int) -> None:
    labels, predicted, scenes = images(seed)
    counts, labelled = counted(labels, predicted)
    mious, accuracies, class_accuracies = [], [], []
    for scene in range(SCENES):
        pairs = [
            (int(t), int(p))
            for index in range(IMAGES)
            if scenes[index] == scene
            for t, p in zip(labels[index].flat, predicted[index].flat, strict=True)
            if t != 255
        ]
        present = [k for k in COUNTED if any(t == k for t, _ in pairs)]
        hits = {k: sum(t == p == k for t, p in pairs) for k in present}
        if pairs:
            accuracies.append(sum(t == p for t, p in pairs) / len(pairs))
        if present:
            mious.append(np.mean([hits[k] / sum(k in pair for pair in pairs) for k in present]))
            class_accuracies.append(np.mean([hits[k] / sum(t == k for t, _ in pairs) for k in present]))
    of_scenes = (counts, labelled, scenes, SCENES)
    for sums, expected in (
        (iou_sums(*of_scenes, COUNTED), mious),
        (accuracy_sums(*of_scenes), accuracies),
        (accuracy_sums(*of_scenes, COUNTED), class_accuracies),
    ):
        assert mean_over_scenes(sums) == pytest.approx([np.mean(expected) if expected else math.nan], nan_ok=True)
    pairs = [(int(t), int(p)) for t, p in zip(np.ravel(labels), np.ravel(predicted), strict=True) if t != 255]
    for k in range(K):
        union = sum(k in pair for pair in pairs)
        share = sum(t == p == k for t, p in pairs) / union if union else math.nan
        assert iou_per_class(counts)[0, k] == pytest.approx(share, nan_ok=True)


def test_means_are_over_what_is_known_first_in_a_scene_and_then_over_scenes() -> None:
    values = np.array([[1.0, math.nan, 3.0, 8.0], [math.nan] * 4])
    sums = value_sums(values, [0, 0, 0, 1], 3)
    assert mean_over_scenes(sums) == pytest.approx([(2 + 8) / 2, math.nan], nan_ok=True)


def test_rmse_of_an_image_comes_from_its_squared_error() -> None:
    assert image_rmse([[8.0, 0.0, 9.0]], [2, 0, 1])[0] == pytest.approx([2.0, math.nan, 3.0], nan_ok=True)


@pytest.mark.parametrize("scenes", [1, 2, 6])
def test_every_compared_figure_is_the_first_column_of_its_task_as_it_is_shown(scenes: int) -> None:
    results = make_results(scenes=scenes, beyond_defaults=True)
    columns = metrics_of(results)
    figures = figures_of(results)
    assert [figure.task for figure in figures] == [
        *("segmentation", "depth", "depth_patches", "normals", "nearest_neighbours", "nearest_neighbours_across"),
        *("consistency", "matching"),
    ]
    for figure in figures:
        column = next(metric for metric in columns if metric.part == figure.task)
        assert column.higher_is_better == figure.higher_is_better
        assert (column.scale == 100) == (figure.unit == "%")
        assert figure.metric.endswith(column.name)
        for arm in results.arms:
            shown = column.measured(results, arm.name)
            assert mean_over_scenes(figure.sums(results, arm.name)) == pytest.approx(shown, abs=2e-4)
            compared = [c for c in results.comparisons if (c.task, c.arm) == (figure.task, arm.name)]
            for comparison in compared:
                assert comparison.after == pytest.approx(mean(shown), abs=2e-4)
                assert comparison.difference == pytest.approx(comparison.after - comparison.before)
                assert comparison.difference == pytest.approx(np.mean([s.difference for s in comparison.scenes]))
