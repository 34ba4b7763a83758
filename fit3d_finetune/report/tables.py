"""The parts of the page that are words and numbers: findings, the table of arms, comparisons, provenance."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fit3d_finetune.probing.comparison import LEVEL, MIN_SCENES, MISSING, Comparison, number
from fit3d_finetune.probing.results import ProbeResults
from fit3d_finetune.report.charts import arm_style
from fit3d_finetune.report.headline import TASK_NAMES, changes_of, headline_arm, is_control
from fit3d_finetune.report.markup import Content, Markup, join, tag
from fit3d_finetune.report.metrics import Metric, best_arms, mean, metrics_of, spread

_GROUPS = {
    "segmentation": "Segmentation",
    "depth": "Depth",
    "depth_patches": "Depth, patches",
    "normals": "Normals",
    "nearest_neighbours": "Nearest neighbours",
    "nearest_neighbours_across": "Other angles",
    "consistency": "Consistency",
    "matching": "Matching",
}


def finding_tiles(results: ProbeResults) -> Markup | None:
    """One tile for each task of the arm that the headline is about."""
    arm = headline_arm(results)
    changes = changes_of(results, arm) if arm else []
    return tag("div", [_tile(change) for change in changes], class_="tiles") if changes else None


def _tile(change: Comparison) -> Markup:
    evidence = f"{change.interval}, {change.p_words}" if change.tested else change.by_scene
    return tag(
        "div",
        tag("h3", TASK_NAMES[change.task].capitalize()),
        tag("p", change.write_difference(change.difference), class_="big"),
        tag("p", change.figures),
        tag("p", _chip(change)),
        tag("p", evidence, class_="test"),
        class_=f"tile {change.verdict}",
    )


def _chip(change: Comparison) -> Markup:
    return tag("span", change.words, class_=f"verdict {change.verdict}")


def table_of_arms(results: ProbeResults) -> Markup | None:
    """Every metric that the table has room for, mean and spread over the probe seeds; a column's best is bold."""
    metrics = [metric for metric in metrics_of(results) if metric.in_table]
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
    """Each comparison in words, and below them the differences by scene."""
    if not results.comparisons:
        return None
    entries = [tag("li", _chip(change), tag("span", change.statement)) for change in results.comparisons]
    return join(tag("ul", entries, class_="statements"), _scene_tables(results.comparisons))


def how_compared(results: ProbeResults) -> str:
    """What was compared and by which test."""
    scenes = len(results.scenes)
    unit = f"The main figure of each task; the unit is the test scene ({scenes} here), not the image."
    tested = sum(change.tested for change in results.comparisons)
    if not tested:
        return f"{unit} Fewer than {MIN_SCENES} scenes are not tested: the differences by scene are all there is."
    return (
        f"{unit} Hierarchical bootstrap over scenes, blocks of consecutive frames and probe seeds; Student’s t; "
        f"Holm’s correction over the {tested} comparisons of this table. Corrected p-values below {LEVEL:g} are called "
        "significant; intervals are of one comparison alone."
    )


def _scene_tables(comparisons: Sequence[Comparison]) -> list[Markup]:
    """For each figure the differences of every arm in every scene."""
    figures: dict[tuple[str, str], list[Comparison]] = {}
    for change in comparisons:
        if change.scenes:
            figures.setdefault((change.task, change.metric), []).append(change)
    return [_scene_table(changes) for changes in figures.values()]


def _scene_table(changes: list[Comparison]) -> Markup:
    first = changes[0]
    names = list(dict.fromkeys(scene.scene for change in changes for scene in change.scenes))
    rows = []
    for change in changes:
        by_scene = {scene.scene: scene.difference for scene in change.scenes}
        cells = [change.write_signed(by_scene.get(name, math.nan)) for name in names]
        mean_cell = tag("td", tag("b", change.write_signed(change.difference)), class_="start")
        rows.append(tag("tr", tag("th", change.arm, class_="name"), [tag("td", cell) for cell in cells], mean_cell))
    way = "higher" if first.higher_is_better else "lower"
    title = f"{first.metric}: difference to “{first.baseline}” by scene, {first.difference_unit} ({way} is better)"
    heads = [tag("th", "arm", class_="name"), [tag("th", name) for name in names], tag("th", "mean", class_="start")]
    table = tag("table", tag("thead", tag("tr", heads)), tag("tbody", rows), class_="by-scene")
    return tag("div", tag("h3", title), tag("div", table, class_="wide"), class_="scene-table")


def provenance(results: ProbeResults) -> Markup:
    """How the figures came about: data, protocol, seeds, backbones, versions, time."""
    counted = [results.classes[index] for index in results.counted_classes if index < len(results.classes)]
    facts: list[tuple[str, Content]] = [
        ("Protocol", results.protocol),
        ("Probe seeds", ", ".join(str(seed) for seed in results.seeds)),
        ("Training data", ", ".join(results.train_data)),
        ("Test data", ", ".join(results.test_data)),
        ("Test images", str(len(results.test_images)) if results.test_images else ""),
        ("Test scenes", f"{len(results.scenes)}: {', '.join(results.scenes)}" if results.scenes else ""),
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
