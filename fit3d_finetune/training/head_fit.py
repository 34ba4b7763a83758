"""Heads for the finished backbone: the best linear readers of depth and normals, in closed form.

Those that taught it belong to weights that mixing with the original's has moved since.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean

import torch
from torch import Tensor

from fit3d_finetune.backbone.geometry import GeometryHeads
from fit3d_finetune.targets.geometry import render_scene_depth
from fit3d_finetune.targets.scenes import Scene
from fit3d_finetune.training.samples import Samples
from fit3d_ns.common.console import progress
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
    squares = torch.zeros(2 * C + 1, 2 * C + 1, dtype=torch.float64)
    products = torch.zeros(2 * C + 1, 4, dtype=torch.float64)
    chosen = torch.linspace(0, len(samples) - 1, min(len(samples), MAX_VIEWS)).round().int().tolist()
    with progress("views") as bar:
        for index in bar.track(chosen, description="Heads of depth and normals"):
            sample = samples[index]
            if sample.geometry is None:
                raise ValueError("heads of depth and normals need samples with their geometry")
            maps, tokens = backbone.forward_with_class_token(sample.image[None].to(device))
            patches = maps[0].permute(1, 2, 0).reshape(-1, C)
            rows = torch.cat([patches, tokens.expand(len(patches), -1), torch.ones_like(patches[:, :1])], dim=1)
            rows, weights = rows.cpu().double(), sample.geometry.weights.reshape(-1, 1).double()
            squares += rows.T @ (rows * weights)
            products += rows.T @ (sample.geometry.features.reshape(-1, 4).double() * weights)
    heads = GeometryHeads(C, depth=True, normals=True)
    assert heads.depth is not None
    assert heads.normals is not None
    depth = _ridge(squares, products[:, :1])
    heads.depth.weight.copy_(depth[:-1].T)
    heads.depth.bias.copy_(depth[-1])
    local = torch.cat([torch.arange(C), torch.tensor([2 * C])])  # normals are read from the patch token
    normals = _ridge(squares[local][:, local], products[local, 1:])
    heads.normals.weight.copy_(normals[:-1].T)
    heads.normals.bias.copy_(normals[-1])
    return heads


def typical_depth(scenes: Sequence[Scene]) -> float:
    """Geometric mean over scenes of their typical canonical depth, in the captures' unit."""
    logs = []
    for scene in scenes:
        views = [scene.pinhole(view) for view in range(scene.num_views)]
        logs.append(render_scene_depth(scene.load(), views).log_unit)
    return math.exp(mean(logs))


def _ridge(squares: Tensor, products: Tensor) -> Tensor:
    """Coefficients; the last, the constant, is not held back."""
    penalty = RIDGE * squares.diagonal()[:-1].mean().clamp_min(1e-12)
    held = torch.cat([penalty.expand(len(squares) - 1), penalty.new_tensor([1e-12])])
    found: Tensor = torch.linalg.solve(squares + held.diag(), products)
    return found
