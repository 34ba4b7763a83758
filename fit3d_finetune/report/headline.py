"""What changed, in words: the sentence at the top of the report, and the arm that it is about."""

from __future__ import annotations

from collections.abc import Iterable

from fit3d_finetune.probing.comparison import Comparison, Task, Verdict
from fit3d_finetune.probing.results import Arm, ProbeResults
from fit3d_finetune.report.metrics import Metric, mean, metrics_of

TASK_NAMES: dict[Task, str] = {
    "segmentation": "segmentation",
    "depth": "depth estimation",
    "depth_patches": "depth without the class token",
    "normals": "surface normals",
    "nearest_neighbours": "nearest-neighbour segmentation",
    "nearest_neighbours_across": "nearest-neighbour segmentation from other angles",
    "consistency": "multi-view consistency",
    "matching": "geometric matching",
}
_ORDER: tuple[Verdict, ...] = (
    *("better", "better-everywhere", "worse", "worse-everywhere"),
    *("mixed", "unclear", "equal", "untested"),
)


def is_control(arm: Arm) -> bool:
    """Whether the arm is there to show what does not come from 3D, not to be the better one.

    That is a backbone that was tuned without 3D, or one beside itself, whose head is as wide and knows nothing more.
    """
    repeats = len({*arm.backbones}) < len(arm.backbones)
    return repeats or any("control" in name.lower() for name in (arm.name, *arm.backbones))


def headline_arm(results: ProbeResults) -> Arm | None:
    """The arm that the headline is about: the widest one that is no control (the published use is to concatenate).

    It is chosen before looking at its figures. None if there is nothing to compare the first arm with.
    """
    candidates = [arm for arm in results.arms[1:] if not is_control(arm)]
    return max(candidates, key=lambda arm: len(arm.backbones)) if candidates else None


def changes_of(results: ProbeResults, arm: Arm) -> list[Comparison]:
    """The arm's comparisons with the first one, one for each task that both were measured in."""
    baseline = results.arms[0].name
    return [
        comparison
        for comparison in results.comparisons
        if (comparison.arm, comparison.baseline) == (arm.name, baseline) and comparison.scenes
    ]


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
    changes = sorted(changes_of(results, arm), key=lambda change: _ORDER.index(change.verdict))
    if not changes:
        return f"“{arm.name}” and “{baseline}” have no figure in common to compare."
    clauses = []
    for words in dict.fromkeys(change.words for change in changes):
        chosen = [change for change in changes if change.words == words]
        link = "in" if chosen[0].tested else "for"
        clauses.append(f"{words} {link} {_listed(f'{TASK_NAMES[each.task]} ({_figures(each)})' for each in chosen)}")
    return f"“{arm.name}” against “{baseline}”: {'; '.join(clauses)}."


def _figures(change: Comparison) -> str:
    """E.g. "mIoU 39.4 → 41.9 %, +2.5 points"; by scene where there is no test."""
    if change.tested:
        return f"{change.figures}, {change.write_difference(change.difference)}"
    each = ", ".join(change.write_signed(scene.difference) for scene in change.scenes)
    return f"{change.figures}: {each} {change.difference_unit}"


def _main(results: ProbeResults) -> list[Metric]:
    """The first metric of each task."""
    chosen: dict[str, Metric] = {}
    for metric in metrics_of(results):
        chosen.setdefault(metric.part, metric)
    return list(chosen.values())


def _listed(pieces: Iterable[str]) -> str:
    """a; a and b; a, b and c."""
    items = list(pieces)
    return " and ".join(items) if len(items) < 3 else f"{', '.join(items[:-1])} and {items[-1]}"
