"""Pictures and feature maps of a loaded scene, from any pinhole camera."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fit3d_ns.scene.gaussians import FeatureGaussians

_NEAR_PLANE = 0.01
"""splatfacto's, in the Gaussians' frame, so that an export renders as its checkpoint did."""
MIN_ALPHA = 0.5
"""Below, most of the light comes from behind the Gaussians and their depth says little."""


def render_features(
    gaussians: FeatureGaussians, world_to_camera: Tensor, K: Tensor, width: int, height: int
) -> tuple[Tensor, Tensor]:
    """Alpha-blend the features of all Gaussians; differentiable.

    Args:
        gaussians: the scene.
        world_to_camera: [4, 4], OpenCV axes, from the Gaussians' frame.
        K: [3, 3] of a pinhole camera (`ViewInfo.pinhole`).
        width: of the map in pixels.
        height: of the map in pixels.

    Returns:
        features: [H, W, D], not divided by alpha and not decoded.
        alpha: [H, W, 1], in 0..1.
    """
    return _rasterize(gaussians, gaussians.features, world_to_camera, K, width, height)


def render_rgb(
    gaussians: FeatureGaussians,
    world_to_camera: Tensor,
    K: Tensor,
    width: int,
    height: int,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> tuple[Tensor, Tensor]:
    """Render colour [H, W, 3] in 0..1 over `background`, and alpha [H, W, 1]; arguments as in `render_features`."""
    degree = {1: 0, 4: 1, 9: 2, 16: 3}[gaussians.sh.shape[1]]
    rgb, alpha = _rasterize(gaussians, gaussians.sh, world_to_camera, K, width, height, sh_degree=degree)
    behind = torch.tensor(background, dtype=rgb.dtype, device=rgb.device)
    return (rgb + (1.0 - alpha) * behind).clamp(0.0, 1.0), alpha


def render_depth(gaussians: FeatureGaussians, world_to_camera: Tensor, K: Tensor, width: int, height: int) -> Tensor:
    """Expected depth [H, W] along the camera's z axis, in the Gaussians' unit; 0 where alpha is below `MIN_ALPHA`.

    Arguments as in `render_features`.
    """
    colors = gaussians.means  # not drawn
    depth, alpha = _rasterize(gaussians, colors, world_to_camera, K, width, height, render_mode="ED")
    return torch.where(alpha[..., 0] >= MIN_ALPHA, depth[..., 0], 0.0)


def _rasterize(
    gaussians: FeatureGaussians,
    colors: Tensor,
    world_to_camera: Tensor,
    K: Tensor,
    width: int,
    height: int,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    # Imported late: a reader of exports that never renders needs no kernels.
    from fit3d_ns.rasterization import rasterization

    means = gaussians.means
    image, alpha, _ = rasterization(
        means=means,
        quats=gaussians.quats,
        scales=gaussians.scales,
        opacities=gaussians.opacities,
        colors=colors,
        viewmats=world_to_camera.to(means)[None],
        Ks=K.to(means)[None],
        width=width,
        height=height,
        near_plane=_NEAR_PLANE,
        packed=False,
        rasterize_mode=gaussians.scene.rasterize_mode,
        **options,
    )
    return image[0], alpha[0]
