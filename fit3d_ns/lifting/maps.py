"""From views, geometry and feature maps to Gaussians' features: the coordinates, the solve, and what is left over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fit3d_ns.common.console import logger, progress
from fit3d_ns.features.space import FeatureSpace
from fit3d_ns.lifting.operator import PatchOperator, cell_weights, patch_operator
from fit3d_ns.lifting.solver import DEFAULT_OPTIONS, LiftOptions, LiftResult, back_project, num_solves, solve_features
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


def lift_feature_maps(
    splats: Splats,
    views: Sequence[PinholeView],
    maps: Sequence[Tensor],
    space: FeatureSpace,
    options: LiftOptions = DEFAULT_OPTIONS,
) -> LiftedFeatures:
    """Lift one feature map per view into the Gaussians.

    Args:
        splats: the Gaussians; its device decides where the work is done.
        views: their cameras.
        maps: [h, w, C] per view, h and w the view's grid. Read one at a time, twice.
        space: the coordinates to solve for.
        options: of the solver.

    Raises:
        ValueError: if a map does not fit its view.
    """
    if len(maps) != len(views):
        raise ValueError(f"{len(views)} views need as many feature maps, not {len(maps)}")
    device = splats.means.device
    space = space.to(device)
    operator = patch_operator(splats, views)
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
        len(splats),
        cosine,
    )
    return lifted


def _encoded(maps: Iterable[Tensor], space: FeatureSpace) -> Iterable[Tensor]:
    for values in maps:
        yield space.encode(values.to(space.mean.device, torch.float32))


def _checked(codes: Tensor, view: PinholeView) -> Tensor:
    if tuple(codes.shape[:2]) != tuple(view.grid):
        raise ValueError(f"a feature map has {list(codes.shape[:2])} cells where its view has {list(view.grid)}")
    return codes.reshape(-1, codes.shape[-1])


def _errors(
    operator: PatchOperator,
    result: LiftResult,
    views: Sequence[PinholeView],
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
