"""Segmentation and depth metrics, as functions of arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from fit3d_finetune.probing.data.codings import VOID

Array = np.ndarray[Any, np.dtype[Any]]

COUNTED_SHARE = 0.002
DEPTH_METRICS = ("rmse", "abs_rel", "log10", "delta1", "delta2", "delta3")
NORMAL_METRICS = ("rmse", "mean", "within_11", "within_22", "within_30")


def confusion_matrix(labels: Array, predicted: Array, num_classes: int) -> Array:
    """Pixels [true class, predicted class], int64; void pixels (255) are left out.

    Args:
        labels: class indices of any shape.
        predicted: the same shape, all in 0..num_classes-1.
        num_classes: number of classes.
    """
    valid = labels != VOID
    index = labels[valid].astype(np.int64) * num_classes + predicted[valid]
    return np.bincount(index, minlength=num_classes**2).reshape(num_classes, num_classes)


def counted_classes(label_counts: Array) -> list[int]:
    """Indices of the classes with at least 0.2 % of all labelled pixels; rarer ones say little.

    Args:
        label_counts: [K] pixels per class.
    """
    return [int(i) for i in np.flatnonzero(label_counts >= COUNTED_SHARE * label_counts.sum()) if label_counts[i] > 0]


def known_depth(depth: Array, max_depth: float) -> Array:
    """Which pixels [H, W] have a known depth of at most `max_depth` metres; only these count."""
    known: Array = (depth > 0) & (depth <= max_depth)
    return known


def depth_metrics(depth: Array, predicted: Array, max_depth: float) -> dict[str, float]:
    """Metrics of one image over pixels with a known depth of at most `max_depth`; NaN if there are none.

    They are averaged over the images of a scene afterwards, as is usual for NYUv2 and KITTI (Eigen et al., 2014). RMSE
    in metres, deltas as shares of pixels whose ratio to the truth is below 1.25, 1.25^2 and 1.25^3.

    Args:
        depth: [H, W] metres, 0 where unknown.
        predicted: [H, W] metres, positive.
        max_depth: metres.
    """
    known = known_depth(depth, max_depth)
    if not known.any():
        return dict.fromkeys(DEPTH_METRICS, float("nan"))
    truth, guess = depth[known].astype(np.float64), predicted[known].astype(np.float64)
    ratio = np.maximum(truth / guess, guess / truth)
    return {
        "rmse": float(np.sqrt(np.mean((truth - guess) ** 2))),
        "abs_rel": float(np.mean(np.abs(truth - guess) / truth)),
        "log10": float(np.mean(np.abs(np.log10(truth) - np.log10(guess)))),
        **{f"delta{power}": float(np.mean(ratio < 1.25**power)) for power in (1, 2, 3)},
    }


def normal_metrics(normals: Array, predicted: Array) -> dict[str, float]:
    """Metrics of one image over pixels with a known normal; NaN if there are none.

    Root mean square and mean of the angle in degrees, and the shares of pixels within 11.25, 22.5 and 30 degrees.

    Args:
        normals: [H, W, 3] of unit length, zero where unknown.
        predicted: [H, W, 3] of unit length.
    """
    known = (normals**2).sum(axis=-1) > 0
    if not known.any():
        return dict.fromkeys(NORMAL_METRICS, float("nan"))
    cosine = (normals[known].astype(np.float64) * predicted[known]).sum(axis=-1)
    angles = np.degrees(np.arccos(cosine.clip(-1, 1)))
    return {
        "rmse": float(np.sqrt(np.mean(angles**2))),
        "mean": float(np.mean(angles)),
        **{f"within_{int(limit)}": float(np.mean(angles < limit)) for limit in (11.25, 22.5, 30.0)},
    }
