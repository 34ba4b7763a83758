"""Bars of per-class IoU and curves of consistency over angle, as HTML and inline SVG that follow the page's colours."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from fit3d_finetune.probing.comparison import number
from fit3d_finetune.probing.results import ProbeResults
from fit3d_finetune.report.headline import headline_arm, is_control
from fit3d_finetune.report.markup import Markup, tag
from fit3d_finetune.report.metrics import mean, spread

_WIDTH, _HEIGHT = 440, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 14, 14, 44


def arm_style(index: int) -> str:
    """The CSS class that gives an arm its colour, by its place among the arms (six colours, then again)."""
    return f"arm{index % 6}"


def arm_legend(results: ProbeResults) -> Markup:
    """The arms with their colours."""
    return tag(
        "div",
        [
            tag("span", tag("i", class_=f"swatch {arm_style(index)}{' control' if is_control(arm) else ''}"), arm.name)
            for index, arm in enumerate(results.arms)
        ],
        class_="legend",
    )


def class_bars(results: ProbeResults) -> Markup:
    """Bars of IoU by class and arm; the classes that gained most first, those that mIoU leaves out last."""
    ious = class_ious(results)
    arm = headline_arm(results)
    gains = [math.nan] * len(results.classes)
    if arm is not None and arm.name in ious and results.arms[0].name in ious:
        pairs = zip(ious[arm.name], ious[results.arms[0].name], strict=True)
        gains = [mean(after) - mean(before) for after, before in pairs]
    counted = set(results.counted_classes)
    order = sorted(
        range(len(results.classes)),
        key=lambda index: (index not in counted, 0.0 if math.isnan(gains[index]) else -gains[index], index),
    )
    return tag(
        "div", [_class_block(results, ious, index, gains[index], index in counted) for index in order], class_="bars"
    )


def class_ious(results: ProbeResults) -> dict[str, list[list[float]]]:
    """By arm name: [classes][seeds], in 0..1."""
    return {
        arm.name: [list(seeds) for seeds in zip(*results.segmentation[arm.name].iou_per_class, strict=True)]
        for arm in results.arms
        if arm.name in results.segmentation and results.segmentation[arm.name].iou_per_class
    }


def _class_block(
    results: ProbeResults, ious: dict[str, list[list[float]]], index: int, gain: float, counted: bool
) -> Markup:
    rows = []
    for place, arm in enumerate(results.arms):
        if arm.name not in ious:
            continue
        value, deviation = mean(ious[arm.name][index]), spread(ious[arm.name][index])
        shown = number(100 * value, 1)
        title = f"{arm.name}: {shown}" + (f" ± {number(100 * deviation, 1)}" if math.isfinite(deviation) else "")
        bar = None
        if math.isfinite(value):
            bar = tag("i", class_=f"bar {arm_style(place)}", style=f"width:{100 * value:.2f}%")
        rows.append(tag("div", tag("span", bar, class_="track"), tag("span", shown, class_="value"), title=title))
    change = None
    if math.isfinite(gain):
        sign = "up" if gain >= 0.0005 else "down" if gain <= -0.0005 else "level"
        change = tag("span", number(100 * gain, 1, signed=True), class_=f"change {sign}")
    name = tag("h4", tag("span", results.classes[index]), change)
    return tag("div", name, rows, class_="class" if counted else "class uncounted")


def consistency_curves(results: ProbeResults) -> Markup:
    """Recall and cosine over the angle between the views, one line for each arm."""
    first = next(iter(results.consistency.values()))
    used = [index for index, pairs in enumerate(first.pairs) if pairs > 0]
    last = used[-1] + 1 if used else len(first.pairs)
    curves = []
    for field, title in (("recall", "Correspondence recall"), ("cosine", "Cosine of corresponding pixels")):
        lines = {
            place: [float(value) for value in getattr(results.consistency[arm.name], field)[:last]]
            for place, arm in enumerate(results.arms)
            if arm.name in results.consistency
        }
        chart = _line_chart(results, first.angle_edges[: last + 1], lines, title)
        curves.append(tag("figure", tag("figcaption", title), chart))
    return tag("div", curves, class_="curves")


def _line_chart(results: ProbeResults, edges: Sequence[float], lines: dict[int, list[float]], title: str) -> Markup:
    """Values at the middle of their bins; a line is interrupted at empty bins."""
    known = [value for values in lines.values() for value in values if math.isfinite(value)]
    ticks = _round_ticks(min(known, default=0.0), max(known, default=1.0))
    low, high = ticks[0], ticks[-1]

    def x(angle: float) -> float:
        return _LEFT + (angle - edges[0]) / (edges[-1] - edges[0]) * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    marks: list[Markup] = []
    for tick in ticks:
        place = f"{y(tick):.1f}"
        marks.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=place, y2=place, class_="grid"))
        marks.append(tag("text", f"{tick:g}".replace("-", "−"), x=_LEFT - 8, y=f"{y(tick) + 4:.1f}", class_="end"))
    for edge in edges:
        place = f"{x(edge):.1f}"
        marks.append(tag("line", x1=place, x2=place, y1=_HEIGHT - _BOTTOM, y2=_HEIGHT - _BOTTOM + 5, class_="axis"))
        marks.append(tag("text", f"{edge:g}°", x=place, y=_HEIGHT - _BOTTOM + 20, class_="middle"))
    baseline = _HEIGHT - _BOTTOM
    marks.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=baseline, y2=baseline, class_="axis"))
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    marks.append(tag("text", "angle between the views", x=middle, y=_HEIGHT - 6, class_="middle"))
    centres = [(start + end) / 2 for start, end in itertools.pairwise(edges)]
    for arm, values in lines.items():
        style = arm_style(arm) + (" control" if is_control(results.arms[arm]) else "")
        points = [(x(angle), y(value), value) for angle, value in zip(centres, values, strict=True)]
        path = ""
        for index, (across, down, value) in enumerate(points):
            if math.isfinite(value):
                joined = index > 0 and math.isfinite(points[index - 1][2])
                path += f"{'L' if joined else 'M'}{across:.1f} {down:.1f}"
        marks.append(tag("path", d=path, class_=f"line {style}"))
        for index, (across, down, value) in enumerate(points):
            if math.isfinite(value):
                bin_name = f"{edges[index]:g}–{edges[index + 1]:g}°"
                label = tag("title", f"{results.arms[arm].name}, {bin_name}: {number(value, 3)}")
                marks.append(tag("circle", label, cx=f"{across:.1f}", cy=f"{down:.1f}", r=4, class_=f"dot {style}"))
    return tag("svg", marks, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=f"{title} over angle")


def _round_ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers around [low, high]; from 0 if that is not far off."""
    if 0 < low < 0.5 * high:
        low = 0.0
    span = max(high - low, 1e-3)
    step = 10.0 ** math.floor(math.log10(span / 2))
    while span / step > 4.5:
        step *= 2 if f"{step:e}"[0] in "15" else 2.5
    start, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(start, max(end, start + 1) + 1)]
