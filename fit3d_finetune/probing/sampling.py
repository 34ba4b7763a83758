"""Reading patch maps between patches."""

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

Array = np.ndarray[Any, np.dtype[Any]]


class _Sample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, map: Tensor, places: Array) -> Tensor:
        _kernels = load_kernels("fit3d_finetune.probing._kernels")

        ctx.shape, ctx.places = map.shape, places
        values = map.detach().contiguous()
        out = values.new_empty(len(places), values.shape[-1])
        with kernel_launch():
            _kernels.sample(values.numpy(), places, out.numpy())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        _kernels = load_kernels("fit3d_finetune.probing._kernels")

        out = gradient.new_zeros(ctx.shape)
        _kernels.sample_backward(gradient.contiguous().numpy(), ctx.places, out.numpy())
        return out, None


def sample_features(map: Tensor, places: Array) -> Tensor:
    """Bilinear interpolation of a patch map [h, w, C] at places [n, 2] (x, y in 0..1): [n, C], on its device.

    Like `features.patch_grid.upsample_to_pixels`: patch (r, c) stands at its centre, ((c + 0.5) / w, (r + 0.5) / h),
    and beyond the outermost centres the border's values go on. Half precision is computed in float32. Gradients flow
    to the map.
    """
    if map.dtype in (torch.float16, torch.bfloat16):
        map = map.float()
    places = np.ascontiguousarray(places, np.float64)
    if runs_kernels(map):
        return _Sample.apply(map, places)
    return torch_backend.sample_features(map, torch.from_numpy(places).to(map.device))
