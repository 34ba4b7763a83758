"""The page of `benchmarks.real`: every arm on every data set."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import date
from pathlib import Path

from benchmarks.markdown import header, row
from benchmarks.report import commit
from fit3d_finetune.backbone.hub import read_finetuned
from fit3d_finetune.probing.results import ProbeResults
from fit3d_finetune.report.metrics import metrics_of
from fit3d_ns.common.atomic import atomic_file


def write_table(path: Path, probings: Mapping[str, Path], tunings: Mapping[str, Path]) -> None:
    """Write the page from the results.json of every data set and the folders of the fine-tuned backbones."""
    runs = {name: ProbeResults.load(results) for name, results in probings.items()}
    first = next(iter(runs.values()))
    versions = ", ".join(f"{name} {value}" for name, value in first.versions.items())
    lines = [
        "# On photos of real places",
        "",
        f"Made by `python -m benchmarks.real --tunings {' '.join(tunings)} --probe {' '.join(probings)}` on",
        f"{date.today().isoformat()}, commit {commit()}, {platform.machine()} ({versions}).",
        f"Mean ± standard deviation over {len(first.seeds)} probe seeds. Each data set is one scene or one collection:",
        "nothing here is tested for significance.",
        "",
        *tuning_rows(tunings),
    ]
    for name, results in runs.items():
        scenes = f"{len(results.test_images)} test images"
        lines += ["", f"## {name} ({scenes})", "", *arm_rows(results)]
    with atomic_file(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def tuning_rows(tunings: Mapping[str, Path]) -> list[str]:
    """One row per fine-tuning: on what, how long, in which arithmetic."""
    rows = header("fine-tuning", "scenes", "targets", "views", "steps", "arithmetic")
    for name, folder in tunings.items():
        summary = read_finetuned(folder).summary
        run = summary["run"]
        precision = run["backbone"]["precision"]
        scenes = ", ".join(sorted(run["scenes"]))
        rows.append(row(name, scenes, run["targets"], str(summary["training_views"]), str(summary["steps"]), precision))
    return rows


def arm_rows(results: ProbeResults) -> list[str]:
    """One row per arm, one column per figure; arrows say which way is better."""
    metrics = metrics_of(results)
    titles = []
    for metric in metrics:
        way = "↑" if metric.higher_is_better else "↓"
        titles.append(f"{metric.part.replace('_', ' ')}: {metric.name} {way}")
    rows = header("arm", *titles)
    for arm in results.arms:
        rows.append(row(arm.name, *(metric.summary(results, arm.name) for metric in metrics)))
    return rows
