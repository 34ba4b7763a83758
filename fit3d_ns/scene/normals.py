"""Surface normals of a depth map, from the camera that sees it: of every pixel, or of planes fitted around patches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_JUMP = 0.1
"""Neighbouring pixels whose depths differ by more than this share of the nearer one lie on two surfaces."""
PLANE_SPAN = 3
"""Planes are fitted to so many patches along each side."""
PLANE_SAMPLES = 14
"""Along each side of a fitted window so many pixels are looked at."""
PLANE_ROUNDS = 3
"""Of fitting; each weighs pixels down that the one before left off the plane."""
FLATNESS = 0.01
"""A patch whose pixels lie so far off its plane, as a share of their distance, counts by half."""


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


def plane_normals(depth: Tensor, K: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Unit normals of planes fitted to the surroundings of every patch, and how flat these are.

    For depth that is noisy from pixel to pixel, as that of Gaussians is. The inverse depth of a plane n . X = -d is
    linear in the ray K^-1 (u, v, 1) through a pixel, so that a linear least-squares problem of three unknowns, with
    Cauchy weights, gives n / d.

    Args:
        depth: [H, W] along the camera's z axis; 0 or not finite where unknown.
        K: [3, 3] in pixels of `depth`; the centre of the top-left pixel is at (0.5, 0.5).
        grid: (h, w) patches.

    Returns:
        normals [h, w, 3] in the camera's frame (OpenCV axes), towards the camera, and zero where fewer than a tenth of
        the looked-at pixels are known; and 1 / (1 + (r / FLATNESS)^2) [h, w] of the mean relative residual r.
    """
    h, w = grid
    H, W = depth.shape
    rows, columns = (_windows(cells, pixels).to(depth.device) for cells, pixels in ((h, H), (w, W)))
    known = torch.isfinite(depth) & (depth > 0)
    inverse = torch.where(known, 1 / torch.where(known, depth, 1.0), 0.0).double()

    def around(values: Tensor) -> Tensor:
        """[h * w, n] of every window."""
        return values[rows[:, None, :, None], columns[None, :, None, :]].reshape(h * w, -1)

    q, counts = around(inverse), around(known).double()
    a = torch.stack([around(part) for part in _rays(inverse, K).unbind(-1)], dim=-1)
    # Relative errors are what counts: those of inverse depth, divided by it. The floor keeps empty windows solvable.
    relative = counts / q.clamp_min(1e-30).square()
    weights, enough = relative, counts.mean(1) >= 0.1
    floor = 1e-9 * torch.eye(3, dtype=torch.float64, device=depth.device)
    solution = residual = torch.zeros((), dtype=torch.float64)
    for _ in range(PLANE_ROUNDS):
        scaled = a * weights[..., None]
        squares = scaled.transpose(1, 2) @ a
        scale = squares.diagonal(dim1=1, dim2=2).mean(-1).clamp_min(1e-30)[:, None, None]
        right = (scaled * q[..., None]).sum(1)[..., None]
        solution = torch.linalg.solve(squares / scale + floor, right / scale)
        errors = ((a @ solution)[..., 0] - q).abs() / q.clamp_min(1e-30) * counts
        residual = errors.sum(1) / counts.sum(1).clamp_min(1)
        weights = relative / (1 + (errors / residual.clamp_min(1e-9)[:, None]).square())
    normals = -F.normalize(solution[..., 0], dim=-1, eps=1e-30)
    flat = 1 / (1 + (residual / FLATNESS).square())
    normals, flat = torch.where(enough[:, None], normals, 0.0), torch.where(enough, flat, 0.0)
    return normals.reshape(h, w, 3).to(depth.dtype), flat.reshape(h, w).to(depth.dtype)


def _windows(cells: int, pixels: int) -> Tensor:
    """Indices [cells, PLANE_SAMPLES] of the pixels that windows around equal cells of an axis look at."""
    size = pixels / cells
    offsets = ((torch.arange(PLANE_SAMPLES) + 0.5) / PLANE_SAMPLES - 0.5) * PLANE_SPAN * size
    centres = (torch.arange(cells) + 0.5) * size
    return (centres[:, None] + offsets).floor().long().clamp(0, pixels - 1)


def backproject(depth: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Points [H, W, 3] in the camera's frame that pixels of known depth see, zero for others; and which are known."""
    known = torch.isfinite(depth) & (depth > 0)
    return _rays(depth, K) * torch.where(known, depth, 0.0)[..., None], known


def _rays(pixels: Tensor, K: Tensor) -> Tensor:
    """Rays [H, W, 3] with z = 1 through the centres of pixels [H, W], in their dtype."""
    H, W = pixels.shape
    y, x = torch.meshgrid(
        torch.arange(H, dtype=pixels.dtype, device=pixels.device) + 0.5,
        torch.arange(W, dtype=pixels.dtype, device=pixels.device) + 0.5,
        indexing="ij",
    )
    return torch.stack([x, y, torch.ones_like(x)], dim=-1) @ torch.linalg.inv(K.to(pixels)).T


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
