"""The rendered image over its background, and its differences from the photo.

On a CPU the chain of torch operations from the rasteriser's output to the loss costs as much as rendering, mostly in
SSIM's convolutions and in passes over whole images. Numba kernels do it in a few passes, forward and backward; on
CUDA torch and pytorch-msssim do it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fit3d_ns.rasterization.kernel_cache import load_kernels
from fit3d_ns.rasterization.threads import kernel_launch, thread_count

_C1, _C2 = np.float32(0.01**2), np.float32(0.03**2)
_WINDOW = 11

Border = Literal["valid", "zeros"]
"""Where the windows of SSIM lie: inside the image only, or centred on every pixel with zeros outside (3DGS)."""


@dataclass(frozen=True)
class ImageDifference:
    """Scalars over pixels and channels."""

    l1: Tensor
    """Mean absolute difference."""
    ssim: Tensor
    """Mean structural similarity (Wang et al. 2004; 11x11 Gaussian window), at most 1."""
    squared: Tensor
    """Mean squared difference, without gradient."""


@cache
def gaussian_window(size: int = _WINDOW, sigma: float = 1.5) -> np.ndarray:
    """The normalised window [size] of Wang et al. 2004, float32."""
    weights = [math.exp(-((i - size // 2) ** 2) / (2 * sigma**2)) for i in range(size)]
    return np.array([weight / sum(weights) for weight in weights], dtype=np.float32)


def _flat(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy().reshape(-1)


class _Difference(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kernels = load_kernels("fit3d_ns.photometric._kernels")

        height, width = predicted.shape[:2]
        partials = np.empty(3 * (height + kernels.WINDOW - 1) * (3 * width + kernels.MARGIN), np.float32)
        parts = thread_count()
        sums = np.zeros((parts, 3))
        x, y = _flat(predicted), _flat(target)
        with kernel_launch():
            kernels.forward(x, y, height, width, gaussian_window(), _C1, _C2, parts, partials, sums)
        ctx.save_for_backward(predicted, target)
        ctx.partials = partials
        count = 3 * height * width
        windows = 3 * (height - kernels.WINDOW + 1) * (width - kernels.WINDOW + 1)
        ssim, absolute, squared = (predicted.new_tensor(value) for value in sums.sum(0) / (windows, count, count))
        ctx.mark_non_differentiable(squared)
        ctx.counts = windows, count
        return absolute, ssim, squared

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_l1: Tensor, g_ssim: Tensor, _: Tensor) -> tuple[Tensor, None]:
        kernels = load_kernels("fit3d_ns.photometric._kernels")

        predicted, target = ctx.saved_tensors
        height, width = predicted.shape[:2]
        windows, count = ctx.counts
        grad = torch.empty(height, width, 3)
        scales = np.float32(float(g_ssim) / windows), np.float32(float(g_l1) / count)
        x, y = _flat(predicted), _flat(target)
        with kernel_launch():
            kernels.backward(
                x, y, height, width, gaussian_window(), ctx.partials, *scales, thread_count(), grad.numpy().reshape(-1)
            )
        return grad, None


def compare_images(predicted: Tensor, target: Tensor, border: Border = "valid") -> ImageDifference:
    """How far a rendered image is from its photo.

    Args:
        predicted: [H, W, 3] in 0..1; gradients flow here only.
        target: [H, W, 3] in 0..1.
        border: which windows SSIM is the mean of.
    """
    if border == "zeros":
        # Within a frame of zeros the windows that fit are those that are centred on a pixel.
        frame = (0, 0, *[_WINDOW // 2] * 4)
        inside = compare_images(F.pad(predicted, frame), F.pad(target, frame))
        height, width = predicted.shape[:2]
        share = (height + _WINDOW - 1) * (width + _WINDOW - 1) / (height * width)
        return ImageDifference(inside.l1 * share, inside.ssim, inside.squared * share)
    small = min(predicted.shape[:2]) < _WINDOW
    if predicted.device.type != "cpu" or small or predicted.dtype != torch.float32:
        from pytorch_msssim import ssim

        images = (image.permute(2, 0, 1)[None] for image in (target, predicted))
        difference = target - predicted
        return ImageDifference(
            difference.abs().mean(),
            ssim(*images, data_range=1.0, size_average=True),
            difference.detach().square().mean(),
        )
    return ImageDifference(*_Difference.apply(predicted.contiguous(), target.contiguous()))


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, alpha: Tensor, background: Tensor) -> Tensor:
        kernels = load_kernels("fit3d_ns.photometric._kernels")

        rgb = torch.empty(image.shape)
        kernels.composite(_flat(image), _flat(alpha), background.numpy(), len(image), rgb.numpy().reshape(-1))
        ctx.save_for_backward(rgb, background)
        return rgb

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_rgb: Tensor) -> tuple[Tensor, Tensor, None]:
        kernels = load_kernels("fit3d_ns.photometric._kernels")

        rgb, background = ctx.saved_tensors
        g_image, g_alpha = torch.empty(rgb.shape), torch.empty(*rgb.shape[:2], 1)
        kernels.composite_backward(
            *(_flat(rgb), background.numpy(), _flat(g_rgb), len(rgb)),
            *(g_image.numpy().reshape(-1), g_alpha.numpy().reshape(-1)),
        )
        return g_image, g_alpha, None


def composite(image: Tensor, alpha: Tensor, background: Tensor) -> Tensor:
    """A rendered image over a plain background, clamped to 0..1.

    Args:
        image: [H, W, 3], blended colours.
        alpha: [H, W, 1] in 0..1.
        background: [3], gets no gradient.
    """
    if image.device.type != "cpu":
        return (image + (1 - alpha) * background).clamp(0, 1)
    return _Composite.apply(image, alpha, background)
