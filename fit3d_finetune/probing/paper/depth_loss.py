"""The published losses of depth, in torch: they see one value per pixel, so that nothing is gained by kernels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

EPS = 1e-3
"""Added to depths before their logarithm is taken, in metres."""
MEAN_WEIGHT = 0.15
GRADIENT_WEIGHT = 0.5
GRADIENT_FACTORS = (1, 2, 4, 6)
GRADIENT_DISTANCE = 2
"""Pixels between which differences are taken."""


def scale_invariant_loss(predicted: Tensor, depth: Tensor, warming: bool) -> Tensor:
    """Losses [arms] of predicted [n, arms, H, W] against depth [n, H, W], over the known pixels of all n together.

    With g = log predicted - log depth: sqrt(var(g) + 0.15 mean(g)^2); while warming without the variance. Zero where
    less than two pixels are known.
    """
    known = depth > 0
    if int(known.sum()) < 2:
        return predicted.new_zeros(predicted.shape[1]) * predicted.sum((0, 2, 3))
    g = (predicted.transpose(0, 1)[:, known] + EPS).log() - (depth[known] + EPS).log()
    mean = g.mean(1)
    if warming:
        return math.sqrt(MEAN_WEIGHT) * mean.abs()
    return (g.var(1) + MEAN_WEIGHT * mean.square()).clamp_min(1e-12).sqrt()


def gradient_loss(predicted: Tensor, depth: Tensor) -> Tensor:
    """Losses [arms] from the differences of g between pixels two apart, at four scales (MegaDepth, 2018).

    What the published loss is meant to be. There, its slices meet the batch and the channel instead of rows and
    columns, and nothing is left of it: it is always zero.
    """
    total = predicted.new_zeros(predicted.shape[1])
    step = GRADIENT_DISTANCE
    for factor in GRADIENT_FACTORS:
        truth = depth[:, None, ::factor, ::factor]
        known = (truth > 0).to(predicted)
        g = ((predicted[..., ::factor, ::factor] + EPS).log() - (truth + EPS).log()) * known
        rows = (g[..., step:, :] - g[..., :-step, :]).abs() * known[..., step:, :] * known[..., :-step, :]
        columns = (g[..., step:] - g[..., :-step]).abs() * known[..., step:] * known[..., :-step]
        total = total + (rows.sum((0, 2, 3)) + columns.sum((0, 2, 3))) / known.sum().clamp_min(1)
    return total


def depth_loss(predicted: Tensor, depth: Tensor, warming: bool) -> Tensor:
    """Losses [arms] of n images together, see the two above."""
    scaled = scale_invariant_loss(predicted, depth, warming)
    return torch.add(scaled, gradient_loss(predicted, depth), alpha=GRADIENT_WEIGHT)
