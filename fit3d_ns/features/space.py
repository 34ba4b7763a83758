"""The linear feature space: the few coordinates that stand for a backbone's many channels.

A feature is written in three ways: as the backbone gives it (C channels), as coordinates along orthonormal components
(D; distances are those of the features), and as the codes that Gaussians carry (D; whitened coordinates).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_ns.features.pca import PCABasis, fit_pca


@dataclass(frozen=True, eq=False)
class FeatureSpace:
    """Coordinates that Gaussians carry: feature = mean + (code * scales) @ components, the linear decoder.

    Attributes:
        mean: [C].
        components: [D, C], orthonormal rows: distances between codes * scales are distances between features.
        scales: [D], the size of one unit of each code; zero for a channel that holds nothing.
        explained: share of the features' variance that the coordinates can hold, 0..1.
    """

    mean: Tensor
    components: Tensor
    scales: Tensor
    explained: float

    @property
    def decoder(self) -> dict[str, Tensor]:
        """From codes to features: the state of a linear `FeatureDecoder`, weight [C, D] and bias [C]."""
        return {"weight": (self.components * self.scales[:, None]).T.contiguous(), "bias": self.mean}

    def encode(self, features: Tensor) -> Tensor:
        """Features [..., C] to coordinates [..., D] along the components (codes * scales)."""
        return (features.to(self.mean) - self.mean) @ self.components.T

    def codes(self, coordinates: Tensor) -> Tensor:
        """Coordinates [..., D] to what Gaussians carry."""
        scales = self.scales
        return torch.where(scales > 0, coordinates / torch.where(scales > 0, scales, 1), 0.0)

    def coordinates(self, codes: Tensor) -> Tensor:
        """What Gaussians carry [..., D] to coordinates: the inverse of `codes`."""
        return codes * self.scales

    def decode(self, coordinates: Tensor) -> Tensor:
        """Coordinates [..., D] to features [..., C]."""
        return coordinates @ self.components + self.mean

    def to(self, device: torch.device | str) -> FeatureSpace:
        """The same space on another device."""
        mean, components, scales = (t.to(device) for t in (self.mean, self.components, self.scales))
        return FeatureSpace(mean, components, scales, self.explained)


def pca_space(basis: PCABasis, feature_dim: int) -> FeatureSpace:
    """The leading components, whitened: one unit of a code is one standard deviation.

    Whitening gives all channels the same scale, so that one learning rate suits them all. Channels beyond the basis
    (feature_dim > C) hold nothing.
    """
    kept = min(feature_dim, len(basis.variances))
    components = basis.mean.new_zeros(feature_dim, len(basis.mean))
    scales = basis.mean.new_zeros(feature_dim)
    components[:kept] = basis.components[:kept]
    # Deviations that are rounding would blow noise up to codes that half precision cannot hold.
    deviations = basis.variances[:kept].sqrt()
    scales[:kept] = torch.where(deviations > 1e-6 * deviations.max().clamp_min(1e-30), deviations, 0.0)
    explained = min(1.0, float(basis.variances[:kept].sum()) / max(basis.total_variance, 1e-30))
    return FeatureSpace(basis.mean, components, scales, explained)


def full_space(mean: Tensor) -> FeatureSpace:
    """The backbone's own channels, less their mean [C]: the decoder is the identity and the mean its bias."""
    return FeatureSpace(mean, torch.eye(len(mean)).to(mean), torch.ones_like(mean), 1.0)


def fit_space(maps: Iterable[Tensor], feature_dim: int | None) -> FeatureSpace:
    """`pca_space` of feature maps [h, w, C] in one streaming pass, or `full_space` where feature_dim is None."""
    if feature_dim is not None:
        return pca_space(fit_pca(maps, feature_dim), feature_dim)
    total, count = torch.zeros(1, dtype=torch.float64), 0
    for values in maps:
        rows = values.reshape(-1, values.shape[-1])
        total = total + rows.double().sum(0).cpu()
        count += len(rows)
    return full_space((total / max(count, 1)).float())
