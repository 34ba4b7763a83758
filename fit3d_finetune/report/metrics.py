"""The columns of the table of arms: where each figure stands in the results, and how it is written.

All are means over the test scenes; the first of each task is the one that arms are compared in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from fit3d_finetune.probing.comparison import number
from fit3d_finetune.probing.results import ProbeResults
from fit3d_finetune.probing.scene_figures import matching_name, mean_over_scenes, recall_name, recall_sums, shown_bin

_CLASS_ACCURACY = "share of a class's pixels that were found, mean over counted classes, %"
_RECALL = "pixels whose nearest neighbour in the other view is right, %"
_COSINE = "mean cosine between features of pixels that show the same point"


@dataclass(frozen=True)
class Metric:
    """One figure of an arm."""

    part: str
    """The field of `ProbeResults` that holds it."""
    name: str
    values: Callable[[ProbeResults, str], list[float]]
    """(results, arm) to one value per seed (a single one where there are no seeds)."""
    scale: float
    """Written times this: 100 for shares in per cent."""
    decimals: int
    higher_is_better: bool
    meaning: str
    """What it is, in a line."""
    in_table: bool = True
    """Whether the table of arms shows it too, and not only the data files."""

    def write(self, value: float) -> str:
        """The value in the metric's unit, a dash if it is NaN."""
        return number(value * self.scale, self.decimals)

    def summary(self, results: ProbeResults, arm: str) -> str:
        """Mean and standard deviation over seeds, as far as there are any: "39.4 ± 0.2"."""
        values = self.measured(results, arm)
        text = self.write(mean(values))
        return text if math.isnan(spread(values)) else f"{text} ± {self.write(spread(values))}"

    def measured(self, results: ProbeResults, arm: str) -> list[float]:
        """The arm's values, empty if the arm was not measured."""
        return self.values(results, arm) if arm in getattr(results, self.part) else []


def mean(values: Sequence[float]) -> float:
    """Mean of those that are not NaN; NaN if none is left."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def spread(values: Sequence[float]) -> float:
    """Standard deviation (n - 1) of those that are not NaN; NaN with fewer than two."""
    known = [value for value in values if not math.isnan(value)]
    if len(known) < 2:
        return math.nan
    middle = sum(known) / len(known)
    return math.sqrt(sum((value - middle) ** 2 for value in known) / (len(known) - 1))


def metrics_of(results: ProbeResults) -> list[Metric]:
    """The metrics that at least one arm has a value of, in the order of the table."""
    tables = (_SEEDED, _DEPTH_PATCHES, _NORMALS, _NEAREST_NEIGHBOURS, _OTHER_ANGLES)
    shown = [*chain(*tables), *_consistency_metrics(results), *_matching_metrics(results)]
    return [metric for metric in shown if any(metric.measured(results, arm.name) for arm in results.arms)]


def best_arms(results: ProbeResults, metric: Metric) -> set[str]:
    """The arms whose mean is the best as written (so two that read the same both count); never one that is NaN."""
    means = {arm.name: mean(metric.measured(results, arm.name)) for arm in results.arms}
    known = {arm: value for arm, value in means.items() if math.isfinite(value)}
    if len(known) < 2:
        return set()
    best = (max if metric.higher_is_better else min)(known.values())
    return {arm for arm, value in known.items() if metric.write(value) == metric.write(best)}


def _seeded(part: str, field: str) -> Callable[[ProbeResults, str], list[float]]:
    def values(results: ProbeResults, arm: str) -> list[float]:
        return list(getattr(getattr(results, part)[arm], field))

    return values


def _single(part: str, field: str) -> Callable[[ProbeResults, str], list[float]]:
    return lambda results, arm: [getattr(getattr(results, part)[arm], field)]


_SEEDED = (
    Metric(
        "segmentation",
        "mIoU",
        _seeded("segmentation", "miou"),
        100,
        1,
        True,
        "mean IoU of the counted classes in a scene's labels, %",
    ),
    Metric("segmentation", "pixel acc.", _seeded("segmentation", "pixel_accuracy"), 100, 1, True, "right pixels, %"),
    Metric("segmentation", "class acc.", _seeded("segmentation", "class_accuracy"), 100, 1, True, _CLASS_ACCURACY),
    Metric("depth", "RMSE", _seeded("depth", "rmse"), 1, 3, False, "root mean squared error, m"),
    Metric("depth", "AbsRel", _seeded("depth", "abs_rel"), 1, 3, False, "mean error relative to the true depth"),
    Metric("depth", "log10", _seeded("depth", "log10"), 1, 3, False, "mean difference of log10 of the depths", False),
    Metric("depth", "δ < 1.25", _seeded("depth", "delta1"), 100, 1, True, "within a factor 1.25, % of pixels"),
    Metric("depth", "δ < 1.25²", _seeded("depth", "delta2"), 100, 1, True, "within a factor 1.25², % of pixels", False),
    Metric("depth", "δ < 1.25³", _seeded("depth", "delta3"), 100, 1, True, "within a factor 1.25³, % of pixels", False),
)
_DEPTH_PATCHES = (
    Metric("depth_patches", "RMSE", _seeded("depth_patches", "rmse"), 1, 3, False, "without class token, m"),
    Metric("depth_patches", "AbsRel", _seeded("depth_patches", "abs_rel"), 1, 3, False, "the same, relative", False),
    Metric("depth_patches", "δ < 1.25", _seeded("depth_patches", "delta1"), 100, 1, True, "the same, %", False),
)
_NORMALS = (
    Metric("normals", "RMSE angle", _seeded("normals", "rmse"), 1, 2, False, "root mean squared angle, degrees"),
    Metric("normals", "mean", _seeded("normals", "mean"), 1, 2, False, "mean angle, degrees", False),
    Metric("normals", "< 11.25°", _seeded("normals", "within_11"), 100, 1, True, "within 11.25 degrees, %"),
    Metric("normals", "< 22.5°", _seeded("normals", "within_22"), 100, 1, True, "within 22.5 degrees, %", False),
    Metric("normals", "< 30°", _seeded("normals", "within_30"), 100, 1, True, "within 30 degrees, %", False),
)
_NEAREST_NEIGHBOURS = (
    Metric("nearest_neighbours", "mIoU", _single("nearest_neighbours", "miou"), 100, 1, True, "mean IoU, %"),
    Metric(
        "nearest_neighbours",
        "pixel acc.",
        _single("nearest_neighbours", "pixel_accuracy"),
        100,
        1,
        True,
        "right pixels, %",
    ),
)

_OTHER_ANGLES = tuple(
    replace(
        metric,
        part="nearest_neighbours_across",
        values=_single("nearest_neighbours_across", field),
        meaning=f"{metric.meaning.removesuffix(', %')}, of pixels that other views show from another angle, %",
    )
    for metric, field in zip(_NEAREST_NEIGHBOURS, ("miou", "pixel_accuracy"), strict=True)
)


def _consistency_metrics(results: ProbeResults) -> list[Metric]:
    """Recall and cosine in the bin around 45 degrees, else recall over all pairs."""
    if not results.consistency:
        return []
    index = shown_bin(results.consistency)
    name = recall_name(results.consistency)
    if index is None:
        return [Metric("consistency", name, _recall, 100, 1, True, f"{_RECALL}, all pairs")]

    def cosine(results: ProbeResults, arm: str) -> list[float]:
        return [results.consistency[arm].cosine[index]]

    return [
        Metric("consistency", name, _recall, 100, 1, True, _RECALL),
        Metric("consistency", name.replace("recall", "cosine"), cosine, 1, 3, True, _COSINE),
    ]


def _recall(results: ProbeResults, arm: str) -> list[float]:
    return mean_over_scenes(recall_sums(results, results.consistency[arm], shown_bin(results.consistency)))


def _matching_metrics(results: ProbeResults) -> list[Metric]:
    """Recall within the largest distance in the bin around 45 degrees, else over all pairs."""
    if not results.matching:
        return []

    def recall(results: ProbeResults, arm: str) -> list[float]:
        return mean_over_scenes(recall_sums(results, results.matching[arm], shown_bin(results.matching)))

    meaning = "of the thousand clearest matches, those that are right in space, %"
    return [Metric("matching", matching_name(results), recall, 100, 1, True, meaning)]
