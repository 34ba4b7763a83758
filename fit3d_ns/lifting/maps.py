"""From views, geometry and feature maps to Gaussians' features: the coordinates, the solve, and what is left over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fit3d_ns.common.console import logger, progress
from fit3d_ns.features.pca import PCABasis, fit_pca
from fit3d_ns.lifting.operator import Geometry, PatchOperator, View, cell_weights, patch_operator
from fit3d_ns.lifting.solver import DEFAULT_OPTIONS, LiftOptions, LiftResult, back_project, num_solves, solve_features


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
        """State of the `fit3d_ns.features.decoder.FeatureDecoder` ("linear"): weight [C, D] and bias [C]."""
        return {"weight": (self.components * self.scales[:, None]).T.contiguous(), "bias": self.mean}

    def encode(self, features: Tensor) -> Tensor:
        """Features [..., C] to coordinates [..., D] along the components (codes * scales)."""
        return (features.to(self.mean) - self.mean) @ self.components.T

    def codes(self, coordinates: Tensor) -> Tensor:
        """Coordinates [..., D] to what Gaussians carry."""
        scales = self.scales
        return torch.where(scales > 0, coordinates / torch.where(scales > 0, scales, 1), 0.0)

    def decode(self, coordinates: Tensor) -> Tensor:
        """Coordinates [..., D] to features [..., C]."""
        return coordinates @ self.components + self.mean

    def to(self, device: torch.device | str) -> FeatureSpace:
        """The same space on another device."""
        mean, components, scales = (t.to(device) for t in (self.mean, self.components, self.scales))
        return FeatureSpace(mean, components, scales, self.explained)


def pca_space(basis: PCABasis, feature_dim: int) -> FeatureSpace:
    """The leading components, whitened as in `FeatureDecoder.initialize_from_pca`.

    Channels beyond the basis (feature_dim > C) hold nothing.
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


@dataclass(frozen=True, eq=False)
class LiftedFeatures:
    """What a scene's Gaussians carry after a solve, on the device of the geometry."""

    features: Tensor
    """[N, D] codes of `space`; zero where not `seen`."""
    errors: Tensor
    """[N]: 1 - cosine between rendered and true features, averaged over where a Gaussian is seen; 1 where it is not."""
    seen: Tensor
    """[N] bool."""
    space: FeatureSpace
    cosine: float
    """Mean cosine between rendered and true features over all cells that count."""
    iterations: int


def lift_feature_maps(
    geometry: Geometry,
    views: Sequence[View],
    maps: Sequence[Tensor],
    space: FeatureSpace,
    options: LiftOptions = DEFAULT_OPTIONS,
) -> LiftedFeatures:
    """Lift one feature map per view into the Gaussians.

    Args:
        geometry: the Gaussians; its device decides where the work is done.
        views: their cameras.
        maps: [h, w, C] per view, h and w the view's grid. Read one at a time, twice.
        space: the coordinates to solve for.
        options: of the solver.

    Raises:
        ValueError: if a map does not fit its view.
    """
    if len(maps) != len(views):
        raise ValueError(f"{len(views)} views need as many feature maps, not {len(maps)}")
    device = geometry.means.device
    space = space.to(device)
    operator = patch_operator(geometry, views)
    weights = cell_weights(views, device)
    targets = torch.cat([_checked(values, view) for values, view in zip(_encoded(maps, space), views, strict=True)])
    with progress("solves") as bar:
        task = bar.add_task("Features", total=num_solves(targets.shape[1], options))
        result = solve_features(operator, targets, weights, options, lambda: bar.advance(task))
    del targets
    errors, cosine = _errors(operator, result, views, maps, space, weights)
    lifted = LiftedFeatures(space.codes(result.features), errors, result.seen, space, cosine, result.iterations)
    logger.info(
        "Features solved from %d views in %d iterations: %d of %d Gaussians are seen, cosine %.3f on these views.",
        len(views),
        result.iterations,
        int(result.seen.sum()),
        len(geometry),
        cosine,
    )
    return lifted


def _encoded(maps: Iterable[Tensor], space: FeatureSpace) -> Iterable[Tensor]:
    for values in maps:
        yield space.encode(values.to(space.mean.device, torch.float32))


def _checked(codes: Tensor, view: View) -> Tensor:
    if tuple(codes.shape[:2]) != tuple(view.grid):
        raise ValueError(f"a feature map has {list(codes.shape[:2])} cells where its view has {list(view.grid)}")
    return codes.reshape(-1, codes.shape[-1])


def _errors(
    operator: PatchOperator,
    result: LiftResult,
    views: Sequence[View],
    maps: Iterable[Tensor],
    space: FeatureSpace,
    weights: Tensor,
) -> tuple[Tensor, float]:
    """1 - cosine per Gaussian [N], and the mean cosine over cells."""
    rendered = operator.apply(result.features).split([view.grid[0] * view.grid[1] for view in views])
    cosines = torch.cat(
        [
            F.cosine_similarity(space.decode(codes), values.to(codes).reshape(len(codes), -1), dim=-1)
            for codes, values in zip(rendered, maps, strict=True)
        ]
    )
    # All cells, also those that the robust weights took for outliers: they are where the error is.
    errors, _ = back_project(operator, (1 - cosines)[:, None], weights)
    mean = float((cosines * weights).sum() / weights.sum().clamp_min(1e-12))
    return torch.where(result.seen, errors[:, 0], 1.0), mean
