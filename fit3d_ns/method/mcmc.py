"""gsplat's MCMC densification on machines without CUDA.

gsplat 1.4 keeps two small steps of the strategy (relocation, covariances of the noise) in CUDA only. Here they
are in torch; the schedule stays gsplat's.
"""

from __future__ import annotations

from typing import Any

import torch
from gsplat.strategy import MCMCStrategy
from gsplat.strategy import ops as gsplat_ops
from gsplat.utils import normalized_quat_to_rotmat
from torch import Tensor

from fit3d_ns.rasterization.backend import on_gsplat


def compute_relocation(opacities: Tensor, scales: Tensor, ratios: Tensor, binoms: Tensor) -> tuple[Tensor, Tensor]:
    """New opacities and scales of Gaussians that are replaced by `ratios` copies of themselves.

    3D Gaussian Splatting as Markov Chain Monte Carlo (arXiv 2404.09591), equation 9.

    Args:
        opacities: [N] in 0..1.
        scales: [N, 3], linear.
        ratios: [N] copies, at least 1.
        binoms: [n_max, n_max] binomial coefficients.

    Returns:
        Opacities [N] and scales [N, 3].
    """
    n_max = binoms.shape[0]
    ratios = ratios.clamp(1, n_max).long()
    shape = opacities.shape
    # At opacity one the sums below cancel to noise, even to negative scales; gsplat keeps its results below one, too.
    old = opacities.reshape(-1).double().clamp_max(1 - torch.finfo(torch.float32).eps)
    new = 1 - (1 - old) ** (1 / ratios.double())
    # sum over i = 1..n, k = 0..i-1 of binom(i-1, k) (-1)^k / sqrt(k+1) new^(k+1); the inner sums only depend
    # on i through the binomials, so the outer sum is taken over the table first.
    table = binoms.double().to(old.device)
    cumulated = table.cumsum(0)[ratios - 1]  # [N, n_max]: sum over i of binom(i-1, k)
    k = torch.arange(n_max, device=old.device, dtype=torch.float64)
    signs = torch.where(k % 2 == 0, 1.0, -1.0).to(old)
    terms = cumulated * signs / torch.sqrt(k + 1) * new[:, None] ** (k + 1)
    denominator = terms.sum(1)
    new_scales = (old / denominator)[:, None] * scales.double()
    return new.reshape(shape).to(opacities.dtype), new_scales.to(scales.dtype)


def _covariances(quats: Tensor, scales: Tensor, **_: Any) -> tuple[Tensor, None]:
    """Covariance matrices [N, 3, 3] of Gaussians (3DGS, equation 6)."""
    rotations = normalized_quat_to_rotmat(torch.nn.functional.normalize(quats, dim=-1))
    factors = rotations * scales[:, None, :]
    return factors @ factors.transpose(1, 2), None


class PortableMCMCStrategy(MCMCStrategy):
    """`MCMCStrategy` that also runs on CPU tensors."""

    # nerfstudio's splatfacto reads this off the strategy when it rasterises.
    absgrad = False

    def step_pre_backward(self, *_: Any, **__: Any) -> None:
        """MCMC needs nothing before the backward pass."""

    def step_post_backward(
        self, params: Any, optimizers: Any, state: dict[str, Any], step: int, info: dict[str, Any], lr: float
    ) -> None:
        if on_gsplat(params["means"].device):
            super().step_post_backward(params, optimizers, state, step, info, lr)
            return
        relocation, covariances = gsplat_ops.compute_relocation, gsplat_ops.quat_scale_to_covar_preci
        gsplat_ops.compute_relocation = compute_relocation
        gsplat_ops.quat_scale_to_covar_preci = _covariances
        try:
            super().step_post_backward(params, optimizers, state, step, info, lr)
        finally:
            gsplat_ops.compute_relocation, gsplat_ops.quat_scale_to_covar_preci = relocation, covariances


def opacity_and_scale_penalty(opacities: Tensor, scales: Tensor, opacity_reg: float, scale_reg: float) -> Tensor:
    """The L1 penalties that let MCMC Gaussians die (arXiv 2404.09591, equation 10).

    Args:
        opacities: [N, 1] logits.
        scales: [N, 3] logarithms.
    """
    return opacity_reg * torch.sigmoid(opacities).mean() + scale_reg * torch.exp(scales).mean()
