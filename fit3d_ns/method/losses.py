"""What the training minimises and reports, as functions of renderings, photos and feature maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fit3d_ns.features.loss import FeatureComparison, FeatureLossKind, feature_loss
from fit3d_ns.photometric import Border, ImageDifference, compare_images

MaskedPixels = Literal["black", "rendered"]
"""What masked pixels count as, see `Fit3DModelOptions.masked_pixels`."""


@dataclass(frozen=True, eq=False)
class PhotoComparison:
    """A rendering beside its photo: looked at once, for losses and metrics."""

    difference: ImageDifference
    """Masked pixels as the configuration says."""
    squared: Tensor
    """Mean squared error of the whole view, masked pixels included; without gradient."""


def compare_with_photo(
    rendered: Tensor, photo: Tensor, mask: Tensor | None, masked_pixels: MaskedPixels, border: Border
) -> PhotoComparison:
    """How far a rendering is from the photo.

    Args:
        rendered: [H, W, 3] in 0..1.
        photo: [H, W, 3] in 0..1, over the rendering's background.
        mask: [H, W, 1], 1 = counts; None: all pixels do.
        masked_pixels: what the others count as.
        border: of SSIM.
    """
    if mask is None:
        difference = compare_images(rendered, photo, border)
        return PhotoComparison(difference, difference.squared)
    squared = (rendered.detach() - photo).square().mean()
    if masked_pixels == "rendered":
        photo = torch.where(mask > 0.5, photo, rendered.detach())
    else:
        photo, rendered = photo * mask, rendered * mask
    return PhotoComparison(compare_images(rendered, photo, border), squared)


def colour_loss(difference: ImageDifference, ssim_share: float) -> Tensor:
    """3DGS's: L1 and 1 - SSIM, the latter with a share of `ssim_share`."""
    return (1 - ssim_share) * difference.l1 + ssim_share * (1 - difference.ssim)


def psnr(squared: Tensor) -> Tensor:
    """In dB, from a mean squared error."""
    return -10 * torch.log10(squared.clamp_min(1e-10))


def feature_losses(
    compared: FeatureComparison, kind: FeatureLossKind, weight: float, masked_pixels: MaskedPixels
) -> dict[str, Tensor]:
    """The loss of the features times `weight`, and that of the error (1 - cosine) which the Gaussians learn beside."""
    loss, cosine = feature_loss(*compared.maps, kind)
    if masked_pixels == "rendered":
        loss = loss * compared.weights.mean()  # the mean over all cells, those left out as zeros
    residual = compared.errors - (1 - cosine.detach())
    weights = compared.weights
    return {
        "feature_loss": weight * loss,
        "feature_error_loss": (weights * residual.square()).sum() / weights.sum().clamp_min(1e-6),
    }


def needle_penalty(log_scales: Tensor, max_ratio: float) -> Tensor:
    """PhysGaussian's penalty on Gaussians whose longest axis is more than `max_ratio` times the shortest.

    Args:
        log_scales: [N, 3], logarithms.
        max_ratio: at least 1.
    """
    longest, shortest = log_scales.amax(dim=-1), log_scales.amin(dim=-1)
    return 0.1 * (torch.exp(longest - shortest).clamp_min(max_ratio) - max_ratio).mean()
