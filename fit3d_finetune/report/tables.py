"""The parts of the page that are words and numbers: findings, the table of arms, comparisons, provenance."""

from __future__ import annotations

import math

from fit3d_finetune.probing.results import Comparison, ProbeResults
from fit3d_finetune.report.charts import arm_style
from fit3d_finetune.report.headline import (
    TASK_NAMES,
    Finding,
    find_changes,
    headline_arm,
    is_control,
    is_significant,
)
from fit3d_finetune.report.markup import Content, Markup, join, tag
from fit3d_finetune.report.metrics import MISSING, Metric, best_arms, mean, metrics_of, number, spread

_GROUPS = {
    "segmentation": "Segmentation",
    "depth": "Depth",
    "nearest_neighbours": "Nearest neighbours",
    "consistency": "Consistency",
}
_VERDICTS = {
    "better": "significantly better",
    "worse": "significantly worse",
    "mixed": "mixed",
    "unclear": "no significant difference",
    "untested": "not tested",
}


def finding_tiles(results: ProbeResults) -> Markup | None:
    """One tile for each task of the arm that the headline is about."""
    arm = headline_arm(results)
    findings = find_changes(results, arm) if arm else []
    return tag("div", [_tile(finding) for finding in findings], class_="tiles") if findings else None


def _tile(finding: Finding) -> Markup:
    unit = "%" if finding.metric.scale == 100 else "m" if finding.metric.name == "RMSE" else ""
    before, after = finding.metric.write(finding.before), finding.metric.write(finding.after)
    test = None
    if finding.comparison is not None:
        low, high = _in_unit(finding.comparison, finding.comparison.confidence_low, finding.comparison.confidence_high)
        test = tag(
            "p",
            f"{_difference(finding.comparison)} in {finding.comparison.metric}, ",
            f"95 % interval {low} to {high}, {_p_value(finding.comparison.p_value)}",
            class_="test",
        )
    return tag(
        "div",
        tag("h3", TASK_NAMES[finding.task].capitalize()),
        tag("p", finding.change, class_="big"),
        tag("p", f"{finding.metric.name} {before} → {after} {unit}".rstrip()),
        tag("p", tag("span", _VERDICTS[finding.verdict], class_=f"verdict {finding.verdict}")),
        test,
        class_=f"tile {finding.verdict}",
    )


def table_of_arms(results: ProbeResults) -> Markup | None:
    """Every metric of every arm, mean and spread over the probe seeds; the best of a column is bold."""
    metrics = metrics_of(results)
    if not metrics:
        return None
    groups: dict[str, list[Metric]] = {}
    for metric in metrics:
        groups.setdefault(metric.part, []).append(metric)
    best = {id(metric): best_arms(results, metric) for metric in metrics}
    starts = {id(members[0]) for members in groups.values()}
    above = [tag("th", _GROUPS[part], colspan=len(members), class_="group") for part, members in groups.items()]
    below = [
        tag(
            "th",
            _unbroken(metric.name),
            tag("span", "↑" if metric.higher_is_better else "↓", class_="way"),
            title=f"{metric.meaning} ({'higher' if metric.higher_is_better else 'lower'} is better)",
            class_="start" if id(metric) in starts else None,
        )
        for metric in metrics
    ]
    rows = []
    for index, arm in enumerate(results.arms):
        name = tag("th", tag("i", class_=f"swatch {arm_style(index)}"), arm.name, class_="name")
        cells = []
        for metric in metrics:
            values = metric.measured(results, arm.name)
            start = "start" if id(metric) in starts else None
            cells.append(tag("td", _cell(metric, values, arm.name in best[id(metric)]), class_=start))
        rows.append(tag("tr", name, cells, class_="control" if is_control(arm) else None))
    head = tag("thead", tag("tr", tag("th", "arm", rowspan=2, class_="name"), above), tag("tr", below))
    return tag("div", tag("table", head, tag("tbody", rows), class_="arms"), class_="scroll")


def _unbroken(name: str) -> str:
    """A metric's name that is only broken between words, not in "δ < 1.25" or "30–60°"."""
    joined = name.replace(" < ", "\N{NO-BREAK SPACE}<\N{NO-BREAK SPACE}")
    return joined.replace("–", "\N{WORD JOINER}–\N{WORD JOINER}")


def _cell(metric: Metric, values: list[float], is_best: bool) -> Markup:
    value, deviation = metric.write(mean(values)), spread(values)
    shown = tag("b", value) if is_best else Markup(value)
    return join(shown, tag("small", f"± {metric.write(deviation)}") if math.isfinite(deviation) else None)


def comparison_list(results: ProbeResults) -> Markup | None:
    """Each paired test in words."""
    if not results.comparisons:
        return None
    entries = []
    for comparison in results.comparisons:
        verdict = _direction(comparison)
        chip = tag("span", _VERDICTS[verdict], class_=f"verdict {verdict}")
        entries.append(tag("li", chip, tag("span", comparison.statement)))
    return tag("ul", entries, class_="statements")


def _direction(comparison: Comparison) -> str:
    if math.isnan(comparison.mean_difference):
        return "untested"
    if not is_significant(comparison):
        return "unclear"
    lower_is_better = "rmse" in comparison.metric.lower()
    return "better" if (comparison.mean_difference > 0) != lower_is_better else "worse"


def provenance(results: ProbeResults) -> Markup:
    """How the figures came about: data, protocol, seeds, backbones, versions, time."""
    counted = [results.classes[index] for index in results.counted_classes if index < len(results.classes)]
    facts: list[tuple[str, Content]] = [
        ("Protocol", results.protocol),
        ("Probe seeds", ", ".join(str(seed) for seed in results.seeds)),
        ("Training data", ", ".join(results.train_data)),
        ("Test data", ", ".join(results.test_data)),
        ("Test images", str(len(results.test_images)) if results.test_images else ""),
        ("Counted classes", f"{len(counted)} of {len(results.classes)}: {', '.join(counted)}" if counted else ""),
        ("Arms", _lines([f"{arm.name}: {' ⊕ '.join(arm.backbones)}" for arm in results.arms])),
        ("Versions", ", ".join(f"{name} {version}" for name, version in results.versions.items())),
        ("Time", ", ".join(f"{stage} {number(value, 1)} s" for stage, value in results.seconds.items())),
    ]
    known = [join(tag("dt", name), tag("dd", content)) for name, content in facts if content]
    backbones = [
        tag("details", tag("summary", name), tag("dl", [_fact(key, value) for key, value in facts.items()]))
        for name, facts in results.backbones.items()
    ]
    return join(tag("dl", known, class_="facts"), tag("div", backbones, class_="backbones") if backbones else None)


def _fact(key: str, value: object) -> Markup:
    return join(tag("dt", key.replace("_", " ")), tag("dd", MISSING if value is None else str(value)))


def _lines(entries: list[str]) -> Content:
    return [tag("div", entry) for entry in entries] or None


def _in_unit(comparison: Comparison, *values: float) -> tuple[str, ...]:
    if "rmse" in comparison.metric.lower():
        return tuple(number(value, 3, signed=True) for value in values)
    return tuple(number(100 * value, 1, signed=True) for value in values)


def _difference(comparison: Comparison) -> str:
    unit = "m" if "rmse" in comparison.metric.lower() else "points"
    return f"{_in_unit(comparison, comparison.mean_difference)[0]} {unit}"


def _p_value(value: float) -> str:
    if math.isnan(value):
        return "p –"
    return "p < 0.001" if value < 0.001 else f"p = {number(value, 3)}"
