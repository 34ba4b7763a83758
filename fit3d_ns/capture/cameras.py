"""What can be wrong with the numbers of a camera: pose, intrinsics, and the transform of a whole capture.

Each function returns the end of a sentence ("is not rigid ..."), or None where nothing is wrong, so that whoever read
the numbers can say where they stand. All is computed in float32 later, so what that cannot hold counts as infinite.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

RIGID_TOLERANCE = 2e-3
"""Largest entry of |R^T R - I| in a pose. Three written decimals pass; a scale of 0.2 % does not."""
FOCAL_RANGE = (1e-2, 1e4)
"""Focal lengths as a multiple of the image's longer side: fields of view from 178 degrees down to 20 seconds of arc."""
FARTHEST_CENTRE = 100.0
"""How far from the corner the principal point may lie, in longer sides of the image: crops keep that of the whole."""
LARGEST_DISTORTION = 1e6
"""Of any distortion coefficient; those of long lenses run into thousands."""
_LARGEST_CONDITION = 1e6


def rotation_fault(rotation: Array) -> str | None:
    """What keeps a finite [3, 3] matrix from being a rotation."""
    error = float(np.abs(rotation.T @ rotation - np.eye(3)).max())
    if error > RIGID_TOLERANCE:
        return f"is not rigid (|R^T R - I| = {error:.2g}, as from a scale or shear)"
    if np.linalg.det(rotation) < 0:
        return "mirrors the scene (its determinant is negative)"
    return None


def pose_fault(value: Any, *rows: int) -> str | None:
    """What is wrong with a rigid matrix [rows, 4], as it was read; several numbers of rows may be allowed."""
    if value is None:
        return "is missing"
    matrix, fault = _finite_matrix(value, *rows)
    if matrix is None:
        return fault
    if len(matrix) == 4 and not np.allclose(matrix[3], (0, 0, 0, 1), atol=1e-6):
        return "does not end in the row 0 0 0 1"
    return rotation_fault(matrix[:3, :3])


def transform_fault(value: Any) -> str | None:
    """What keeps a transform [3, 4] of a whole capture, which may scale and shear, from being undone."""
    matrix, fault = _finite_matrix(value, 3)
    if matrix is None:
        return fault
    if not np.linalg.cond(matrix[:, :3]) < _LARGEST_CONDITION:
        return "cannot be inverted"
    return None


def focal_fault(focal: float, width: float, height: float) -> str | None:
    """What is wrong with a focal length in pixels for images of this size."""
    side = max(width, height)
    if FOCAL_RANGE[0] * side <= focal <= FOCAL_RANGE[1] * side:
        return None
    return f"is {focal:g}, which no lens has for images of {width:g}x{height:g} pixels"


def centre_fault(centre: float, width: float, height: float) -> str | None:
    """What is wrong with one coordinate of the principal point for images of this size."""
    if abs(centre) <= FARTHEST_CENTRE * max(width, height):
        return None
    return f"is {centre:g}, far outside images of {width:g}x{height:g} pixels"


def matrix_fault(K: Array, width: int, height: int) -> str | None:
    """What is wrong with a finite K [3, 3] for images of this size."""
    if K[0, 0] <= 0 or K[1, 1] <= 0 or K[2].tolist() != [0, 0, 1]:
        return "is not a camera matrix (positive focal lengths, last row 0 0 1)"
    faults = [focal_fault(K[i, i], width, height) for i in (0, 1)]
    faults += [centre_fault(K[i, 2], width, height) for i in (0, 1)]
    return next(filter(None, faults), None)


def distortion_fault(coefficients: Array) -> str | None:
    """What is wrong with finite distortion coefficients."""
    largest = float(np.abs(coefficients).max())
    return None if largest <= LARGEST_DISTORTION else f"has a coefficient of {largest:g}, which no lens has"


def finite(value: Any) -> float | None:
    """The number that `float` makes of `value`, if float32 can hold it."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and abs(number) < float(np.finfo(np.float32).max) else None


def _finite_matrix(value: Any, *rows: int) -> tuple[Array | None, str | None]:
    try:
        matrix = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None, "is not a matrix of numbers"
    if matrix.shape not in [(count, 4) for count in rows]:
        shape = "x".join(map(str, matrix.shape)) or "of one number"
        return None, f"has shape {shape} instead of {' or '.join(f'{count}x4' for count in rows)}"
    with np.errstate(over="ignore"):
        if not np.isfinite(matrix.astype(np.float32)).all():
            return None, "has NaN or infinite values"
    return matrix, None
