"""How far the backbone's patch tokens are from their targets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fit3d_finetune.training.recipe import LossKind
from fit3d_finetune.training.samples import Sample
from fit3d_ns.features.backbone import Backbone


def patch_loss(features: Tensor, target: Tensor, weights: Tensor, kind: LossKind) -> Tensor:
    """Weighted mean over the patches of one image; zero, with zero gradients, if none counts.

    Args:
        features: [h, w, C] of the backbone.
        target: [h, w, C].
        weights: [h, w], not negative.
        kind: "l1" is the paper's; "smooth-l1" is quadratic below 1; "cosine" is 1 - cosine.
    """
    if kind == "cosine":
        per_patch = 1 - F.cosine_similarity(features, target, dim=-1)
    elif kind == "smooth-l1":
        per_patch = F.smooth_l1_loss(features, target, reduction="none").mean(-1)
    else:
        per_patch = (features - target).abs().mean(-1)
    return (per_patch * weights).sum() / weights.sum().clamp_min(1e-6)


def batch_loss(backbone: Backbone, samples: Sequence[Sample], kind: LossKind) -> tuple[Tensor, Tensor]:
    """Mean loss and mean cosine (no gradient) of some samples; those of one size share a forward pass."""
    device = next(backbone.parameters()).device
    groups: dict[tuple[int, ...], list[Sample]] = {}
    for sample in samples:
        groups.setdefault(tuple(sample.image.shape), []).append(sample)
    losses: list[Tensor] = []
    cosines: list[Tensor] = []
    for group in groups.values():
        maps = backbone(torch.stack([sample.image for sample in group]).to(device, non_blocking=True))
        for features, sample in zip(maps.permute(0, 2, 3, 1), group, strict=True):
            target, weights = sample.features.to(device), sample.weights.to(device)
            losses.append(patch_loss(features, target, weights, kind))
            cosines.append(1 - patch_loss(features.detach(), target, weights, "cosine"))
    return torch.stack(losses).mean(), torch.stack(cosines).mean()
