"""Pictures and feature maps of Gaussians, from any pinhole camera."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fit3d_ns.rasterization import rasterization
from fit3d_ns.scene.gaussians import FeatureGaussians
from fit3d_ns.scene.splats import Splats
from fit3d_ns.scene.views import PinholeView

NEAR_PLANE = 0.01
"""splatfacto's, in the Gaussians' frame, so that everything renders as its checkpoint did."""
MIN_ALPHA = 0.5
"""Below, most of the light comes from behind the Gaussians and their depth says little."""


def rasterize(
    splats: Splats, channels: Tensor, view: PinholeView, **options: Any
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """`fit3d_ns.rasterization.rasterization` of Gaussians from one view; differentiable.

    Args:
        splats: the Gaussians.
        channels: what is blended: values [N, D], or with `sh_degree` spherical harmonics [N, K, 3].
        view: the camera; its mask is not looked at.
        options: further arguments of the rasteriser.

    Returns:
        image [1, H, W, D], alpha [1, H, W, 1] and the rasteriser's `info`.
    """
    means = splats.means
    return rasterization(
        means,
        splats.quats,
        splats.scales,
        splats.opacities,
        channels,
        view.world_to_camera.to(means)[None],
        view.K.to(means)[None],
        view.width,
        view.height,
        near_plane=NEAR_PLANE,
        rasterize_mode=splats.rasterize_mode,
        **options,
    )


def render_features(gaussians: FeatureGaussians, view: PinholeView) -> tuple[Tensor, Tensor]:
    """Alpha-blend the features of all Gaussians; differentiable.

    Returns:
        features: [H, W, D], not divided by alpha and not decoded.
        alpha: [H, W, 1], in 0..1.
    """
    features, alpha, _ = rasterize(gaussians, gaussians.features, view)
    return features[0], alpha[0]


def render_rgb(
    splats: Splats, view: PinholeView, background: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> tuple[Tensor, Tensor]:
    """Render colour [H, W, 3] in 0..1 over `background`, and alpha [H, W, 1]."""
    rgb, alpha, _ = rasterize(splats, splats.sh, view, sh_degree=splats.sh_degree)
    behind = torch.tensor(background, dtype=rgb.dtype, device=rgb.device)
    return (rgb[0] + (1.0 - alpha[0]) * behind).clamp(0.0, 1.0), alpha[0]


def render_depth(splats: Splats, view: PinholeView) -> Tensor:
    """Expected depth [H, W] along the camera's z axis, in the Gaussians' unit; 0 where alpha is below `MIN_ALPHA`."""
    depth, alpha, _ = rasterize(splats, splats.means, view, render_mode="ED")  # the channels are not drawn
    return torch.where(alpha[0, ..., 0] >= MIN_ALPHA, depth[0, ..., 0], 0.0)
