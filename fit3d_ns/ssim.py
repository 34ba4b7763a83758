"""Structural similarity of images, fast on both backends.

On a CPU the convolutions of the usual torch implementation cost several times more than rendering the image they
compare, so the value and its gradient come from Numba kernels here; on CUDA pytorch-msssim does it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fit3d_ns.rasterization.threads import kernel_launch, thread_count

_C1, _C2 = 0.01**2, 0.03**2


def gaussian_window(size: int = 11, sigma: float = 1.5) -> np.ndarray:
    """The normalised window [size] of Wang et al. 2004, float32."""
    weights = [math.exp(-((i - size // 2) ** 2) / (2 * sigma**2)) for i in range(size)]
    return np.array([weight / sum(weights) for weight in weights], dtype=np.float32)


class _MeanSSIM(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, predicted: Tensor, target: Tensor) -> Tensor:
        from fit3d_ns import _ssim_kernels as kernels

        channels, height, width = predicted.shape
        rows, columns = height - kernels.WINDOW + 1, width - kernels.WINDOW + 1
        x, y = (image.detach().contiguous().numpy().reshape(-1) for image in (predicted, target))
        partials = np.empty(channels * rows * 3 * columns, np.float32)
        sums = np.empty(channels * rows, np.float64)
        taps = gaussian_window()
        c1, c2 = np.float32(_C1), np.float32(_C2)
        with kernel_launch():
            kernels.forward(x, y, channels, height, width, taps, c1, c2, thread_count(), partials, sums)
        ctx.save_for_backward(predicted, target)
        ctx.partials = partials
        return predicted.new_tensor(sums.sum() / (channels * rows * columns))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        from fit3d_ns import _ssim_kernels as kernels

        predicted, target = ctx.saved_tensors
        channels, height, width = predicted.shape
        count = channels * (height - kernels.WINDOW + 1) * (width - kernels.WINDOW + 1)
        x, y = (image.detach().contiguous().numpy().reshape(-1) for image in (predicted, target))
        grad = np.empty_like(x)
        scale = np.float32(float(grad_output) / count)
        with kernel_launch():
            kernels.backward(
                x, y, channels, height, width, gaussian_window(), ctx.partials, scale, thread_count(), grad
            )
        return torch.from_numpy(grad).reshape(predicted.shape), None


def mean_ssim(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean SSIM over pixels and channels (Wang et al. 2004; 11x11 Gaussian window, no padding).

    The same number as `pytorch_msssim.ssim(..., data_range=1, size_average=True)`.

    Args:
        predicted: [C, H, W] in 0..1; gradients flow here only.
        target: [C, H, W] in 0..1.

    Returns:
        A scalar, at most 1.
    """
    small = min(predicted.shape[-2:]) < 11
    if predicted.is_cuda or small or predicted.dtype != torch.float32:
        from pytorch_msssim import ssim

        return ssim(target[None], predicted[None], data_range=1.0, size_average=True)
    return _MeanSSIM.apply(predicted, target)
