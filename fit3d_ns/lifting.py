"""Lifting 2D feature maps into Gaussians whose geometry is fixed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def back_project(
    views: Iterable[tuple[Callable[[Tensor], Tensor], Tensor, Tensor]], num_gaussians: int, channels: int
) -> tuple[Tensor, Tensor]:
    """Normalised back-projection: every Gaussian gets the mean of what the views show where it is seen.

    f_i = sum_v sum_p m_vp A_v[p, i] y_v[p] / sum_v sum_p m_vp A_v[p, i], with A_v the blending weights of view v,
    y_v its feature map and m_v its mask. It is one Jacobi step of the least-squares problem
    min_F sum_v ||A_v F - Y_v||^2 from zero when rows of A_v sum to one, and the closed-form lifting of LUDVIG and
    Occam's LGS. A_v is never formed: rendering is linear, so its transpose is rendering's gradient.

    Args:
        views: per view a function that renders channels [N, D] to a map [H, W, D], the map y_v [H, W, D] and
            the mask m_v [H, W] (0..1).
        num_gaussians: N.
        channels: D.

    Returns:
        features [N, D] (zero where no view sees the Gaussian) and the summed weights [N].
    """
    numerator: Tensor | None = None
    for render, target, mask in views:
        probe = torch.zeros(num_gaussians, channels + 1, device=target.device, requires_grad=True)
        with torch.enable_grad():
            rendered = render(probe)
        weighted = torch.cat([target * mask[..., None], mask[..., None]], dim=-1)
        (gradient,) = torch.autograd.grad(rendered, probe, weighted)
        numerator = gradient if numerator is None else numerator + gradient
    if numerator is None:
        raise ValueError("no views to lift features from")
    weights = numerator[:, -1]
    features = numerator[:, :-1] / weights.clamp_min(1e-8)[:, None]
    return torch.where(weights[:, None] > 1e-8, features, 0.0), weights
