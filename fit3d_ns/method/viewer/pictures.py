"""What is blended of every Gaussian for the pictures of the features, and the pictures made of the blend."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from fit3d_ns.features.clusters import nearest_cluster
from fit3d_ns.features.patch_grid import as_squares
from fit3d_ns.method.viewer.carried import CarriedFeatures, Coordinates

MOST_CLUSTERS = 16

# Hues a golden section apart, so that neighbours differ, in three shades.
_SHADES = ((0.8, 0.95), (0.5, 0.9), (0.9, 0.6))
PALETTE = torch.tensor(
    [colorsys.hsv_to_rgb((0.08 + 0.618034 * i) % 1, *_SHADES[i % len(_SHADES)]) for i in range(MOST_CLUSTERS)]
)
"""[MOST_CLUSTERS, 3]: colours of the clusters, the heaviest first."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures of one kind of features, the same colours from every camera.

    A linear decoder commutes with blending: colours of Gaussians are blended there, instead of all channels, and for a
    similarity, which is not linear, their coordinates. A convolution mixes pixels and needs the codes.
    """

    features: CarriedFeatures
    coordinates: Coordinates
    centers: Tensor | None = None
    """[K, C] of the clusters; None: there are none yet."""
    query: Tensor | None = None
    """[C]: what `similarity` is the cosine to; None: no such picture."""

    @property
    def _linear(self) -> bool:
        return self.features.decoder.kind == "linear"

    @cached_property
    @torch.no_grad()
    def clusters(self) -> Tensor | None:
        """[N], the cluster of each Gaussian."""
        if self.centers is None:
            return None
        placed = self.coordinates.of_codes(self.features.codes)
        return nearest_cluster(placed, self.coordinates.of_features(self.centers))

    @cached_property
    @torch.no_grad()
    def similarities(self) -> Tensor | None:
        """[N], the cosine of each Gaussian's feature to the query."""
        if self.query is None:
            return None
        placed = self.coordinates.of_codes(self.features.codes)
        return F.cosine_similarity(placed, self.coordinates.of_features(self.query), dim=-1)

    @cached_property
    @torch.no_grad()
    def channels(self) -> Tensor:
        """[N, E], what is blended: colours (and coordinates) or codes, the colour of the cluster, the error."""
        features = self.features
        leading = [features.codes]
        if self._linear:
            leading = [F.linear(features.codes, self._composed[0])]
            if self.query is not None:
                leading.append(self.coordinates.blendable(features.codes))
        return torch.cat([*leading, self._cluster_colors(self.clusters, len(features.codes)), features.errors], dim=1)

    @cached_property
    def _composed(self) -> tuple[Tensor, Tensor]:
        """From codes to colours [3, D] and [3], where the decoder is linear."""
        weight, bias = self.features.decoder.as_matrix()
        matrix = self.features.colors.matrix.to(weight)
        return matrix @ weight, matrix @ bias + self.features.colors.offset.to(weight)

    def _cluster_colors(self, clusters: Tensor | None, count: int) -> Tensor:
        codes = self.features.codes
        if clusters is None:
            return codes.new_full((count, 3), 0.5)
        return PALETTE.to(codes)[clusters]

    @torch.no_grad()
    def of_blend(self, blended: Tensor) -> dict[str, Tensor]:
        """Pictures of the blend [H, W, E] of `channels`.

        Returns:
            `feature_pca` [H, W, 3] in 0..1, `feature_error` [H, W, 1] (1 - cosine, 0..2), `clusters` [H, W, 3] in 0..1
            and, with a query, `similarity` [H, W, 1] (cosine, negative values cut off).
        """
        leading, clusters, error = blended.split([blended.shape[-1] - 4, 3, 1], dim=-1)
        decoder = self.features.decoder
        if self._linear:
            pca = leading[..., :3] + self._composed[1]
        else:
            matrix, offset = (t.to(leading) for t in (self.features.colors.matrix, self.features.colors.offset))
            pca = decoder.followed_by(matrix, torch.zeros_like(offset))(leading) + offset
        outputs = {
            "feature_pca": pca.clamp(0, 1),
            "feature_error": error.clamp(0, 2),
            "clusters": clusters.clamp(0, 1),
        }
        if self.query is not None:
            outputs["similarity"] = self._similarity(leading, self.query)
        return outputs

    def _similarity(self, blended: Tensor, query: Tensor) -> Tensor:
        if self._linear:
            values = self.coordinates.cosines(blended[..., 3:], query)
        else:
            values = F.cosine_similarity(self.features.decoder(blended), query, dim=-1)
        return values[..., None].clamp_min(0)

    @torch.no_grad()
    def of_map(self, values: Tensor, height: int, width: int) -> dict[str, Tensor]:
        """The same pictures, but for the error, of a backbone's own map [h, w, C], patches as flat squares."""
        values = values.to(self.coordinates.basis)
        outputs = {"feature_pca": self.features.colors(values)}
        if self.centers is not None:
            outputs["clusters"] = PALETTE.to(values)[nearest_cluster(values, self.centers)]
        if self.query is not None:
            outputs["similarity"] = F.cosine_similarity(values, self.query, dim=-1)[..., None].clamp_min(0)
        return {name: as_squares(picture, height, width) for name, picture in outputs.items()}

    def of_nothing(self, empty: Tensor) -> dict[str, Tensor]:
        """The pictures of a scene without Gaussians; empty: zeros [H, W, 1]."""
        colored = empty.expand(-1, -1, 3)
        outputs = {"feature_pca": colored, "feature_error": empty, "clusters": colored}
        return outputs if self.query is None else {**outputs, "similarity": empty}
