"""What a terminal shows of a probing."""

from __future__ import annotations

from rich.table import Table

from fit3d_finetune.probing.results import ProbeResults
from fit3d_finetune.report.metrics import metrics_of

# What a terminal has room for, of the columns of the report: the main figure of each task.
_SHOWN = {
    ("segmentation", "mIoU"): "mIoU %",
    ("depth", "RMSE"): "depth RMSE m",
    ("normals", "RMSE angle"): "normals RMSE °",
    ("nearest_neighbours", "mIoU"): "kNN mIoU %",
    ("nearest_neighbours_across", "mIoU"): "other-angle kNN mIoU %",
}


def table(results: ProbeResults) -> Table:
    """The arms side by side: means over test scenes, ± standard deviation over seeds."""
    scenes = f"{len(results.scenes)} scene{'s' if len(results.scenes) != 1 else ''}"
    shown = Table(title=f"{len(results.test_images)} test images of {scenes}, protocol {results.protocol}")
    # Names stay whole where the terminal is narrow; figures wrap.
    shown.add_column("arm", min_width=max(len(arm.name) for arm in results.arms))
    metrics = []
    for metric in metrics_of(results):
        title = f"{metric.name} %" if "recall" in metric.name else _SHOWN.get((metric.part, metric.name))
        if title is not None:
            metrics.append(metric)
            shown.add_column(title)
    for arm in results.arms:
        shown.add_row(arm.name, *(metric.summary(results, arm.name) for metric in metrics))
    return shown
