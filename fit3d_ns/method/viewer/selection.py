"""Which Gaussians are shown: those that are sure enough of themselves, and those that belong to a clicked thing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NO_ERROR_LIMIT = 1.0
NO_DISTANCE_LIMIT = 2.0
"""At these ends of their sliders nothing is hidden: cameras lie within about one unit of nerfstudio's centre."""

DIMMED = 0.08
"""What is left of the opacity of dimmed Gaussians."""


@dataclass(frozen=True)
class Limits:
    """What a Gaussian must keep to. The defaults hide nothing."""

    error: float = NO_ERROR_LIMIT
    """Highest learned error (1 - cosine)."""
    opacity: float = 0.0
    """Lowest opacity, 0..1."""
    similarity: float = -1.0
    """Lowest cosine of its feature to that of the clicked point."""
    distance: float = NO_DISTANCE_LIMIT
    """Largest distance of its centre from the clicked point, in units of the scene."""


@torch.no_grad()
def confident(errors: Tensor, opacities: Tensor, limits: Limits) -> Tensor | None:
    """Which Gaussians are sure enough [N] (bool); None: all.

    Args:
        errors: [N, 1].
        opacities: [N], in 0..1.
        limits: of `error` and `opacity`.
    """
    kept = None
    if limits.error < NO_ERROR_LIMIT:
        kept = errors[:, 0] <= limits.error
    if limits.opacity > 0:
        kept = both(kept, opacities >= limits.opacity)
    return kept


@torch.no_grad()
def isolated(similarities: Tensor | None, means: Tensor, point: Tensor | None, limits: Limits) -> Tensor | None:
    """Which Gaussians belong to the clicked thing [N] (bool); None: nothing was clicked or limited.

    Args:
        similarities: [N], of each Gaussian's feature to the clicked one.
        means: [N, 3].
        point: [3], the clicked point.
        limits: of `similarity` and `distance`.
    """
    kept = None
    if similarities is not None and limits.similarity > -1:
        kept = similarities >= limits.similarity
    if point is not None and limits.distance < NO_DISTANCE_LIMIT:
        kept = both(kept, (means - point.to(means)).norm(dim=-1) <= limits.distance)
    return kept


def both(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The Gaussians that are in a and in b, None standing for all."""
    if a is None or b is None:
        return b if a is None else a
    return a & b


@torch.no_grad()
def dimmed(logits: Tensor, bright: Tensor) -> Tensor:
    """Raw opacities [N, 1] (logits) where all but `bright` [N] (bool) are nearly transparent."""
    faint = torch.logit(DIMMED * torch.sigmoid(logits), eps=1e-6)
    return torch.where(bright[:, None], logits, faint)
