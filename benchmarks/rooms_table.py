"""The table of `benchmarks.rooms`: Markdown for people, JSON for machines."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

from fit3d_finetune.probing.comparison import Comparison, Task
from fit3d_finetune.probing.results import ConsistencyResult, ProbeResults
from fit3d_ns.common.atomic import atomic_file


@dataclass(frozen=True)
class Probe:
    """One probing run of the benchmark."""

    variant: str
    split: str
    data: str
    results: Path


def write_table(path: Path, probes: list[Probe], stage1_metrics: Path) -> None:
    """Write all probing runs as `path` (Markdown) and beside it as JSON."""
    loaded = [(probe, ProbeResults.load(probe.results)) for probe in probes]
    lines = [
        "# Probes on data that fine-tuning never saw",
        "",
        f"Made by `python -m benchmarks.rooms` on {date.today().isoformat()}. Means over test scenes ± standard",
        "deviation over probe seeds. mIoU and accuracies in percent. Recall: correspondences found within 2 patches at",
        "30 to 60 degrees between views.",
    ]
    lines += ["", *_changes(loaded)]
    for probe, results in loaded:
        lines += ["", f"## {probe.variant}, split {probe.split}, {probe.data}", "", _provenance(results), ""]
        lines += _arms(results)
        lines += ["", *[f"- {comparison.statement}" for comparison in results.comparisons]]
    lines += ["", "## Stage 1", "", *_stage1(stage1_metrics)]
    with atomic_file(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")
    data = [
        {"variant": probe.variant, "split": probe.split, "data": probe.data, "results": _portable(probe.results)}
        for probe, _ in loaded
    ]
    with atomic_file(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(data) + "\n")


def _changes(loaded: list[tuple[Probe, ProbeResults]]) -> list[str]:
    """What every arm changes against the original, one row per run and arm."""
    rows = [
        "| features | split | data | arm | mIoU (points) | RMSE | kNN mIoU (points) | recall 30-60° |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for probe, results in loaded:
        for arm in results.arms[1:]:
            changes = {found.task: found for found in results.comparisons if found.arm == arm.name}
            cells = [_change(changes.get(task)) for task in _TASKS]
            rows.append(f"| {probe.variant} | {probe.split} | {probe.data} | {arm.name} | " + " | ".join(cells) + " |")
    return rows


_TASKS: tuple[Task, ...] = ("segmentation", "depth", "nearest_neighbours", "consistency")


def _change(found: Comparison | None) -> str:
    """In points, of lengths in per cent, of recall as a factor."""
    if found is None:
        return "-"
    if found.task == "consistency":
        return f"x {found.after / found.before:.2f}"
    return f"{100 * found.difference:+.1f}" if found.unit == "%" else f"{100 * found.difference / found.before:+.1f} %"


def _at_45_degrees(result: ConsistencyResult, measure: Literal["recall", "cosine"]) -> float:
    """In the bin of 30 to 60 degrees."""
    values: list[float] = getattr(result, measure)
    return values[result.angle_edges.index(30)]


def _portable(results: Path) -> dict[str, Any]:
    """results.json without the places of this machine."""
    data: dict[str, Any] = json.loads(results.read_text())
    for key in ("train_data", "test_data"):
        data[key] = [_short(name) for name in data[key]]
    return data


def _provenance(results: ProbeResults) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in results.versions.items())
    return (
        f"Probes trained on {len(results.train_data)} data sets, tested on "
        f"{', '.join(map(_short, results.test_data))}; "
        f"{len(results.counted_classes)} of {len(results.classes)} classes count; protocol {results.protocol}, seeds "
        f"{', '.join(map(str, results.seeds))}; {versions}."
    )


def _short(name: str) -> str:
    return Path(name).name


def _arms(results: ProbeResults) -> list[str]:
    columns = ["arm"]
    if results.segmentation:
        columns += ["mIoU", "pixel acc."]
    if results.depth:
        columns += ["RMSE (m)", "AbsRel", "delta < 1.25"]
    if results.nearest_neighbours:
        columns += ["kNN mIoU"]
    if results.consistency:
        columns += ["recall 30-60°", "cosine 30-60°"]
    rows = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for arm in results.arms:
        cells = [arm.name]
        if results.segmentation:
            segmentation = results.segmentation[arm.name]
            cells += [_spread(segmentation.miou, 100, 1), _spread(segmentation.pixel_accuracy, 100, 1)]
        if results.depth:
            depth = results.depth[arm.name]
            cells += [_spread(depth.rmse, 1, 3), _spread(depth.abs_rel, 1, 3), _spread(depth.delta1, 1, 3)]
        if results.nearest_neighbours:
            cells += [f"{100 * results.nearest_neighbours[arm.name].miou:.1f}"]
        if results.consistency:
            consistency = results.consistency[arm.name]
            cells += [f"{_at_45_degrees(consistency, 'recall'):.3f}", f"{_at_45_degrees(consistency, 'cosine'):.3f}"]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def _spread(values: list[float], scale: float, digits: int) -> str:
    text = f"{scale * mean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {scale * stdev(values):.{digits}f}"


def _stage1(folder: Path) -> list[str]:
    rows = ["| room | PSNR (dB) | SSIM | feature cosine |", "|---|---|---|---|"]
    for path in sorted(folder.glob("*.json")):
        metrics = json.loads(path.read_text())["results"]
        figures = [metrics.get(name, math.nan) for name in ("psnr", "ssim", "feature_cosine")]
        rows.append(f"| {path.stem} | {figures[0]:.2f} | {figures[1]:.3f} | {figures[2]:.3f} |")
    return rows
