"""From views, geometry and feature maps to Gaussians' features: the coordinates, the solve, and what is left over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fit3d_ns.common.console import logger, progress
from fit3d_ns.features.position import KNOTS, ViewDependence, WithoutPosition, fit_position, position_map
from fit3d_ns.features.space import FeatureSpace, fit_space
from fit3d_ns.lifting.operator import cell_weights, patch_operator
from fit3d_ns.lifting.options import DEFAULT_OPTIONS, STRONG_PULL, LiftOptions
from fit3d_ns.lifting.positioned import PositionedOperator
from fit3d_ns.lifting.solver import back_project, num_solves, solve_features
from fit3d_ns.scene.splats import Splats
from fit3d_ns.scene.views import PinholeView


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
    position: Tensor | None = None
    """[rows, columns, C] of the position term, which every view adds to what it renders; None: there is none."""


def lift_feature_maps(
    splats: Splats,
    views: Sequence[PinholeView],
    maps: Sequence[Tensor],
    feature_dim: int | None = 64,
    options: LiftOptions = DEFAULT_OPTIONS,
    view_dependence: ViewDependence = "none",
    space: FeatureSpace | None = None,
) -> LiftedFeatures:
    """Lift one feature map per view into the Gaussians.

    Args:
        splats: the Gaussians; its device decides where the work is done.
        views: their cameras.
        maps: [h, w, C] per view, h and w the view's grid. Read one at a time, a few times.
        feature_dim: D, principal components to solve for; None: all of the backbone's channels.
        options: of the solver.
        view_dependence: "position" solves for the position term beside the Gaussians' features, in coordinates of
            what it leaves.
        space: the coordinates to solve for, where they are known; they must be those of the maps as they are.

    Raises:
        ValueError: if a map does not fit its view.
    """
    if len(maps) != len(views):
        raise ValueError(f"{len(views)} views need as many feature maps, not {len(maps)}")
    device = splats.means.device
    weights = cell_weights(views, device)
    if view_dependence == "position":
        cells = [view.grid[0] * view.grid[1] for view in views]
        first = fit_position(_checked(maps, views), weights.split(cells)).to(device)
        left: Iterable[Tensor] = WithoutPosition(maps, first)
        space = fit_space(left, feature_dim).to(device)
        if options.regularization is None:
            options = replace(options, regularization=STRONG_PULL)
    else:
        first, left = None, maps
        space = (space or fit_space(maps, feature_dim)).to(device)
    operator = patch_operator(splats, views)
    whole = operator if first is None else PositionedOperator(operator, views)
    targets = torch.cat([_codes(values, space) for values in _checked(left, views)])
    with progress("solves") as bar:
        task = bar.add_task("Features", total=num_solves(targets.shape[1], options))
        result = solve_features(whole, targets, weights, options, lambda: bar.advance(task))
    del targets
    features, seen = result.features[: len(splats)], result.seen[: len(splats)]
    position = None
    if first is not None:
        knots = result.features[len(splats) :] @ space.components
        position = first + knots.reshape(*KNOTS, -1)
    cosines = _cosines(operator.apply(features), views, maps, space, position)
    # All cells, also those that the robust weights took for outliers: they are where the error is.
    errors, _ = back_project(operator, (1 - cosines)[:, None], weights)
    cosine = _mean(cosines, weights)
    logger.info(
        "Features solved from %d views in %d iterations: %d of %d Gaussians are seen, cosine %.3f on these views.",
        len(views),
        result.iterations,
        int(seen.sum()),
        len(splats),
        cosine,
    )
    errors = torch.where(seen, errors[:, 0], 1.0)
    return LiftedFeatures(space.codes(features), errors, seen, space, cosine, result.iterations, position)


def held_out_cosine(
    splats: Splats, lifted: LiftedFeatures, views: Sequence[PinholeView], maps: Sequence[Tensor]
) -> float:
    """Mean cosine between rendered and true features of `views` over all cells that count."""
    space = lifted.space.to(lifted.features.device)
    weights = cell_weights(views, lifted.features.device)
    rendered = patch_operator(splats, views).apply(space.coordinates(lifted.features))
    cosines = _cosines(rendered, views, maps, space, lifted.position)
    return _mean(cosines, weights)


def _mean(values: Tensor, weights: Tensor) -> float:
    """Weighted mean over cells; zero if none counts."""
    return float((values * weights).sum() / weights.sum().clamp_min(1e-12))


def _checked(maps: Iterable[Tensor], views: Sequence[PinholeView]) -> Iterator[Tensor]:
    for values, view in zip(maps, views, strict=True):
        if tuple(values.shape[:2]) != tuple(view.grid):
            raise ValueError(f"a feature map has {list(values.shape[:2])} cells where its view has {list(view.grid)}")
        yield values


def _codes(values: Tensor, space: FeatureSpace) -> Tensor:
    """A map [h, w, C] as coordinates [h * w, D]."""
    return space.encode(values.to(space.mean.device, torch.float32)).reshape(-1, len(space.scales))


def _cosines(
    rendered: Tensor,
    views: Sequence[PinholeView],
    maps: Iterable[Tensor],
    space: FeatureSpace,
    position: Tensor | None,
) -> Tensor:
    """Cosine of every cell [P] between the backbone's features and what is rendered [P, D], with its position term."""
    parts = []
    cells = [view.grid[0] * view.grid[1] for view in views]
    for codes, view, values in zip(rendered.split(cells), views, maps, strict=True):
        decoded = space.decode(codes)
        if position is not None:
            decoded = decoded + position_map(position, view.grid).reshape(decoded.shape)
        parts.append(F.cosine_similarity(decoded, values.to(codes).reshape(decoded.shape), dim=-1))
    return torch.cat(parts)
