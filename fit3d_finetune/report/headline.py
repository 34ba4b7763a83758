"""What changed, in words: one finding for each task of an arm, and the sentence at the top of the report."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from fit3d_finetune.probing.results import Arm, Comparison, ProbeResults
from fit3d_finetune.report.metrics import Metric, mean, metrics_of, number

SIGNIFICANCE_LEVEL = 0.05

Verdict = Literal["better", "worse", "mixed", "unclear", "untested"]
"""better, worse: the paired test says so. mixed: it contradicts the figure that is shown. unclear: the test finds no
difference. untested: there was no paired test."""

TASK_NAMES = {
    "segmentation": "segmentation",
    "depth": "depth estimation",
    "nearest_neighbours": "nearest-neighbour segmentation",
    "consistency": "multi-view consistency",
}

_TESTED_BY = {
    "segmentation": "pixel accuracy",
    "depth": "rmse",
    "nearest_neighbours": "nearest",
    "consistency": "recall",
}
"""How the name of a comparison's metric tells the task it belongs to."""


@dataclass(frozen=True)
class Finding:
    """One arm against the first one in one task."""

    task: str
    """A field of `ProbeResults`."""
    arm: str
    verdict: Verdict
    metric: Metric
    """The task's main figure."""
    before: float
    after: float
    comparison: Comparison | None
    """The paired test behind the verdict."""

    @property
    def change(self) -> str:
        """The change of the main figure: points, a factor or per cent, whichever the field uses."""
        if self.task == "depth":
            return f"{number(100 * (self.after / self.before - 1) if self.before else math.nan, 1, signed=True)} %"
        if self.task == "consistency":
            return f"× {number(self.after / self.before if self.before else math.nan, 2)}"
        return f"{number(100 * (self.after - self.before), 1, signed=True)} points"

    @property
    def figures(self) -> str:
        """E.g. "mIoU 39.4 → 41.9 %, +2.5 points"."""
        unit = " m" if self.metric.name == "RMSE" else " %" if self.metric.scale == 100 else ""
        values = f"{self.metric.write(self.before)} → {self.metric.write(self.after)}{unit}"
        colon = ":" if self.metric.name.endswith("°") else ""
        return f"{self.metric.name}{colon} {values}, {self.change}"


def is_control(arm: Arm) -> bool:
    """Whether the arm is there to show what does not come from 3D, not to be the better one."""
    return any("control" in name.lower() for name in (arm.name, *arm.backbones))


def headline_arm(results: ProbeResults) -> Arm | None:
    """The arm that the headline is about: the widest one that is no control (the published use is to concatenate).

    It is chosen before looking at its figures. None if there is nothing to compare the first arm with.
    """
    candidates = [arm for arm in results.arms[1:] if not is_control(arm)]
    return max(candidates, key=lambda arm: len(arm.backbones)) if candidates else None


def find_changes(results: ProbeResults, arm: Arm) -> list[Finding]:
    """One finding for each task that both the arm and the first one were measured in."""
    findings: dict[str, Finding] = {}
    baseline = results.arms[0].name
    for metric in metrics_of(results):
        before, after = mean(metric.measured(results, baseline)), mean(metric.measured(results, arm.name))
        if metric.part in findings or math.isnan(before) or math.isnan(after):
            continue
        comparison = _comparison_of(results, metric.part, arm.name)
        verdict = _verdict(comparison, metric, after - before)
        findings[metric.part] = Finding(metric.part, arm.name, verdict, metric, before, after, comparison)
    return list(findings.values())


def is_significant(comparison: Comparison) -> bool:
    """The interval leaves out zero and the signed-rank test agrees."""
    outside = comparison.confidence_low > 0 or comparison.confidence_high < 0
    return outside and comparison.p_value < SIGNIFICANCE_LEVEL


def headline(results: ProbeResults) -> str:
    """What changed in one sentence, with figures; a loss or no difference is said as plainly as a gain."""
    if not results.arms:
        return "Nothing was probed."
    baseline, arm = results.arms[0].name, headline_arm(results)
    if arm is None:
        figures = [
            f"{metric.name} {metric.write(mean(metric.measured(results, baseline)))}" for metric in _main(results)
        ]
        return (
            f"Only “{baseline}” was probed ({', '.join(figures) or 'no figures'}): there is nothing to compare it with."
        )
    findings = find_changes(results, arm)
    clauses = [
        f"{words} {_listed(f'{TASK_NAMES[finding.task]} ({finding.figures})' for finding in chosen)}"
        for verdict, words in _WORDS.items()
        if (chosen := [finding for finding in findings if finding.verdict == verdict])
    ]
    if not clauses:
        return f"“{arm.name}” and “{baseline}” have no figure in common to compare."
    return f"“{arm.name}” against “{baseline}”: {'; '.join(clauses)}."


_WORDS: dict[Verdict, str] = {
    "better": "significantly better in",
    "worse": "significantly worse in",
    "mixed": "a mixed result in",
    "unclear": "no significant difference in",
    "untested": "not tested for significance in",
}


def _main(results: ProbeResults) -> list[Metric]:
    """The first metric of each task."""
    chosen: dict[str, Metric] = {}
    for metric in metrics_of(results):
        chosen.setdefault(metric.part, metric)
    return list(chosen.values())


def _comparison_of(results: ProbeResults, task: str, arm: str) -> Comparison | None:
    for comparison in results.comparisons:
        name = comparison.metric.lower()
        if comparison.arm == arm and task == _task_of(name):
            return comparison
    return None


def _task_of(metric: str) -> str | None:
    # Nearest neighbours are judged by pixel accuracy too, so their own word decides first.
    for task in ("nearest_neighbours", "consistency", "depth", "segmentation"):
        if _TESTED_BY[task] in metric or (task == "nearest_neighbours" and "knn" in metric):
            return task
    return None


def _verdict(comparison: Comparison | None, metric: Metric, change: float) -> Verdict:
    if comparison is None or math.isnan(comparison.mean_difference):
        return "untested"
    if not is_significant(comparison):
        return "unclear"
    # A test on RMSE or accuracy and the figure shown share their direction within a task.
    sign = 1 if metric.higher_is_better else -1
    tested, shown = sign * comparison.mean_difference > 0, sign * change > 0
    if tested != shown:
        return "mixed"
    return "better" if tested else "worse"


def _listed(pieces: Iterable[str]) -> str:
    """a; a and b; a, b and c."""
    items = list(pieces)
    return " and ".join(items) if len(items) < 3 else f"{', '.join(items[:-1])} and {items[-1]}"
