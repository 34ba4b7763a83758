"""The arithmetic of the fast probes in torch, for every device that the Numba kernels do not run on.

`sampling.sample_features`, `depth_loss.binned_depth` and `depth_loss.depth_loss` are the one interface: what lies on a
CPU goes to the kernels, all else comes here. Nothing here knows which device that is, so it is tested on a CPU against
the kernels, and on a GPU only the device is another. Gradients are torch's own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fit3d_ns.features.patch_grid import upsample_to_pixels

LEAST_VARIANCE = 1e-8
"""Below it the scale-invariant loss is constant, its root's slope having no bound at zero."""


def runs_kernels(values: Tensor) -> bool:
    """Whether the Numba kernels can compute with it."""
    return values.device.type == "cpu"


def sample_features(map: Tensor, places: Tensor) -> Tensor:
    """See `sampling.sample_features`; places [n, 2] float64 on the map's device."""
    h, w, _ = map.shape
    (x0, x1, x), (y0, y1, y) = (_corners(places[:, axis] * size, size) for axis, size in ((0, w), (1, h)))
    x, y = (share.to(map.dtype)[:, None] for share in (x, y))
    top, below = (torch.lerp(map[row, x0], map[row, x1], x) for row in (y0, y1))
    return torch.lerp(top, below, y)


def binned_depth(outputs: Tensor, bins: Tensor, upsampling: int) -> Tensor:
    """See `depth_loss.binned_depth`; bins [K] in metres.

    Outputs that are upsampled are so one image and arm after the other, to bound memory.
    """
    n, h, w, arms, _ = outputs.shape
    if upsampling == 1:
        return _mean_bin(outputs, bins).permute(1, 2, 0, 3)
    depths = [
        _mean_bin(upsample_to_pixels(arm, h * upsampling, w * upsampling), bins)
        for image in outputs
        for arm in image.unbind(2)
    ]
    return torch.stack(depths, dim=-1).unflatten(-1, (n, arms))


def depth_loss(
    predicted: Tensor, truth: Tensor, known: Tensor, scales: int, gradient_weight: float, variance_weight: float
) -> Tensor:
    """Losses [n, arms] between logarithms: predicted [n, arms, H, W], truth [n, H, W]; known [n, H, W] is 1 or 0."""
    seen = known[:, None]
    g = (predicted - truth[:, None]) * seen
    count = seen.sum((2, 3)).clamp_min(1)
    inside = g.square().sum((2, 3)) / count - variance_weight * (g.sum((2, 3)) / count).square()
    varies = inside >= LEAST_VARIANCE  # as NaN is not: it must come out
    losses = torch.where(varies | inside.isnan(), inside.where(varies, inside + 1).sqrt(), LEAST_VARIANCE**0.5)
    for scale in range(scales):
        part, there = (values[..., :: 2**scale, :: 2**scale] for values in (g, seen))
        total = _differences(part, there, 2) + _differences(part, there, 3)
        losses = losses + gradient_weight * total / there.sum((2, 3)).clamp_min(1)
    return losses


def _corners(place: Tensor, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """The two cells around places in cells (first cell's centre at 0.5), and the second one's share."""
    at = (place - 0.5).clamp(0, cells - 1)
    first = at.long()
    return first, (first + 1).clamp_max(cells - 1), at - first


def _mean_bin(outputs: Tensor, bins: Tensor) -> Tensor:
    weights = outputs.relu() + 0.1
    return weights @ bins / weights.sum(-1)


def _differences(g: Tensor, known: Tensor, dim: int) -> Tensor:
    """Sums [n, arms] of the absolute differences of neighbours that are both known."""
    count = g.shape[dim] - 1
    both = known.narrow(dim, 0, count) * known.narrow(dim, 1, count)
    return ((g.narrow(dim, 1, count) - g.narrow(dim, 0, count)) * both).abs().sum((2, 3))
