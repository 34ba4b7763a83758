"""How far the backbone's patch tokens are from their targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fit3d_finetune.backbone.geometry import GeometryHeads
from fit3d_finetune.training.geometry_loss import normal_loss, scale_invariant_loss
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


@dataclass(frozen=True, eq=False)
class Teacher:
    """What a backbone is taught of shape beside its features: heads, and how much each of them counts."""

    heads: GeometryHeads
    depth_weight: float
    normal_weight: float


def batch_loss(
    backbone: Backbone,
    samples: Sequence[Sample],
    kind: LossKind,
    mean: LossMean = "batch",
    teacher: Teacher | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of some samples, and figures without gradient: "cosine" of the features, "depth" and "normals" as losses.

    Samples of one size share a forward pass. Losses of depth and normals are means over the images.
    """
    device = next(backbone.parameters()).device
    groups: dict[tuple[int, ...], list[Sample]] = {}
    for sample in samples:
        groups.setdefault(tuple(sample.image.shape), []).append(sample)
    errors: list[Tensor] = []
    angles: list[Tensor] = []
    weights: list[Tensor] = []
    shape: list[dict[str, Tensor]] = []
    for group in groups.values():
        images = torch.stack([sample.image for sample in group]).to(device, non_blocking=True)
        if teacher is None:
            maps = backbone(images)
        else:
            maps, tokens = backbone.forward_with_class_token(images)
            shape += _shape_losses(teacher.heads, maps, tokens, group)
        for features, sample in zip(maps.permute(0, 2, 3, 1), group, strict=True):
            target = sample.features.to(device)
            errors.append(patch_errors(features, target, kind))
            angles.append(patch_errors(features.detach(), target, "cosine"))
            weights.append(sample.weights.to(device))
    loss = weighted_mean(errors, weights, mean)
    figures = {"cosine": 1 - weighted_mean(angles, weights, mean)}
    if teacher is not None:
        for name, weight in (("depth", teacher.depth_weight), ("normals", teacher.normal_weight)):
            if weight > 0:
                part = torch.stack([losses[name] for losses in shape]).mean()
                loss, figures[name] = loss + weight * part, part.detach()
    return loss, figures


def _shape_losses(
    heads: GeometryHeads, maps: Tensor, tokens: Tensor, samples: Sequence[Sample]
) -> list[dict[str, Tensor]]:
    """Each image's losses of depth and normals, as far as there are heads for them."""
    depths, normals = heads(maps, tokens)
    losses = []
    for index, sample in enumerate(samples):
        if sample.geometry is None:
            raise ValueError("heads of depth or normals need samples with their geometry")
        target, weights = (part.to(maps.device) for part in (sample.geometry.features, sample.geometry.weights))
        found = {}
        if depths is not None:
            found["depth"] = scale_invariant_loss(depths[index], target[..., 0], weights)
        if normals is not None:
            found["normals"] = normal_loss(normals[index], target[..., 1:4], weights * target[..., 4])
        losses.append(found)
    return losses
