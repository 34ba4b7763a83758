"""The figures as data: what the page draws, as CSV and JSON for other programs."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from fit3d_finetune.probing.results import Example, ProbeResults
from fit3d_finetune.probing.tables import comparison_table, scene_table
from fit3d_finetune.report.charts import class_ious
from fit3d_finetune.report.features import FeatureViews
from fit3d_finetune.report.metrics import mean, metrics_of, spread
from fit3d_finetune.report.predictions import ExampleError, example_errors
from fit3d_ns.common.atomic import atomic_file
from fit3d_ns.common.csv_file import write_csv

Row = Sequence[object]

FIGURE_FILES = (
    *("arms.csv", "class_iou.csv", "consistency.csv", "comparisons.csv", "scenes.csv", "examples.csv"),
    "features.json",
)
"""All that `write_figures` writes, as far as there are such figures."""


def write_figures(results: ProbeResults, examples: Sequence[Example], views: FeatureViews | None, folder: Path) -> None:
    """Write the data of each figure into `folder`; a file of an earlier report that is no longer made is removed.

    arms.csv, class_iou.csv, consistency.csv, comparisons.csv, scenes.csv, examples.csv and features.json. Shares are in
    0..1, lengths in metres; an empty field is a value that there is not.
    """
    _write_csv(folder / "arms.csv", ("arm", "task", "metric", "mean", "spread", "values"), _arm_rows(results))
    _write_csv(folder / "class_iou.csv", ("class", "counted", "arm", "mean", "spread"), _class_rows(results))
    _write_csv(
        folder / "consistency.csv",
        ("arm", "angle_from", "angle_to", "pairs", "recall", "cosine"),
        _consistency_rows(results),
    )
    for name, (header, *rows) in (
        ("comparisons", comparison_table(results.comparisons)),
        ("scenes", scene_table(results.comparisons)),
    ):
        _write_csv(folder / f"{name}.csv", header, rows)
    fields = [field.name for field in dataclasses.fields(ExampleError)]
    _write_csv(folder / "examples.csv", fields, map(dataclasses.astuple, example_errors(results, examples)))
    path = folder / "features.json"
    if views is None:
        path.unlink(missing_ok=True)
    else:
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(_features(examples, views)) + "\n", encoding="utf-8")


def _arm_rows(results: ProbeResults) -> Iterable[Row]:
    for arm in results.arms:
        for metric in metrics_of(results):
            if values := metric.measured(results, arm.name):
                every = " ".join("" if math.isnan(value) else repr(value) for value in values)
                yield arm.name, metric.part, metric.name, mean(values), spread(values), every


def _class_rows(results: ProbeResults) -> Iterable[Row]:
    for arm, ious in class_ious(results).items():
        for index, values in enumerate(ious):
            counted = int(index in results.counted_classes)
            yield results.classes[index], counted, arm, mean(values), spread(values)


def _consistency_rows(results: ProbeResults) -> Iterable[Row]:
    for arm, result in results.consistency.items():
        bins = zip(
            result.angle_edges[:-1], result.angle_edges[1:], result.pairs, result.recall, result.cosine, strict=True
        )
        for values in bins:
            yield arm, *values


def _features(examples: Sequence[Example], views: FeatureViews) -> dict[str, object]:
    return {
        "projection": {"matrix": views.projection.matrix.tolist(), "offset": views.projection.offset.tolist()},
        "cluster_centres": views.centres.tolist(),
        "examples": [
            {
                "name": example.name,
                "picked_patch": views.picked[index],
                "backbones": {
                    name: {
                        "colours": views.colours[index][name].tolist(),
                        "clusters": views.clusters[index][name].tolist(),
                        "similarity": [[round(float(value), 4) for value in row] for row in similarity],
                    }
                    for name, similarity in views.similarity[index].items()
                },
            }
            for index, example in enumerate(examples)
        ],
    }


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Row]) -> None:
    rows = list(rows)
    if not rows:
        path.unlink(missing_ok=True)
        return
    known = (["" if isinstance(cell, float) and math.isnan(cell) else cell for cell in row] for row in rows)
    write_csv(path, [header, *known])
