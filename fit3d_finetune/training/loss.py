"""How far the backbone's patch tokens are from their targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fit3d_finetune.backbone.geometry import GeometryHeads
from fit3d_finetune.targets.files import Target
from fit3d_finetune.training.anchor_loss import gram_loss, margin_loss
from fit3d_finetune.training.geometry_loss import normal_loss, scale_invariant_loss
from fit3d_finetune.training.recipe import LossKind, LossMean, Recipe
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
    """What a backbone is taught beside its features, and how much each of it counts."""

    heads: GeometryHeads | None
    """Of depth and normals; None: neither is taught."""
    recipe: Recipe

    @property
    def weights(self) -> dict[str, float]:
        """By what is taught."""
        return {
            "depth": self.recipe.depth_weight,
            "normals": self.recipe.normal_weight,
            "class_token": self.recipe.class_token_weight,
            "gram": self.recipe.gram_weight,
            "anchor": self.recipe.anchor_weight,
        }


def batch_loss(
    backbone: Backbone,
    samples: Sequence[Sample],
    kind: LossKind,
    mean: LossMean = "batch",
    teacher: Teacher | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of some samples, and figures without gradient: "cosine" of the features, and all other losses.

    Samples of one size share a forward pass. Losses of what is taught beside features are means over the images.
    """
    device = next(backbone.parameters()).device
    groups: dict[tuple[int, ...], list[Sample]] = {}
    for sample in samples:
        groups.setdefault(tuple(sample.image.shape), []).append(sample)
    errors: list[Tensor] = []
    angles: list[Tensor] = []
    weights: list[Tensor] = []
    taught: list[dict[str, Tensor]] = []
    for group in groups.values():
        images = torch.stack([sample.image for sample in group]).to(device, non_blocking=True)
        if teacher is None:
            maps = backbone(images)
        else:
            maps, tokens = backbone.forward_with_class_token(images)
            taught += [_taught(teacher, maps[i : i + 1], tokens[i : i + 1], one) for i, one in enumerate(group)]
        for features, sample in zip(maps.permute(0, 2, 3, 1), group, strict=True):
            target = sample.target.to(device)
            errors.append(patch_errors(features, target, kind))
            angles.append(patch_errors(features.detach(), target, "cosine"))
            weights.append(sample.weights.to(device))
    loss = weighted_mean(errors, weights, mean)
    figures = {"cosine": 1 - weighted_mean(angles, weights, mean)}
    if teacher is not None:
        for name, weight in teacher.weights.items():
            parts = [losses[name] for losses in taught if name in losses]
            if weight > 0 and parts:
                part = torch.stack(parts).mean()
                loss, figures[name] = loss + weight * part, part.detach()
    return loss, figures


def _taught(teacher: Teacher, maps: Tensor, tokens: Tensor, sample: Sample) -> dict[str, Tensor]:
    """An image's losses of what is taught beside its features, as far as there is a target.

    Args:
        teacher: with heads of what is taught of shape.
        maps: features [1, C, h, w] of the image.
        tokens: its class token [1, C].
        sample: its targets.
    """
    found = {}
    if teacher.heads is not None:
        if sample.geometry is None:
            raise ValueError("heads of depth or normals need samples with their geometry")
        depths, normals = teacher.heads(maps, tokens)
        target, weights = _on(maps.device, sample.geometry)
        if depths is not None:
            found["depth"] = scale_invariant_loss(depths[0], target[..., 0], weights)
        if normals is not None:
            found["normals"] = normal_loss(normals[0], target[..., 1:4], weights * target[..., 4])
    if sample.class_token is not None:
        found["class_token"] = 1 - F.cosine_similarity(tokens[0], sample.class_token.to(tokens.device), dim=0)
    features = maps[0].permute(1, 2, 0)
    if sample.gram is not None:
        found["gram"] = gram_loss(features, *_on(maps.device, sample.gram))
    if sample.original is not None:
        original, weights = _on(maps.device, sample.original)
        found["anchor"] = margin_loss(features, original, weights, teacher.recipe.anchor_margin)
    return found


def _on(device: torch.device, target: Target) -> tuple[Tensor, Tensor]:
    """Features and weights of a target."""
    return target.features.to(device), target.weights.to(device)
