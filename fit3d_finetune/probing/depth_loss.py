"""Depth from bins and its losses, on a CPU in two fused kernels: what lies between is larger than both ends.

After DINOv2's and FiT3D's probe: uniform bins, linear normalisation of the rectified outputs, the scale-invariant
logarithmic loss with weight 1 and a gradient loss with weight 0.5.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fit3d_finetune.probing import torch_backend
from fit3d_finetune.probing.torch_backend import runs_kernels
from fit3d_ns.rasterization.kernel_cache import load_kernels
from fit3d_ns.rasterization.threads import kernel_launch

MIN_DEPTH = 1e-3
VARIANCE_WEIGHT = 0.85
GRADIENT_WEIGHT = 0.5
GRADIENT_SCALES = 4


class _BinnedDepth(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, outputs: Tensor, max_depth: float, factor: int) -> Tensor:
        _kernels = load_kernels("fit3d_finetune.probing._kernels")

        n, h, w, arms, count = outputs.shape
        outputs = outputs.detach().contiguous()
        ctx.bins = torch.linspace(MIN_DEPTH, max_depth, count, dtype=outputs.dtype).numpy()
        ctx.outputs, ctx.factor = outputs, factor
        ctx.depth, ctx.totals = (np.empty((h * factor, w * factor, n, arms), outputs.numpy().dtype) for _ in range(2))
        with kernel_launch():
            _kernels.binned_depth(outputs.numpy(), ctx.bins, factor, ctx.depth, ctx.totals)
        return torch.from_numpy(ctx.depth)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        _kernels = load_kernels("fit3d_finetune.probing._kernels")

        out = torch.zeros_like(ctx.outputs)
        slopes = gradient.contiguous().numpy()
        arguments = (ctx.outputs.numpy(), ctx.bins, ctx.factor, ctx.depth, ctx.totals, slopes, out.numpy())
        with kernel_launch():
            _kernels.binned_depth_backward(*arguments)
        return out, None, None


def binned_depth(outputs: Tensor, max_depth: float, upsampling: int = 1) -> Tensor:
    """Outputs [n, h, w, arms, K] to depth [h * upsampling, w * upsampling, n, arms] in metres.

    The mean of K uniform bins, weighted by relu(output) + 0.1. The published head upsamples its features. A linear
    layer and bilinear interpolation commute, and here the layer goes first: it then meets 1 / upsampling^2 of the
    places, and its upsampled outputs are never held.
    """
    if runs_kernels(outputs):
        return _BinnedDepth.apply(outputs, max_depth, upsampling)
    bins = torch.linspace(MIN_DEPTH, max_depth, outputs.shape[-1], dtype=outputs.dtype, device=outputs.device)
    return torch_backend.binned_depth(outputs, bins, upsampling)


class _DepthLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, predicted: Tensor, truth: Tensor, known: Tensor) -> Tensor:
        _kernels = load_kernels("fit3d_finetune.probing._kernels")

        predicted = predicted.detach().contiguous()
        losses, ctx.gradient = predicted.new_empty(predicted.shape[:2]), torch.empty_like(predicted)
        tensors = (predicted, truth.to(predicted.dtype).contiguous(), known.to(predicted.dtype).contiguous())
        with kernel_launch():
            _kernels.depth_loss(
                *(tensor.numpy() for tensor in tensors),
                *(GRADIENT_SCALES, GRADIENT_WEIGHT, VARIANCE_WEIGHT),
                *(losses.numpy(), ctx.gradient.numpy()),
            )
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.gradient * gradient[:, :, None, None], None, None


def depth_loss(predicted: Tensor, depth: Tensor, known: Tensor) -> Tensor:
    """Losses [n, arms] of predicted [n, arms, H, W] against depth [n, H, W] where it is `known` [n, H, W].

    With g = log predicted - log depth: the scale-invariant sqrt(mean(g^2) - 0.85 mean(g)^2) (Eigen et al., 2014), and
    half of the mean absolute gradient of g, summed over four scales (MiDaS).
    """
    logarithms = predicted.clamp_min(MIN_DEPTH).log(), depth.clamp_min(MIN_DEPTH).log()
    if runs_kernels(predicted):
        return _DepthLoss.apply(*logarithms, known)
    log_predicted, log_depth = (values.to(predicted.dtype) for values in logarithms)
    weights = (GRADIENT_SCALES, GRADIENT_WEIGHT, VARIANCE_WEIGHT)
    return torch_backend.depth_loss(log_predicted, log_depth, known.to(predicted.dtype), *weights)
