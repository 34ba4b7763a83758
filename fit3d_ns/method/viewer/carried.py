"""The features that a scene's Gaussians carry, of whatever backbone, and coordinates to compare them in."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fit3d_ns.features.decoder import FeatureDecoder
from fit3d_ns.features.pca import ColorProjection, PCAAccumulator
from fit3d_ns.lifting.maps import LiftedFeatures

MOST_SAMPLES = 10_000
"""Gaussians that colours are fitted to: more would not change them."""

MOST_CLUSTERED = 4_000
"""Gaussians that clusters are fitted to, for which a page waits: of 10,000 they take six times as long."""

_SERIAL = 32_000
"""Values that torch works on with one thread: from 32,768 on it shares them out."""


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


def sample_step(count: int, most: int = MOST_SAMPLES) -> int:
    """Every how many of `count` Gaussians are looked at, so that they are no more than `most`."""
    return -(-count // most)


class Coordinates:
    """Orthonormal coordinates of all that a decoder can give.

    Distances and cosines in them are those of the decoded features, in D + 1 channels where these have C.
    """

    @torch.no_grad()
    def __init__(self, decoder: FeatureDecoder) -> None:
        weight, bias = decoder.as_matrix()
        self.basis = torch.linalg.qr(torch.cat([weight, bias[:, None]], dim=1))[0]
        """[C, E], E = min(C, D + 1)."""
        self._weight, self.offset = self.basis.T @ weight, self.basis.T @ bias
        """`offset` [E]: of the code 0, what no Gaussian adds to a pixel."""

    def of_codes(self, codes: Tensor) -> Tensor:
        """[..., D] to [..., E]."""
        return self.blendable(codes) + self.offset

    def blendable(self, codes: Tensor) -> Tensor:
        """[..., D] to [..., E], less `offset`: of a blend of them the coordinates are the same, plus `offset`."""
        return codes @ self._weight.T

    def cosines(self, blended: Tensor, query: Tensor) -> Tensor:
        """Cosines [...] of what a blend [..., E] of `blendable` decodes to, to a feature [C]."""
        direction = F.normalize(self.of_features(query), dim=0)
        flat = blended.reshape(-1, blended.shape[-1])
        found = flat.new_empty(len(flat))
        # On a CPU so many at a time that they stay in the cache, and that torch uses the threads of nobody else.
        size = max(1, len(flat) if flat.is_cuda else _SERIAL // flat.shape[1])
        for first in range(0, len(flat), size):
            part = flat[first : first + size] + self.offset
            torch.div(part @ direction, part.norm(dim=1).clamp_min(1e-8), out=found[first : first + len(part)])
        return found.reshape(blended.shape[:-1])

    def of_features(self, features: Tensor) -> Tensor:
        """Features [..., C] to [..., E]; what no code decodes to is left out."""
        return features.to(self.basis) @ self.basis

    def to_features(self, coordinates: Tensor) -> Tensor:
        """[..., E] to [..., C]."""
        return coordinates @ self.basis.T
