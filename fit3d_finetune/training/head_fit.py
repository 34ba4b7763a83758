"""Heads for the finished backbone: the best linear readers of depth and normals, in closed form.

Those that taught it belong to weights that mixing with the original's has moved since.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean

import torch

from fit3d_finetune.backbone.geometry import GeometryHeads
from fit3d_finetune.targets.geometry import render_scene_depth
from fit3d_finetune.targets.scenes import Scene
from fit3d_finetune.training.samples import Samples
from fit3d_ns.common.console import progress
from fit3d_ns.common.ridge import RidgeSums
from fit3d_ns.features.backbone import Backbone

MAX_VIEWS = 128
"""So many views, evenly spaced, are enough for less than a thousand numbers."""
RIDGE = 1e-3
"""Of the mean square of a channel."""


@torch.no_grad()
def fit_heads(backbone: Backbone, samples: Samples) -> GeometryHeads:
    """Ridge regression of log canonical depth and normals on the tokens of training views.

    Args:
        backbone: finished.
        samples: with geometry.
    """
    C = backbone.embed_dim
    device = next(backbone.parameters()).device
    depth_sums, normal_sums = RidgeSums(2 * C + 1, 1), RidgeSums(C + 1, 3)
    chosen = torch.linspace(0, len(samples) - 1, min(len(samples), MAX_VIEWS)).round().int().tolist()
    with progress("views") as bar:
        for index in bar.track(chosen, description="Heads of depth and normals"):
            sample = samples[index]
            if sample.geometry is None:
                raise ValueError("heads of depth and normals need samples with their geometry")
            maps, tokens = backbone.forward_with_class_token(sample.image[None].to(device))
            patches, token = maps[0].permute(1, 2, 0).reshape(-1, C).cpu().double(), tokens.cpu().double()
            one = torch.ones_like(patches[:, :1])
            values = sample.geometry.features.flatten(0, 1).double()
            weights = sample.geometry.weights.reshape(-1, 1).double()
            depth_sums.add(torch.cat([patches, token.expand_as(patches), one], dim=1), values[:, :1], weights)
            # Normals are read from the patch token.
            normal_sums.add(torch.cat([patches, one], dim=1), values[:, 1:4], weights * values[:, 4:])
    heads = GeometryHeads(C, depth=True, normals=True)
    assert heads.depth is not None
    assert heads.normals is not None
    for head, sums in ((heads.depth, depth_sums), (heads.normals, normal_sums)):
        mean_square = sums.squares.diagonal()[:-1].mean().clamp_min(1e-12)
        coefficients = sums.solve(RIDGE * float(mean_square))
        head.weight.copy_(coefficients[:-1].T)
        head.bias.copy_(coefficients[-1])
    return heads


def typical_depth(scenes: Sequence[Scene]) -> float:
    """Geometric mean over scenes of their typical canonical depth, in the captures' unit."""
    logs = []
    for scene in scenes:
        views = [scene.pinhole(view) for view in range(scene.num_views)]
        gaussians = scene.load()
        # Nerfstudio scales every capture to its own size.
        logs.append(render_scene_depth(gaussians, views).log_unit + math.log(gaussians.scene.unit_in_capture))
    return math.exp(mean(logs))
