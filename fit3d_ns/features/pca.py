"""Principal components of dense features: the basis of the feature head and the colours of its pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PCABasis:
    """Orthonormal basis of the directions of largest variance.

    Attributes:
        mean: [C] mean of the samples.
        components: [K, C] unit rows, by falling variance. Signs are fixed (largest entry positive).
        variances: [K] variance along each component.
        total_variance: variance summed over all C directions.
    """

    mean: Tensor
    components: Tensor
    variances: Tensor
    total_variance: float

    @property
    def explained(self) -> float:
        """Share of the variance that the K components hold, 0..1."""
        return min(1.0, float(self.variances.sum()) / max(self.total_variance, 1e-30))


class PCAAccumulator:
    """Streaming first and second moments in float64, so that no more than one chunk is in memory."""

    def __init__(self, channels: int) -> None:
        self.count = 0.0
        self.sum = torch.zeros(channels, dtype=torch.float64)
        self.outer = torch.zeros(channels, channels, dtype=torch.float64)

    def add(self, samples: Tensor, weights: Tensor | None = None) -> None:
        """Add samples [..., C] with optional non-negative weights [...]."""
        rows = samples.reshape(-1, samples.shape[-1]).to("cpu", torch.float64)
        weighted = rows if weights is None else rows * weights.reshape(-1, 1).to("cpu", torch.float64)
        self.count += float(rows.shape[0] if weights is None else weights.double().sum())
        self.sum += weighted.sum(0)
        self.outer += weighted.T @ rows

    def basis(self, num_components: int) -> PCABasis:
        """The leading `num_components` (at most C) components.

        Raises:
            ValueError: if nothing was added.
        """
        if self.count <= 0:
            raise ValueError("no samples to find principal components of")
        mean = self.sum / self.count
        covariance = self.outer / self.count - torch.outer(mean, mean)
        variances, vectors = torch.linalg.eigh(covariance)
        order = torch.argsort(variances, descending=True)[: min(num_components, len(variances))]
        components = vectors[:, order].T
        # eigh leaves the sign open; without a rule colours would swap between machines.
        largest = components.gather(1, components.abs().argmax(1, keepdim=True))
        components = components * torch.sign(largest)
        return PCABasis(
            mean=mean.float(),
            components=components.float(),
            variances=variances[order].clamp_min(0).float(),
            total_variance=float(variances.clamp_min(0).sum()),
        )


def fit_pca(maps: Iterable[Tensor], num_components: int) -> PCABasis:
    """PCA of all vectors in `maps` (each [..., C]), one map in memory at a time.

    Raises:
        ValueError: if `maps` is empty.
    """
    accumulator: PCAAccumulator | None = None
    for values in maps:
        if accumulator is None:
            accumulator = PCAAccumulator(values.shape[-1])
        accumulator.add(values)
    if accumulator is None:
        raise ValueError("no feature maps to find principal components of")
    return accumulator.basis(num_components)


@dataclass(frozen=True)
class ColorProjection:
    """A fixed affine map from features to RGB: rgb = matrix @ feature + offset, to be clamped to 0..1.

    Attributes:
        matrix: [3, C].
        offset: [3].
    """

    matrix: Tensor
    offset: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Features [..., C] to colours [..., 3] in 0..1."""
        return (features @ self.matrix.T.to(features) + self.offset.to(features)).clamp(0, 1)

    @staticmethod
    def from_basis(basis: PCABasis, spread: float = 2.5) -> ColorProjection:
        """The first three components, `spread` standard deviations either side of the mean to 0..1.

        Where there is no such component, or its variance is no more than rounding, the colour stays at one half.
        """
        mean_square = float(basis.mean.square().sum()) + basis.total_variance
        varied = int((basis.variances[:3] > 1e-8 * mean_square).sum())  # variances fall
        matrix = basis.components.new_zeros(3, basis.components.shape[1])
        matrix[:varied] = basis.components[:varied] / (2 * spread * basis.variances[:varied, None].sqrt())
        return ColorProjection(matrix=matrix, offset=0.5 - matrix @ basis.mean)
