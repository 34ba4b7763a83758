"""A probing run's figures as CSV tables, for spreadsheets and plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fit3d_finetune.probing.comparison import Comparison
from fit3d_finetune.probing.metrics import DEPTH_METRICS, NORMAL_METRICS
from fit3d_finetune.probing.results import ProbeResults
from fit3d_ns.common.csv_file import write_csv

Table = list[list[Any]]

TABLES = (
    *("segmentation", "classes", "depth", "depth_patches", "normals", "nearest_neighbours"),
    *("nearest_neighbours_across", "consistency", "matching", "comparisons", "scenes"),
)
"""Names of all tables that there can be."""

SEGMENTATION_METRICS = ("miou", "pooled_miou", "pixel_accuracy", "class_accuracy")


def write_tables(results: ProbeResults, folder: Path) -> None:
    """One CSV file per table of `result_tables`, each atomically."""
    for name, rows in result_tables(results).items():
        write_csv(folder / f"{name}.csv", rows)


def result_tables(results: ProbeResults) -> dict[str, Table]:
    """Tables by name, each with a header row; only of tasks that ran.

    segmentation, depth, depth_patches and normals have a row per arm and seed, classes per arm and class (IoU of
    every seed), nearest_neighbours and nearest_neighbours_across per arm, consistency and matching per arm and bin of
    angles, comparisons per arm and task, and scenes per arm, task and test scene.
    """
    tables: dict[str, Table] = {}
    if results.segmentation:
        tables["segmentation"] = _by_seed(results.segmentation, SEGMENTATION_METRICS, results.seeds)
        tables["classes"] = [["arm", "class", "counted", *(f"iou_seed_{seed}" for seed in results.seeds)]]
        for arm, segmented in results.segmentation.items():
            for index, name in enumerate(results.classes):
                ious = [of_seed[index] for of_seed in segmented.iou_per_class]
                tables["classes"].append([arm, name, int(index in results.counted_classes), *ious])
    if results.depth:
        tables["depth"] = _by_seed(results.depth, DEPTH_METRICS, results.seeds)
    if results.depth_patches:
        tables["depth_patches"] = _by_seed(results.depth_patches, DEPTH_METRICS, results.seeds)
    if results.normals:
        tables["normals"] = _by_seed(results.normals, NORMAL_METRICS, results.seeds)
    for name, part in (
        ("nearest_neighbours", results.nearest_neighbours),
        ("nearest_neighbours_across", results.nearest_neighbours_across),
    ):
        if part:
            tables[name] = [["arm", "k", "miou", "pooled_miou", "pixel_accuracy"]]
            tables[name] += [[arm, of.k, of.miou, of.pooled_miou, of.pixel_accuracy] for arm, of in part.items()]
    if results.consistency:
        tables["consistency"] = [["arm", "from_degrees", "to_degrees", "recall", "cosine", "pairs"]]
        for arm, consistent in results.consistency.items():
            bounds = zip(consistent.angle_edges[:-1], consistent.angle_edges[1:], strict=True)
            figures = zip(bounds, consistent.recall, consistent.cosine, consistent.pairs, strict=True)
            tables["consistency"] += [[arm, *bound, *values] for bound, *values in figures]
    if results.matching:
        tables["matching"] = [["arm", "from_degrees", "to_degrees", "threshold", "unit", "recall", "pairs"]]
        for arm, matched in results.matching.items():
            bins = list(zip(matched.angle_edges[:-1], matched.angle_edges[1:], strict=True))
            parts = [("m", matched.metres, matched.recall_metres), ("px", matched.pixels, matched.recall_pixels)]
            for unit, limits, recalls in parts:
                for limit, of_limit in zip(limits, recalls, strict=True):
                    rows = zip(bins, of_limit, matched.pairs, strict=True)
                    tables["matching"] += [[arm, *bound, limit, unit, recall, pairs] for bound, recall, pairs in rows]
    if results.comparisons:
        tables["comparisons"] = comparison_table(results.comparisons)
        tables["scenes"] = scene_table(results.comparisons)
    return tables


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """A header and a row per comparison; shares in 0..1, lengths in metres, empty where there was no test."""
    header = ["task", "metric", "unit", "higher_is_better", "arm", "baseline", "before", "after", "difference"]
    rows = [[getattr(one, name) for name in header] for one in comparisons]
    tested = ["confidence_low", "confidence_high", "p_value", "p_holm"]
    for row, one in zip(rows, comparisons, strict=True):
        values = [getattr(one, name) for name in tested]
        row += ["" if math.isnan(value) else value for value in values]
        row += [len(one.scenes), one.frames, one.seeds, one.words]
    return [[*header, *tested, "scenes", "frames", "seeds", "verdict"], *rows]


def scene_table(comparisons: Sequence[Comparison]) -> Table:
    """A header and a row per comparison and test scene; shares in 0..1, lengths in metres."""
    header = ["task", "metric", "unit", "arm", "baseline"]
    rows = [
        [
            *(getattr(one, name) for name in header),
            scene.scene,
            scene.frames,
            scene.before,
            scene.after,
            scene.difference,
        ]
        for one in comparisons
        for scene in one.scenes
    ]
    return [[*header, "scene", "frames", "before", "after", "difference"], *rows]


def _by_seed(part: dict[str, Any], metrics: Sequence[str], seeds: Sequence[int]) -> Table:
    rows = [
        [arm, seed, *(getattr(result, metric)[s] for metric in metrics)]
        for arm, result in part.items()
        for s, seed in enumerate(seeds)
    ]
    return [["arm", "seed", *metrics], *rows]
