"""Gaussians as they render: the one type for them, with activated values, and the one place that activates raw ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from fit3d_ns.rasterization import RasterizeMode

SH_DEGREES = {1: 0, 4: 1, 9: 2, 16: 3}
"""The degree of spherical harmonics by the number K of their coefficients."""


@dataclass(frozen=True, eq=False)
class Splats:
    """N Gaussians with their colour. float32 tensors on one device."""

    means: Tensor
    """[N, 3]"""
    quats: Tensor
    """[N, 4], wxyz, any length but zero."""
    scales: Tensor
    """[N, 3], linear: standard deviations along the three axes."""
    opacities: Tensor
    """[N], in 0..1."""
    sh: Tensor
    """[N, K, 3], spherical harmonics of the colour, K = (degree + 1)^2."""
    rasterize_mode: RasterizeMode = field(default="classic", kw_only=True)
    """How they were trained, and so how they are to be rendered."""

    @staticmethod
    def from_raw(parameters: Mapping[str, Tensor], sh: Tensor, rasterize_mode: RasterizeMode) -> Splats:
        """Activate what splatfacto optimises.

        Args:
            parameters: "means" [N, 3], "quats" [N, 4], "scales" [N, 3] as logarithms and "opacities" [N, 1] as logits.
            sh: [N, K, 3].
            rasterize_mode: as they are trained.
        """
        return Splats(
            parameters["means"],
            parameters["quats"],
            torch.exp(parameters["scales"]),
            torch.sigmoid(parameters["opacities"]).squeeze(-1),
            sh,
            rasterize_mode=rasterize_mode,
        )

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def sh_degree(self) -> int:
        """0 to 3."""
        return SH_DEGREES[self.sh.shape[1]]

    def detached(self) -> Splats:
        """The same Gaussians, where no gradient reaches them."""
        return self._each(Tensor.detach)

    def copied(self) -> Splats:
        """The same values in memory of their own, whatever becomes of these."""
        return self._each(lambda values: values.detach().clone())

    def to(self, device: torch.device | str) -> Splats:
        """The same Gaussians on another device."""
        return self._each(lambda values: values.to(device))

    def subset(self, chosen: Tensor) -> Splats:
        """The Gaussians that `chosen` [N] (bool) or indices name."""
        return self._each(lambda values: values[chosen])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Splats:
        return Splats(*(change(getattr(self, name)) for name in TENSORS), rasterize_mode=self.rasterize_mode)


TENSORS = tuple(each.name for each in fields(Splats) if each.name != "rasterize_mode")
"""The names of the tensors of `Splats`, in order."""
