"""How far decoded features are from the backbone's: the training loss and the metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fit3d_ns.features.patch_grid import COUNTED_SHARE, counted, pool_to_patch_grid, upsample_to_pixels
from fit3d_ns.features.position import position_map

FeatureLossKind = Literal["l1", "cosine+l1"]
FeatureSupervision = Literal["patch", "pixel"]

_SHORTEST = 0.1
"""Share of the target's length below which the direction of a decoded feature counts less and less."""


@dataclass(frozen=True, eq=False)
class FeatureComparison:
    """What a view renders beside what the backbone saw, on the patch grid or at the pixels of the rendering."""

    decoded: Tensor
    """[h, w, C]."""
    target: Tensor
    """[h, w, C]."""
    weights: Tensor
    """[h, w]: the unmasked share of each cell, zero where it does not count."""
    errors: Tensor
    """[h, w]: the rendered error that Gaussians learn."""

    @property
    def maps(self) -> tuple[Tensor, Tensor, Tensor]:
        """The first three, as `feature_loss` takes them."""
        return self.decoded, self.target, self.weights


def compare_features(
    rendered: Tensor,
    target: Tensor,
    mask: Tensor | None,
    decoder: Callable[[Tensor], Tensor],
    supervision: FeatureSupervision,
    position: Tensor | None = None,
) -> FeatureComparison:
    """Decode what was rendered and bring it and the backbone's map to one size.

    Args:
        rendered: [H, W, D + 1], blended features and, last, the learned error.
        target: [h, w, C], the backbone's map of the view, in any precision and on any device.
        mask: [.., .., 1] of the view at any size, 1 = counts; None: all pixels do.
        decoder: [..., D] to [..., C].
        supervision: "patch" averages the rendering over the grid, "pixel" enlarges the map to the rendering.
        position: [rows, columns, C], the position term to add to what is decoded (`fit3d_ns.features.position`).
    """
    height, width = rendered.shape[:2]
    target = target.to(rendered.device, torch.float32)
    if mask is not None:
        mask = mask.to(rendered.device, torch.float32)
        if mask.shape[:2] != (height, width):
            mask, _ = pool_to_patch_grid(mask, (height, width), None)
    if supervision == "patch":
        rendered, weights = pool_to_patch_grid(rendered, (target.shape[0], target.shape[1]), mask)
        weights = counted(weights)
    else:
        target = upsample_to_pixels(target, height, width)
        weights = rendered.new_ones(height, width) if mask is None else (mask[..., 0] > COUNTED_SHARE).float()
    decoded = decoder(rendered[..., :-1])
    if position is not None:
        decoded = decoded + position_map(position, (decoded.shape[0], decoded.shape[1]))
    return FeatureComparison(decoded, target, weights, rendered[..., -1])


def feature_loss(decoded: Tensor, target: Tensor, weights: Tensor, kind: FeatureLossKind) -> tuple[Tensor, Tensor]:
    """Weighted mean loss between feature maps.

    `l1` is FiT3D's (ECCV 2024, equation 4): the mean absolute difference. `cosine+l1` adds 1 - cosine, which
    does not care about the length of a feature, as most uses of features do not. Only for decoded features
    shorter than a tenth of the target its gradient, which grows as one over the length, is held: features that
    start at zero would else send Adam one gradient of 1e8 and then hardly move for the rest of the training.

    Args:
        decoded: [h, w, C].
        target: [h, w, C].
        weights: [h, w], non-negative; cells of weight zero do not count.

    Returns:
        The loss (scalar) and, without gradient, the cosine [h, w]. The loss is zero, with zero gradients, if no cell
        counts.
    """
    total = weights.sum().clamp_min(1e-6)
    loss = ((decoded - target).abs().mean(-1) * weights).sum() / total
    if kind == "l1":
        # Only a figure here: no gradients of it, whose products would be kept at full size.
        return loss, _cosine(*_products(decoded.detach(), target))
    if kind != "cosine+l1":
        raise ValueError(f"unknown feature loss {kind!r}; choose 'l1' or 'cosine+l1'")
    product, length, target_length = _products(decoded, target)
    held = torch.maximum(length, _SHORTEST * target_length).clamp_min(1e-8)
    loss = loss + ((1 - product / (held * target_length.clamp_min(1e-8))) * weights).sum() / total
    return loss, _cosine(product, length, target_length).detach()


def _products(decoded: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[h, w] each: the scalar product, and both lengths."""
    return (decoded * target).sum(-1), decoded.norm(dim=-1), target.norm(dim=-1)


def _cosine(product: Tensor, length: Tensor, target_length: Tensor) -> Tensor:
    return product / (length * target_length).clamp_min(1e-8)


def feature_metrics(decoded: Tensor, target: Tensor, weights: Tensor) -> dict[str, float]:
    """`feature_l1` and `feature_cosine`, weighted means over the grid (arguments as `feature_loss`).

    NaN if no cell counts: a view that is masked as a whole has no figure.
    """
    if not bool((weights > 0).any()):
        return {"feature_l1": float("nan"), "feature_cosine": float("nan")}
    loss, cosine = feature_loss(decoded, target, weights, "l1")
    mean_cosine = (cosine * weights).sum() / weights.sum().clamp_min(1e-6)
    return {"feature_l1": loss.item(), "feature_cosine": mean_cosine.item()}
