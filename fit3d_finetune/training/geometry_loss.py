"""How far predicted depth and normals are from the Gaussians' own."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-6


def scale_invariant_loss(log_depth: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """sqrt(mean g^2 - mean(g)^2) of each image, g = log_depth - target; zero if no patch counts: [...].

    The loss of Eigen et al. (NeurIPS 2014) that forgives an image's scale whole. What others leave of it (0.15 of the
    mean's square) a backbone learns by heart for the few scenes that it is trained on: rooms that it never saw then
    have the right shape in the wrong size (benchmarks/results/recipes.md).

    Args:
        log_depth, target: [..., h, w].
        weights: [..., h, w], not negative.
    """
    total = weights.sum((-2, -1)).clamp_min(EPSILON)
    error = log_depth - target
    weighted = error * weights
    mean = weighted.sum((-2, -1)) / total
    square = (error * weighted).sum((-2, -1)) / total
    # The root's slope has no bound at zero, where a perfect prediction or an image without a patch would be.
    return (square - mean.square() + EPSILON).sqrt() - EPSILON**0.5


def normal_loss(normals: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Half the squared distance of each image's normals [..., h, w, 3] from unit normals, weighted [..., h, w]: [...].

    It is 1 - cosine for normals of unit length, and has a bounded slope at zero, where heads begin.
    """
    errors = 0.5 * F.mse_loss(normals, target, reduction="none").sum(-1)
    return (errors * weights).sum((-2, -1)) / weights.sum((-2, -1)).clamp_min(EPSILON)
