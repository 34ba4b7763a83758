"""The page of `benchmarks.rooms`: what ten rooms say together, room by room, and what each choice was made on."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.markdown import header, row
from benchmarks.recipe_choice import Trial, all_gains, candidate_name, choose
from benchmarks.report import commit
from fit3d_finetune.probing.comparison import Comparison
from fit3d_finetune.probing.cross_validation import pool
from fit3d_finetune.probing.results import ProbeResults
from fit3d_ns.common.atomic import atomic_file

CONTROL_PAIRS = (("fine-tuned", "2D control"), ("original + fine-tuned", "original + 2D control"))
"""What 3D adds to the same budget without it."""
WIDTH_PAIR = ("original + fine-tuned", "original + original")
"""What the fine-tuned features add to the same width without them."""
STAGE1_FIGURES = {"PSNR (dB)": ("psnr", 2), "SSIM": ("ssim", 3), "feature cosine": ("feature_cosine", 3)}

Table = list[str]


@dataclass(frozen=True)
class FoldFiles:
    """What a fold left: probing runs, and the trials that it chose among."""

    name: str
    results: Path
    trials: list[Path]
    second_seed: Path | None = None


@dataclass(frozen=True)
class Evidence:
    """Everything that the page is made from."""

    folds: list[FoldFiles]
    streets: Path | None
    """The probing run on CamVid, if there is one."""
    stage1: dict[str, list[Path]]
    """By room, ns-eval's metrics of each seed; empty: not measured."""


def write_table(path: Path, evidence: Evidence) -> None:
    """Write the page."""
    runs = [ProbeResults.load(fold.results) for fold in evidence.folds]
    seconds = [ProbeResults.load(fold.second_seed) for fold in evidence.folds if fold.second_seed is not None]
    against_original = pool([*runs, *seconds])
    against_control = pool([*runs, *seconds], [*CONTROL_PAIRS, WIDTH_PAIR])
    rooms, repeated = sum(len(run.scenes) for run in runs), len(seconds) or "none of the"
    lines = [
        f"# Five-fold cross-validation over {rooms} rooms",
        "",
        f"Made by `{_command(evidence)}` on {date.today().isoformat()}, commit {commit()}, {platform.machine()}",
        f"({_versions(runs[0])}); what it says: [README.md](README.md).",
        "",
        f"Every room is a test room once. Protocol {runs[0].protocol}, probe seeds {_joined(runs[0].seeds)}; a second",
        f"seed of fine-tuning in {repeated} folds. Figures are means over rooms. Intervals and p-values:",
        "hierarchical bootstrap over rooms, blocks of frames and seeds; p after Holm's correction over a table's rows.",
        "",
        "## Against the original",
        "",
        *comparison_rows(against_original),
        "",
        "## Against the controls",
        "",
        *comparison_rows(against_control),
        "",
        "## Room by room",
        "",
        *room_rows(against_original),
        "",
        *_choices(evidence.folds),
        *(["## The second seed of fine-tuning", "", *seed_rows(evidence.folds), ""] if seconds else []),
    ]
    if evidence.streets is not None:
        lines += ["## CamVid (one drive: no test)", "", *street_rows(ProbeResults.load(evidence.streets)), ""]
    if evidence.stage1:
        said = "Held-out views, mean ± standard deviation over seeds of the training."
        lines += ["## Stage 1", "", said, "", *stage1_rows(evidence.stage1)]
    with atomic_file(path) as temporary:
        temporary.write_text("\n".join(lines).rstrip() + "\n")


def _command(evidence: Evidence) -> str:
    """What makes such a page."""
    once = not any(fold.second_seed for fold in evidence.folds)
    preset = not any(fold.trials for fold in evidence.folds)
    options = [option for option, given in (("--once", once), ("--preset", preset)) if given]
    return " ".join(("python -m benchmarks.rooms", *options))


def _choices(folds: Sequence[FoldFiles]) -> Table:
    """The section of what was chosen."""
    if not any(fold.trials for fold in folds):
        return ["Every fold has the preset `recommended` as it is; nothing was chosen inside the folds.", ""]
    return [
        "## What was chosen inside the folds",
        "",
        "Recipe (the weights of depth and normals) and share of fine-tuned weights. Gain: that of mIoU plus the falls",
        "of the RMSE of depth and of normals, all relative, mean of alone and with the original.",
        "",
        *choice_rows(folds),
        "",
    ]


def comparison_rows(comparisons: Sequence[Comparison]) -> Table:
    """One row per comparison, with what the test says of it."""
    titles = ("figure", "arm", "against", "before → after", "difference", "95 % interval", "p (Holm)", "rooms better")
    rows = header(*titles)
    for each in comparisons:
        gains = [scene.difference * (1 if each.higher_is_better else -1) for scene in each.scenes]
        figures = f"{each.write(each.before)} → {each.write(each.after)} {each.unit}"
        interval = each.interval.removeprefix("95 % interval ") if each.tested else "-"
        p_value = _p(each.p_holm) if each.tested else "-"
        better = f"{sum(gain > 0 for gain in gains)} of {len(gains)}"
        change = each.write_difference(each.difference) + _relative(each)
        rows.append(row(each.metric, each.arm, each.baseline, figures, change, interval, p_value, better))
    return rows


def room_rows(comparisons: Sequence[Comparison]) -> Table:
    """Every room's differences, one column per room."""
    rooms = list(dict.fromkeys(scene.scene for each in comparisons for scene in each.scenes))
    rows = header("figure", "arm", *(room.removeprefix("room_") for room in rooms))
    for each in comparisons:
        by_room = {scene.scene: each.write_difference(scene.difference) for scene in each.scenes}
        cells = [by_room.get(room, "-").partition(" ")[0] for room in rooms]
        rows.append(row(f"{each.metric} ({'points' if each.unit == '%' else each.unit})", each.arm, *cells))
    return rows


def choice_rows(folds: Sequence[FoldFiles]) -> Table:
    """Recipe and share of fine-tuned weights of every fold, and the gains they were chosen by."""
    tried = {fold.name: [Trial.load(path) for path in fold.trials] for fold in folds}
    titles = {key: candidate_name(*key) for key in all_gains(next(iter(tried.values())))}
    rows = header("fold", "chosen on", *(f"gain of {title}" for title in titles.values()), "kept")
    for fold, trials in tried.items():
        gains = all_gains(trials)
        cells = [f"{100 * gains[key]:+.1f} %" for key in titles]
        rows.append(row(fold, _joined(trials[0].validation), *cells, titles[choose(trials)]))
    return rows


def seed_rows(folds: Sequence[FoldFiles]) -> Table:
    """Both seeds' differences from the original in the folds that have two."""
    rows = header("fold", "figure", "arm", "first seed", "second seed")
    for fold in folds:
        if fold.second_seed is None:
            continue
        first, second = (pool([ProbeResults.load(path)]) for path in (fold.results, fold.second_seed))
        for a, b in zip(first, second, strict=True):
            if "fine-tuned" in a.arm:
                cells = (each.write_difference(each.difference) for each in (a, b))
                rows.append(row(fold.name, a.metric, a.arm, *cells))
    return rows


def street_rows(results: ProbeResults) -> Table:
    """mIoU over all pixels of the data set, by arm."""
    rows = header("arm", "mIoU (%)", "difference (points)")
    first = mean(results.segmentation[results.arms[0].name].pooled_miou)
    for arm in results.arms:
        values = [100 * value for value in results.segmentation[arm.name].pooled_miou]
        rows.append(row(arm.name, spread(values, 1), f"{mean(values) - 100 * first:+.1f}"))
    return rows


def stage1_rows(rooms: dict[str, list[Path]]) -> Table:
    """Every room's figures over the seeds of its training, and their mean."""
    rows = header("room", *STAGE1_FIGURES)
    means: dict[str, list[float]] = {name: [] for name in STAGE1_FIGURES}
    for room, paths in rooms.items():
        found = [_read(path)["results"] for path in paths]
        cells = []
        for title, (name, decimals) in STAGE1_FIGURES.items():
            values = [float(metrics[name]) for metrics in found]
            means[title].append(mean(values))
            cells.append(spread(values, decimals))
        rows.append(row(room, *cells))
    totals = [f"{mean(means[title]):.{decimals}f}" for title, (_, decimals) in STAGE1_FIGURES.items()]
    return [*rows, row("mean", *totals)]


def spread(values: Sequence[float], decimals: int) -> str:
    """Mean ± standard deviation."""
    text = f"{mean(values):.{decimals}f}"
    return text if len(values) < 2 else f"{text} ± {stdev(values):.{decimals}f}"


def _relative(comparison: Comparison) -> str:
    """Depth errors and recalls are compared in relative terms too, as in published tables."""
    if comparison.task not in ("depth", "consistency") or not comparison.before:
        return ""
    return f" ({100 * (comparison.after / comparison.before - 1):+.1f} %)".replace("-", "−")


def _p(value: float) -> str:
    return "-" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _joined(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))


def _read(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text())
    return data


def _versions(results: ProbeResults) -> str:
    return _joined([f"{name} {value}" for name, value in results.versions.items()])
