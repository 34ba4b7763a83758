"""The geometry of an export's views, rendered from its Gaussians: consistency needs no labels and no depth sensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fit3d_finetune.probing.correspondences import Array, ConsistencyView
from fit3d_finetune.views import load_pinhole_mask
from fit3d_ns.console import progress
from fit3d_ns.export_format import ViewInfo
from fit3d_ns.gaussians import FeatureGaussians

_NEAR_PLANE = 0.01
"""As `fit3d_ns.render`."""

MIN_ALPHA = 0.5
"""Below, most of the light comes from behind the Gaussians and the depth says little."""


@torch.no_grad()
def views_from_export(gaussians: FeatureGaussians, max_size: int = 640) -> list[ConsistencyView]:
    """The geometry of all views of an export, in the order of `gaussians.scene.views`.

    The views are the undistorted ones, whose images `fit3d_finetune.views.load_pinhole_image` gives. Poses and
    depth are in the Gaussians' frame and unit. Depth is unknown (0) under the views' masks and where alpha is
    below 0.5.

    Args:
        gaussians: the scene, on the device that is to render it.
        max_size: longest side in pixels of the depth maps; larger views are rendered smaller.
    """
    views = []
    with progress("views") as bar:
        task = bar.add_task(f"Depth of {gaussians.scene.scene}", total=len(gaussians.scene.views))
        for view in gaussians.scene.views:
            K, width, height = _shrunk_camera(view, max_size)
            depth = render_depth(gaussians, torch.from_numpy(view.world_to_camera), torch.from_numpy(K), width, height)
            mask = load_pinhole_mask(view, Path(gaussians.scene.images_root))
            if mask is not None:
                # "area", so that a pixel counts only if nothing of it is masked.
                share = F.interpolate(mask[None, None].float(), (height, width), mode="area")[0, 0]
                depth = depth * (share == 1).to(depth)
            pose = np.linalg.inv(view.world_to_camera)
            views.append(ConsistencyView(depth.cpu().numpy(), K, pose, gaussians.scene.scene))
            bar.advance(task)
    return views


def render_depth(gaussians: FeatureGaussians, world_to_camera: Tensor, K: Tensor, width: int, height: int) -> Tensor:
    """Expected depth [H, W] along the camera's z axis, in the Gaussians' unit; 0 where alpha is below `MIN_ALPHA`.

    Arguments as in `fit3d_ns.render.render_features`.
    """
    # Imported late: the other ways to geometry need no kernels.
    from fit3d_ns.rasterization import rasterization

    means = gaussians.means
    depth, alpha, _ = rasterization(
        means=means,
        quats=gaussians.quats,
        scales=gaussians.scales,
        opacities=gaussians.opacities,
        colors=means,  # not drawn
        viewmats=world_to_camera.to(means)[None],
        Ks=K.to(means)[None],
        width=width,
        height=height,
        near_plane=_NEAR_PLANE,
        packed=False,
        render_mode="ED",
        rasterize_mode=gaussians.scene.rasterize_mode,
    )
    return torch.where(alpha[0, ..., 0] >= MIN_ALPHA, depth[0, ..., 0], 0.0)


def _shrunk_camera(view: ViewInfo, max_size: int) -> tuple[Array, int, int]:
    """K, width and height of the undistorted view with the longest side at most `max_size`."""
    K, width, height = view.pinhole()
    factor = min(1.0, max_size / max(width, height))
    small = (max(1, round(width * factor)), max(1, round(height * factor)))
    scaling = np.diag([small[0] / width, small[1] / height, 1.0])
    return scaling @ K, *small
