"""The pictures of predictions: what each arm made of an example, and where it is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from fit3d_finetune.probing.comparison import number
from fit3d_finetune.probing.metrics import normal_metrics
from fit3d_finetune.probing.results import Example, ProbeResults
from fit3d_finetune.report.images import (
    MAP_SIDE,
    Array,
    framed,
    jpeg_uri,
    path_caption,
    photo,
    png_uri,
    scale_bar,
    shrink,
)
from fit3d_finetune.report.markup import Markup, tag
from fit3d_finetune.report.pictures import (
    VOID,
    class_colours,
    colour_labels,
    colour_normals,
    colour_scale,
    colour_values,
    mark_label_errors,
    usual_range,
)

WORST_ANGLE = 60.0
"""Degrees; angles from here on have one colour."""


@dataclass(frozen=True)
class ExampleError:
    """How far one arm's prediction of an example is off."""

    example: str
    arm: str
    pixel_accuracy: float
    """0..1; NaN without labels and prediction."""
    rmse: float
    """Metres; NaN without depth and prediction."""


def example_errors(results: ProbeResults, examples: Sequence[Example]) -> list[ExampleError]:
    """The errors that the captions name, for every example and arm that has a prediction."""
    return [
        ExampleError(example.name, arm.name, _accuracy(example, arm.name), _rmse(example, arm.name))
        for example in examples
        for arm in results.arms
        if arm.name in example.predicted_labels or arm.name in example.predicted_depth
    ]


def segmentation_rows(results: ProbeResults, examples: Sequence[Example]) -> list[Markup]:
    """For each example with predicted labels: the truth and each arm's prediction, below them the wrong pixels."""
    palette = class_colours(len(results.classes))
    rows = []
    for index, example in enumerate(examples):
        arms = [arm.name for arm in results.arms if arm.name in example.predicted_labels]
        if not arms:
            continue
        shape = example.image.shape
        truth = _small_labels(example.labels) if example.labels is not None else None
        shown = {arm: _small_labels(example.predicted_labels[arm]) for arm in arms}
        cells = []
        if truth is not None:
            cells.append(framed(png_uri(colour_labels(truth, palette)), shape, "true labels", "truth"))
        for arm, labels in shown.items():
            uri = png_uri(colour_labels(labels, palette))
            cells.append(framed(uri, shape, f"labels predicted by {arm}", tag("b", arm)))
        if truth is not None:
            cells.append(_photo_cell(index, example))
            image = cv2.resize(example.image, truth.shape[::-1], interpolation=cv2.INTER_AREA)
            for arm, labels in shown.items():
                accuracy = f"{number(100 * _accuracy(example, arm), 1)} % right"
                uri = jpeg_uri(mark_label_errors(image, truth, labels))
                cells.append(framed(uri, shape, f"wrong pixels of {arm}", accuracy))
        present = np.unique(
            np.concatenate([labels.ravel() for labels in [*shown.values(), truth] if labels is not None])
        )
        names = [
            tag("span", tag("i", class_="swatch", style=f"background:{_css(palette[label])}"), results.classes[label])
            for label in present
            if label < len(results.classes)
        ]
        style = f"--columns:{len(arms) + (truth is not None)}"
        legend = tag("div", names, class_="legend classes")
        rows.append(tag("div", tag("div", cells, class_="row matrix", style=style), legend, class_="scroll-row"))
    return rows


def depth_rows(results: ProbeResults, examples: Sequence[Example]) -> list[Markup]:
    """For each example with predicted depth: the truth and each arm's prediction, below them the errors.

    The colours of an example's depths are on one scale, and those of its errors too.
    """
    rows = []
    scale, error_scale = colour_scale("depth"), colour_scale("error")
    for index, example in enumerate(examples):
        arms = [arm.name for arm in results.arms if arm.name in example.predicted_depth]
        if not arms:
            continue
        shape = example.image.shape
        known = example.depth > 0 if example.depth is not None else None
        reference = example.predicted_depth[arms[0]] if example.depth is None else example.depth
        low, high = usual_range(reference[known] if known is not None else reference)
        cells = []
        if example.depth is not None:
            cells.append(framed(_smooth(example.depth, scale, low, high, known), shape, "true depth", "truth"))
        for arm in arms:
            uri = _smooth(example.predicted_depth[arm], scale, low, high, None)
            cells.append(framed(uri, shape, f"depth predicted by {arm}", tag("b", arm)))
        legends = [scale_bar(scale, number(low, 1), f"{number(high, 1)} m", "depth")]
        if example.depth is not None:
            cells.append(_photo_cell(index, example))
            errors = {arm: np.abs(example.predicted_depth[arm] - example.depth) for arm in arms}
            worst = max(usual_range(errors[arms[0]][known])[1], 0.05)
            for arm, error in errors.items():
                uri = _smooth(error, error_scale, 0.0, worst, known)
                rmse = f"RMSE {number(_rmse(example, arm), 3)} m"
                cells.append(framed(uri, shape, f"depth error of {arm}", rmse))
            legends.append(scale_bar(error_scale, "0", f"≥ {number(worst, 2)} m", "error"))
        style = f"--columns:{len(arms) + (example.depth is not None)}"
        row = tag("div", cells, class_="row matrix", style=style)
        rows.append(tag("div", row, tag("div", legends, class_="legend"), class_="scroll-row"))
    return rows


def normal_rows(results: ProbeResults, examples: Sequence[Example]) -> list[Markup]:
    """For each example with predicted normals: the truth and each arm's prediction, below them the angles between."""
    rows = []
    error_scale = colour_scale("error")
    for index, example in enumerate(examples):
        arms = [arm.name for arm in results.arms if arm.name in example.predicted_normals]
        if not arms or example.normals is None:
            continue
        shape, known = example.image.shape, (example.normals**2).sum(axis=-1) > 0
        cells = [framed(_coloured(example.normals), shape, "true normals", "truth")]
        for arm in arms:
            uri = _coloured(example.predicted_normals[arm])
            cells.append(framed(uri, shape, f"normals predicted by {arm}", tag("b", arm)))
        cells.append(_photo_cell(index, example))
        for arm in arms:
            cosine = (example.normals * example.predicted_normals[arm]).sum(axis=-1).clip(-1, 1)
            uri = _smooth(np.degrees(np.arccos(cosine)), error_scale, 0.0, WORST_ANGLE, known)
            rmse = normal_metrics(example.normals, example.predicted_normals[arm])["rmse"]
            cells.append(framed(uri, shape, f"angular error of {arm}", f"RMSE {number(rmse, 1)}°"))
        legend = tag("div", [scale_bar(error_scale, "0", f"≥ {WORST_ANGLE:g}°", "error")], class_="legend")
        style = f"--columns:{len(arms) + 1}"
        rows.append(tag("div", tag("div", cells, class_="row matrix", style=style), legend, class_="scroll-row"))
    return rows


def _coloured(normals: Array) -> str:
    return jpeg_uri(shrink(colour_normals(normals), MAP_SIDE))


def _photo_cell(index: int, example: Example) -> Markup:
    return tag("figure", photo(index, example.name), path_caption(example.name))


def _small_labels(labels: Array) -> Array:
    # OpenCV does not resize 64-bit integers, and void is the largest label there is.
    return shrink(labels.clip(0, VOID).astype(np.uint8), MAP_SIDE, cv2.INTER_NEAREST)


def _smooth(values: Array, scale: Array, low: float, high: float, known: Array | None) -> str:
    picture = colour_values(values, scale, low, high, known)
    return jpeg_uri(shrink(picture, MAP_SIDE))


def _accuracy(example: Example, arm: str) -> float:
    if example.labels is None or arm not in example.predicted_labels:
        return float("nan")
    valid = example.labels != VOID
    return float((example.predicted_labels[arm] == example.labels)[valid].mean()) if valid.any() else float("nan")


def _rmse(example: Example, arm: str) -> float:
    if example.depth is None or arm not in example.predicted_depth:
        return float("nan")
    known = example.depth > 0
    difference = (example.predicted_depth[arm] - example.depth)[known].astype(np.float64)
    return float(np.sqrt(np.mean(difference**2))) if known.any() else float("nan")


def _css(colour: Array) -> str:
    return f"rgb({colour[0]},{colour[1]},{colour[2]})"
