# mypy: disable-error-code=no-untyped-def
# Numba infers the types of these functions; shapes are in the docstrings.
"""What projection has in common forward and backward: the camera, its affine approximation, rotations (Numba)."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def rotation(w, x, y, z, twice):
    """Rows of the rotation matrix; twice: 2 / the squared length of the quaternion."""
    return (
        1 - twice * (y * y + z * z), twice * (x * y - w * z), twice * (x * z + w * y),
        twice * (x * y + w * z), 1 - twice * (x * x + z * z), twice * (y * z - w * x),
        twice * (x * z - w * y), twice * (y * z + w * x), 1 - twice * (x * x + y * y),
    )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def camera_lens(K, size):
    """fx, fy, cx, cy, and how far to the right, left, bottom and top x / z and y / z go before they are clamped."""
    fx, fy, cx, cy = np.float64(K[0, 0]), np.float64(K[1, 1]), np.float64(K[0, 2]), np.float64(K[1, 2])
    width, height = size
    beside_x, beside_y = 0.15 * width / fx, 0.15 * height / fy
    return (
        fx, fy, cx, cy,
        (width - cx) / fx + beside_x, cx / fx + beside_x, (height - cy) / fy + beside_y, cy / fy + beside_y,
    )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def affine(v, lens, x, y, z):
    """The perspective's affine approximation at a point of the camera's frame.

    The clamped point (tx, ty), the two rows of its Jacobian that are not zero (j00, j02), (j11, j12), and the rows of
    the Jacobian times the view's rotation.
    """
    fx, fy, _, _, right, left, bottom, top = lens
    rz = 1.0 / z
    tx = z * min(right, max(-left, x * rz))
    ty = z * min(bottom, max(-top, y * rz))
    j00, j02 = fx * rz, -fx * tx * rz * rz
    j11, j12 = fy * rz, -fy * ty * rz * rz
    return (
        (tx, ty), (j00, j02), (j11, j12),
        (j00 * v[0, 0] + j02 * v[2, 0], j00 * v[0, 1] + j02 * v[2, 1], j00 * v[0, 2] + j02 * v[2, 2]),
        (j11 * v[1, 0] + j12 * v[2, 0], j11 * v[1, 1] + j12 * v[2, 1], j11 * v[1, 2] + j12 * v[2, 2]),
    )  # fmt: skip
