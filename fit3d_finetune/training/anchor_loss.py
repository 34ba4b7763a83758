"""What holds patch tokens to those of the original backbone: how they are alike among each other, and how far they go.

Both losses are of one image, zero with zero gradients if no patch counts.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-6


def gram_loss(features: Tensor, original: Tensor, weights: Tensor) -> Tensor:
    """Mean squared difference between two matrices of the cosines between all patches of an image.

    Gram anchoring of DINOv3 (arXiv 2508.10104, section 4.2): features may turn together, but what is alike among the
    original's patches stays alike. Pairs count by the product of their patches' weights.

    The matrices [P, P] of P patches are never made, which would take gigabytes for large images. With S and T the unit
    features, D = S - T, A = D'T and B = D'D, all of C channels, |SS' - TT'|^2 = <B, B + 4A + 2T'T> + 2 <A, A'>. Every
    term vanishes with D, where |S'S|^2 + |T'T|^2 - 2 |S'T|^2, which is the same, would be rounding.

    Args:
        features: [h, w, C] of any length.
        original: [h, w, C] that the original has there.
        weights: [h, w], not negative.
    """
    root = weights.reshape(-1, 1).sqrt()
    S, T = (root * F.normalize(values.flatten(0, 1), dim=-1) for values in (features, original))
    D = S - T
    A, B = D.T @ T, D.T @ D
    square = (B * (B + 4 * A + 2 * (T.T @ T))).sum() + 2 * (A * A.T).sum()
    return square / weights.sum().square().clamp_min(EPSILON)


def margin_loss(features: Tensor, original: Tensor, weights: Tensor, margin: float) -> Tensor:
    """How far the cosine between a patch and the original's own lies below a margin: mean over an image's patches.

    Within the margin features are free: this is a hinge.

    Args:
        features: [h, w, C].
        original: [h, w, C].
        weights: [h, w], not negative.
        margin: cosine, in 0..1.
    """
    below = F.relu(margin - F.cosine_similarity(features, original, dim=-1))
    return (below * weights).sum() / weights.sum().clamp_min(EPSILON)
