"""Surface normals of a depth map, from the camera that sees it."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_JUMP = 0.1
"""Neighbouring pixels whose depths differ by more than this share of the nearer one lie on two surfaces."""


def normals_from_depth(depth: Tensor, K: Tensor, max_jump: float = MAX_JUMP) -> tuple[Tensor, Tensor]:
    """Unit normals by the cross product of the differences to the neighbours on the left, right, above and below.

    Exact on planes. On each axis the difference of the two neighbours is taken where both lie on the pixel's surface,
    that to the one that does where one does, and the pixel has no normal where neither does.

    Args:
        depth: [H, W] along the camera's z axis; 0 or not finite where unknown.
        K: [3, 3] in pixels of `depth`; the centre of the top-left pixel is at (0.5, 0.5).
        max_jump: neighbours whose depths differ by a larger share are on another surface.

    Returns:
        normals [H, W, 3] in the camera's frame (OpenCV axes: x right, y down, z forward), towards the camera, and
        zero where there is none; and whether there is one [H, W].
    """
    points, known = backproject(depth, K)
    along_x, has_x = _difference(points, known, depth, 1, max_jump)
    along_y, has_y = _difference(points, known, depth, 0, max_jump)
    normals = torch.linalg.cross(along_y, along_x)
    length = normals.norm(dim=-1, keepdim=True)
    has = known & has_x & has_y & (length[..., 0] > 0)
    normals = normals / torch.where(length > 0, length, 1.0)
    # Towards the camera: against the ray that comes from it.
    away = (normals * points).sum(-1, keepdim=True) > 0
    normals = torch.where(away, -normals, normals)
    return torch.where(has[..., None], normals, 0.0), has


def backproject(depth: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Points [H, W, 3] in the camera's frame that pixels of known depth see, zero for others; and which are known."""
    H, W = depth.shape
    known = torch.isfinite(depth) & (depth > 0)
    y, x = torch.meshgrid(
        torch.arange(H, dtype=depth.dtype, device=depth.device) + 0.5,
        torch.arange(W, dtype=depth.dtype, device=depth.device) + 0.5,
        indexing="ij",
    )
    rays = torch.stack([x, y, torch.ones_like(x)], dim=-1) @ torch.linalg.inv(K.to(depth)).T
    return rays * torch.where(known, depth, 0.0)[..., None], known


def _difference(points: Tensor, known: Tensor, depth: Tensor, axis: int, max_jump: float) -> tuple[Tensor, Tensor]:
    """How points [H, W, 3] change along an image axis, from neighbours on the same surface; and where there is one."""
    size = points.shape[axis]
    first, second = points.narrow(axis, 0, size - 1), points.narrow(axis, 1, size - 1)
    near, far = (depth.narrow(axis, start, size - 1) for start in (0, 1))
    same = known.narrow(axis, 0, size - 1) & known.narrow(axis, 1, size - 1)
    same &= (near - far).abs() <= max_jump * torch.minimum(near, far)
    step = torch.where(same[..., None], second - first, 0.0)

    def padded(values: Tensor, front: bool) -> Tensor:
        edge = torch.zeros_like(values.narrow(axis, 0, 1))
        return torch.cat([edge, values] if front else [values, edge], dim=axis)

    total = padded(step, front=True) + padded(step, front=False)
    return total, padded(same, front=True) | padded(same, front=False)
