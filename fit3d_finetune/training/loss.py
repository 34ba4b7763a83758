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
    """How far every patch is from its target: [..., h, w].

    Args:
        features: [..., h, w, C] of the backbone.
        target: [..., h, w, C].
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
        errors: [n, h, w] of the views of each size, or [h, w] of each view.
        weights: the same shapes, not negative.
        mean: "batch" over all patches of all views; "image" over the views' own means.
    """
    pairs = list(zip(errors, weights, strict=True))
    sums = torch.cat([(error * weight).sum((-2, -1)).reshape(-1) for error, weight in pairs])
    totals = torch.cat([weight.sum((-2, -1)).reshape(-1) for _, weight in pairs])
    if mean == "batch":
        return sums.sum() / totals.sum().clamp_min(1e-6)
    return (sums / totals.clamp_min(1e-6)).mean()


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

    @property
    def taught(self) -> list[str]:
        """Names of what is taught."""
        return [name for name, weight in self.weights.items() if weight > 0]


def batch_loss(
    backbone: Backbone,
    samples: Sequence[Sample],
    kind: LossKind,
    mean: LossMean = "batch",
    teacher: Teacher | None = None,
    scale: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of some samples, and figures without gradient: "cosine" of the features, and all other losses.

    Samples of one size share a forward pass. Losses of what is taught beside features are means over the images.

    Args:
        scale: of the loss of features and of their cosine's distance from 1, where these samples are a part of those
            that the mean goes over.
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
        images = stacked([sample.image for sample in group], device)
        if teacher is None:
            maps = backbone(images)
        else:
            maps, tokens = backbone.forward_with_class_token(images)
            taught.append(_taught(teacher, maps, tokens, group))
        features, target = maps.permute(0, 2, 3, 1), stacked([sample.target for sample in group], device)
        errors.append(patch_errors(features, target, kind))
        angles.append(errors[-1].detach() if kind == "cosine" else patch_errors(features.detach(), target, "cosine"))
        weights.append(stacked([sample.weights for sample in group], device))
    loss = scale * weighted_mean(errors, weights, mean)
    figures = {"cosine": 1 - scale * weighted_mean(angles, weights, mean)}
    if teacher is not None:
        for name, weight in teacher.weights.items():
            parts = [losses[name] for losses in taught if name in losses]
            if weight > 0 and parts:
                part = torch.cat(parts).mean()
                loss, figures[name] = loss + weight * part, part.detach()
    return loss, figures


def stacked(parts: Sequence[Tensor], device: torch.device) -> Tensor:
    """Tensors of one shape as one, [n, ...], on a device; a GPU copies from pinned memory and is not waited for."""
    whole = torch.stack(list(parts))
    if device.type == "cuda" and torch.cuda.is_available():
        whole = whole.pin_memory()
    return whole.to(device, non_blocking=True)


def _taught(teacher: Teacher, maps: Tensor, tokens: Tensor, samples: Sequence[Sample]) -> dict[str, Tensor]:
    """Losses of what is taught beside the features, by image [n], of those that have a target.

    Args:
        teacher: with heads of what is taught of shape.
        maps: features [n, C, h, w] of the images.
        tokens: their class tokens [n, C].
        samples: their targets.
    """
    found = {}
    if teacher.heads is not None:
        shapes = [sample.geometry for sample in samples if sample.geometry is not None]
        if len(shapes) < len(samples):
            raise ValueError("heads of depth or normals need samples with their geometry")
        depths, normals = teacher.heads(maps, tokens)
        target = stacked([shape.features for shape in shapes], maps.device)
        weights = stacked([shape.weights for shape in shapes], maps.device)
        if depths is not None:
            found["depth"] = scale_invariant_loss(depths, target[..., 0], weights)
        if normals is not None:
            found["normals"] = normal_loss(normals, target[..., 1:4], weights * target[..., 4])
    held = [index for index, sample in enumerate(samples) if sample.class_token is not None]
    if held:
        kept = stacked([token for sample in samples if (token := sample.class_token) is not None], tokens.device)
        own = tokens if len(held) == len(samples) else tokens[held]
        found["class_token"] = 1 - F.cosine_similarity(own, kept, dim=-1)
    features = maps.permute(0, 2, 3, 1)
    grams = [(own, sample.gram) for own, sample in zip(features, samples, strict=True) if sample.gram is not None]
    if grams:
        found["gram"] = torch.stack([gram_loss(own, *_on(maps.device, gram)) for own, gram in grams])
    near = [(own, each.original) for own, each in zip(features, samples, strict=True) if each.original is not None]
    if near:
        margin = teacher.recipe.anchor_margin
        parts = [margin_loss(own, *_on(maps.device, original), margin) for own, original in near]
        found["anchor"] = torch.stack(parts)
    return found


def _on(device: torch.device, target: Target) -> tuple[Tensor, Tensor]:
    """Features and weights of a target."""
    return target.features.to(device), target.weights.to(device)
