"""The features that a scene's Gaussians carry, of whatever backbone, and coordinates to compare them in."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fit3d_ns.features.decoder import FeatureDecoder
from fit3d_ns.features.pca import ColorProjection, PCAAccumulator
from fit3d_ns.lifting.maps import LiftedFeatures

MOST_SAMPLES = 10_000
"""Gaussians that colours and clusters are fitted to: more would not change them."""


@dataclass(frozen=True, eq=False)
class CarriedFeatures:
    """What N Gaussians carry, how it decodes to C channels, and in which colours it is shown."""

    codes: Tensor
    """[N, D]."""
    errors: Tensor
    """[N, 1]: 1 - cosine, 0..2."""
    decoder: FeatureDecoder
    colors: ColorProjection

    @staticmethod
    def of(lifted: LiftedFeatures, opacities: Tensor) -> CarriedFeatures:
        """The result of a solve, in colours of its own; opacities [N] as in `fit_colors`."""
        codes = lifted.features
        decoder = FeatureDecoder("linear", codes.shape[1], len(lifted.space.mean)).to(codes.device)
        decoder.load_state_dict(lifted.space.decoder)
        return CarriedFeatures(
            codes, lifted.errors[:, None], decoder.requires_grad_(False), fit_colors(codes, decoder, opacities)
        )


@torch.no_grad()
def fit_colors(codes: Tensor, decoder: FeatureDecoder, opacities: Tensor) -> ColorProjection:
    """Colours fitted to what Gaussians carry [N, D] themselves, weighted by opacity [N]."""
    # Components in few coordinates are those of the decoded features: their matrix is D + 1 wide, and not C.
    coordinates, step = Coordinates(decoder), sample_step(len(codes))
    accumulator = PCAAccumulator(coordinates.basis.shape[1])
    accumulator.add(coordinates.of_codes(codes[::step]), opacities[::step])
    found = accumulator.basis(3)
    placed = torch.stack([found.mean, *found.components]).to(coordinates.basis)
    mean, *components = coordinates.to_features(placed).to(found.mean)
    return ColorProjection.from_basis(replace(found, mean=mean, components=torch.stack(components)))


def sample_step(count: int) -> int:
    """Every how many of `count` Gaussians are looked at."""
    return -(-count // MOST_SAMPLES)


class Coordinates:
    """Orthonormal coordinates of all that a decoder can give.

    Distances and cosines in them are those of the decoded features, in D + 1 channels where these have C.
    """

    @torch.no_grad()
    def __init__(self, decoder: FeatureDecoder) -> None:
        weight, bias = decoder.as_matrix()
        self.basis = torch.linalg.qr(torch.cat([weight, bias[:, None]], dim=1))[0]
        """[C, E], E = min(C, D + 1)."""
        self._weight, self._bias = self.basis.T @ weight, self.basis.T @ bias

    def of_codes(self, codes: Tensor) -> Tensor:
        """[..., D] to [..., E]."""
        return codes @ self._weight.T + self._bias

    def of_features(self, features: Tensor) -> Tensor:
        """Features [..., C] to [..., E]; what no code decodes to is left out."""
        return features.to(self.basis) @ self.basis

    def to_features(self, coordinates: Tensor) -> Tensor:
        """[..., E] to [..., C]."""
        return coordinates @ self.basis.T
