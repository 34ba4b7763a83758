"""How far the backbone's patch tokens are from their targets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fit3d_finetune.training.recipe import LossKind, LossMean
from fit3d_finetune.training.samples import Sample
from fit3d_ns.features.backbone import Backbone


def patch_errors(features: Tensor, target: Tensor, kind: LossKind) -> Tensor:
    """How far every patch is from its target: [h, w].

    Args:
        features: [h, w, C] of the backbone.
        target: [h, w, C].
        kind: "l1" is the paper's; "smooth-l1" is quadratic below 1; "cosine" is 1 - cosine.
    """
    if kind == "cosine":
        return 1 - F.cosine_similarity(features, target, dim=-1)
    if kind == "smooth-l1":
        return F.smooth_l1_loss(features, target, reduction="none").mean(-1)
    return (features - target).abs().mean(-1)


def weighted_mean(errors: Sequence[Tensor], weights: Sequence[Tensor], mean: LossMean) -> Tensor:
    """Mean of the errors of all views, zero with zero gradients if no patch counts.

    Args:
        errors: [h, w] of each view.
        weights: [h, w] of each view, not negative.
        mean: "batch" over all patches of all views; "image" over the views' own means.
    """
    sums = [(error * weight).sum() for error, weight in zip(errors, weights, strict=True)]
    totals = [weight.sum() for weight in weights]
    if mean == "batch":
        return torch.stack(sums).sum() / torch.stack(totals).sum().clamp_min(1e-6)
    return torch.stack([part / total.clamp_min(1e-6) for part, total in zip(sums, totals, strict=True)]).mean()


def batch_loss(
    backbone: Backbone, samples: Sequence[Sample], kind: LossKind, mean: LossMean = "batch"
) -> tuple[Tensor, Tensor]:
    """Loss and cosine (no gradient) of some samples; those of one size share a forward pass."""
    device = next(backbone.parameters()).device
    groups: dict[tuple[int, ...], list[Sample]] = {}
    for sample in samples:
        groups.setdefault(tuple(sample.image.shape), []).append(sample)
    errors: list[Tensor] = []
    angles: list[Tensor] = []
    weights: list[Tensor] = []
    for group in groups.values():
        maps = backbone(torch.stack([sample.image for sample in group]).to(device, non_blocking=True))
        for features, sample in zip(maps.permute(0, 2, 3, 1), group, strict=True):
            target = sample.features.to(device)
            errors.append(patch_errors(features, target, kind))
            angles.append(patch_errors(features.detach(), target, "cosine"))
            weights.append(sample.weights.to(device))
    return weighted_mean(errors, weights, mean), 1 - weighted_mean(angles, weights, mean)
