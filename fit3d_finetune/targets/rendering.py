"""The features of a scene, rendered for a view and brought to its patch grid."""

from __future__ import annotations

import torch
from torch import Tensor

from fit3d_finetune.targets.files import Target
from fit3d_finetune.targets.rule import TargetRule
from fit3d_ns.features.decoder import FeatureDecoder
from fit3d_ns.scene.gaussians import FeatureGaussians
from fit3d_ns.scene.render import render_features
from fit3d_ns.scene.views import PinholeView


@torch.no_grad()
def rendered_target(
    gaussians: FeatureGaussians,
    decoder: FeatureDecoder,
    view: PinholeView,
    mask: Tensor | None,
    rule: TargetRule,
) -> Target:
    """Render the features of a view and bring them to the patch grid, undecoded where the decoder is linear.

    Args:
        gaussians: the scene.
        decoder: of the scene.
        view: one of its views.
        mask: [H, W] of the undistorted image, True where pixels count; None: all.
        rule: how the rendering is brought to the view's patch grid.

    Returns:
        features [h, w, D] for a linear decoder, else decoded [h, w, C]; weights [h, w].
    """
    device = gaussians.means.device
    features, alpha = render_features(gaussians, view)
    if decoder.kind != "linear" and gaussians.scene.decoder_resolution == "pixel":
        features = decoder(features)
    counted = None if mask is None else mask[..., None].to(device, torch.float32)
    pooled, share = rule.resample(torch.cat([features, alpha], dim=-1), view.grid, counted)
    features, cover = pooled[..., :-1], pooled[..., -1]
    if decoder.kind != "linear" and gaussians.scene.decoder_resolution == "patch":
        features = decoder(features)
    return Target(features, rule.weights(share, cover))
