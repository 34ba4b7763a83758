"""The columns of the table of arms: where each figure stands in the results, and how it is written."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fit3d_finetune.probing.results import ConsistencyResult, ProbeResults

MISSING = "–"

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


def number(value: float, decimals: int, signed: bool = False) -> str:
    """A number with a true minus sign; a dash if it is NaN or infinite."""
    if not math.isfinite(value):
        return MISSING
    text = f"{value:{'+' if signed else ''}.{decimals}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


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
    shown = [*_SEEDED, *_NEAREST_NEIGHBOURS, *_consistency_metrics(results)]
    return [metric for metric in shown if any(metric.measured(results, arm.name) for arm in results.arms)]


def best_arms(results: ProbeResults, metric: Metric) -> set[str]:
    """The arms whose mean is the best as written (so two that read the same both count); never one that is NaN."""
    means = {arm.name: mean(metric.measured(results, arm.name)) for arm in results.arms}
    known = {arm: value for arm, value in means.items() if math.isfinite(value)}
    if len(known) < 2:
        return set()
    best = (max if metric.higher_is_better else min)(known.values())
    return {arm for arm, value in known.items() if metric.write(value) == metric.write(best)}


def headline_bin(result: ConsistencyResult) -> int | None:
    """The bin of angles that holds 45 degrees, where single images fail; None if it has no pairs."""
    edges = result.angle_edges
    for index, (low, high) in enumerate(itertools.pairwise(edges)):
        if low <= 45 < high and not math.isnan(result.recall[index]):
            return index
    return None


def _seeded(part: str, field: str) -> Callable[[ProbeResults, str], list[float]]:
    def values(results: ProbeResults, arm: str) -> list[float]:
        return list(getattr(getattr(results, part)[arm], field))

    return values


def _single(part: str, field: str) -> Callable[[ProbeResults, str], list[float]]:
    return lambda results, arm: [getattr(getattr(results, part)[arm], field)]


_SEEDED = (
    Metric("segmentation", "mIoU", _seeded("segmentation", "miou"), 100, 1, True, "mean IoU of the counted classes, %"),
    Metric("segmentation", "pixel acc.", _seeded("segmentation", "pixel_accuracy"), 100, 1, True, "right pixels, %"),
    Metric("segmentation", "class acc.", _seeded("segmentation", "class_accuracy"), 100, 1, True, _CLASS_ACCURACY),
    Metric("depth", "RMSE", _seeded("depth", "rmse"), 1, 3, False, "root mean squared error, m"),
    Metric("depth", "AbsRel", _seeded("depth", "abs_rel"), 1, 3, False, "mean error relative to the true depth"),
    Metric("depth", "log10", _seeded("depth", "log10"), 1, 3, False, "mean difference of log10 of the depths"),
    Metric("depth", "δ < 1.25", _seeded("depth", "delta1"), 100, 1, True, "within a factor 1.25, % of pixels"),
    Metric("depth", "δ < 1.25²", _seeded("depth", "delta2"), 100, 1, True, "within a factor 1.25², % of pixels"),
    Metric("depth", "δ < 1.25³", _seeded("depth", "delta3"), 100, 1, True, "within a factor 1.25³, % of pixels"),
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


def _consistency_metrics(results: ProbeResults) -> list[Metric]:
    """Recall and cosine in the bin around 45 degrees, else recall over all pairs."""
    if not results.consistency:
        return []
    first = next(iter(results.consistency.values()))
    index = headline_bin(first)
    if index is None:
        return [Metric("consistency", "recall", _mean_recall, 100, 1, True, f"{_RECALL}, mean over all pairs")]
    angles = f"{first.angle_edges[index]:g}–{first.angle_edges[index + 1]:g}°"

    def in_bin(field: str) -> Callable[[ProbeResults, str], list[float]]:
        return lambda results, arm: [getattr(results.consistency[arm], field)[index]]

    return [
        Metric("consistency", f"recall at {angles}", in_bin("recall"), 100, 1, True, _RECALL),
        Metric("consistency", f"cosine at {angles}", in_bin("cosine"), 1, 3, True, _COSINE),
    ]


def _mean_recall(results: ProbeResults, arm: str) -> list[float]:
    return [mean([recall for _, recall in results.consistency[arm].recall_per_pair])]
