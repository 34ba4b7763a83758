"""What came of a capture, for the log and for capture.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from fit3d_ns.common.console import logger
from fit3d_ns.reconstruction.model import Model
from fit3d_ns.reconstruction.quality import Finding
from fit3d_ns.reconstruction.workplace import SUMMARY_FORMAT

SCALE_NOTE = "The unit of length is arbitrary: photos alone do not tell how large things are"


def make_summary(
    model: Model,
    names: Mapping[str, str],
    model_sizes: Sequence[int],
    findings: Sequence[Finding],
    made_with: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """The content of capture.json, but for its list of files.

    Args:
        model: the best one.
        names: for each file name in images/ what it was before.
        model_sizes: photos of each model, the best one's first.
        findings: what is suspicious.
        made_with: source, options and versions.
        seconds: of each step of this run.
    """
    registered = set(model.names)
    return {
        "format": SUMMARY_FORMAT,
        "version": 1,
        **made_with,
        "photos": len(names),
        "registered": len(model.names),
        "registered_share": len(model.names) / len(names),
        "models": list(model_sizes),
        "points": model.points,
        "observations_per_photo": len(model.photo) / max(1, len(model.names)),
        "mean_reprojection_error": model.error,
        "cameras": model.cameras,
        "scale": "unknown",
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "not_registered": [name for name in names if name not in registered],
        "given_names": dict(names),
        "seconds": {step: round(value, 2) for step, value in seconds.items()},
    }


def say_summary(summary: Mapping[str, Any]) -> None:
    """Log a summary: figures, then what is suspicious, each with what to do."""
    logger.info(
        "%d of %d photos have a pose; %d points, %.2f pixels mean reprojection error; %.0f s",
        summary["registered"],
        summary["photos"],
        summary["points"],
        summary["mean_reprojection_error"],
        sum(summary["seconds"].values()),
    )
    logger.info("%s.", SCALE_NOTE)
    for finding in summary["findings"]:
        message = finding["message"]
        logger.warning("%s", message[0].upper() + message[1:])
    if not summary["findings"]:
        logger.info("Nothing about it looks suspicious")
