"""Pixels by image and class: what intersections over unions are made of, in memory and in a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def no_pixels() -> Array:
    """[0, 0]: no image, no class."""
    return np.zeros((0, 0), np.int64)


@dataclass(frozen=True, eq=False)
class ClassCounts:
    """Of one arm, [seeds, images, classes] int64 each; void pixels count nowhere."""

    intersections: Array
    """Pixels that are labelled with the class and were predicted as it."""
    unions: Array
    """Pixels of which at least one is true."""

    def to_sparse(self) -> list[Any]:
        """[seeds][images] of flat lists (class, intersection, union, class, ...) of the unions that are not 0."""
        return to_sparse(np.stack([self.intersections, self.unions], axis=-1))

    @staticmethod
    def from_sparse(values: list[Any], num_classes: int) -> ClassCounts:
        """What `to_sparse` gave."""
        counts = from_sparse(values, 2, num_classes, 2)
        return ClassCounts(counts[..., 0], counts[..., 1])


def counts_of(confusion: Array) -> tuple[Array, Array]:
    """Intersections and unions [..., K] of confusion matrices [..., K, K] (true, predicted)."""
    intersections = np.diagonal(confusion, axis1=-2, axis2=-1)
    return intersections, confusion.sum(-1) + confusion.sum(-2) - intersections


def to_sparse(counts: Array) -> list[Any]:
    """Counts [..., classes, n] as nested lists of flat ones (class, n counts, class, ...), without those that are 0."""
    if counts.ndim > 2:
        return [to_sparse(part) for part in counts]
    present = np.flatnonzero(counts.any(axis=1))
    flat: list[int] = np.column_stack([present, counts[present]]).ravel().tolist()
    return flat


def from_sparse(values: list[Any], axes: int, num_classes: int, n: int) -> Array:
    """What `to_sparse` gave of counts with so many axes before the classes: [..., num_classes, n] int64."""
    if axes:
        parts = [from_sparse(part, axes - 1, num_classes, n) for part in values]
        return np.stack(parts) if parts else np.zeros((0,) * axes + (num_classes, n), np.int64)
    counts = np.zeros((num_classes, n), np.int64)
    rows = np.array(values, np.int64).reshape(-1, n + 1)
    counts[rows[:, 0]] = rows[:, 1:]
    return counts
