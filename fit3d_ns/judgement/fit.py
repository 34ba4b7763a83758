"""How well the features fit the views' maps, and how well any features of these Gaussians could."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_ns.features.decoder import FeatureDecoder
from fit3d_ns.features.position import ViewDependence, position_map
from fit3d_ns.judgement.scene import JudgedScene
from fit3d_ns.lifting.maps import lift_feature_maps
from fit3d_ns.lifting.operator import cell_weights, patch_operator


@dataclass(frozen=True)
class FeatureFit:
    """Squared residuals on the patch grid of the training views, as shares of the variance of the maps."""

    loss: float
    """Of the features as they are."""
    floor: float
    """Of the features that the solver finds on the same Gaussians (those of fit3d-lift)."""


@torch.no_grad()
def measure_fit(scene: JudgedScene) -> FeatureFit:
    """The loss of a scene's features, and that of least squares with as many channels and the same position term."""
    dependence: ViewDependence = "none" if scene.position is None else "position"
    dim = scene.decoder.feature_dim
    solved = lift_feature_maps(scene.splats, scene.views, scene.maps, dim, view_dependence=dependence)
    best = FeatureDecoder("linear", len(solved.space.scales), len(solved.space.mean))
    best.load_state_dict(solved.space.decoder)
    operator = patch_operator(scene.splats, scene.views)
    weights = cell_weights(scene.views, operator.device)
    variance = _variance(scene.maps, scene, weights)
    losses = []
    best = best.to(operator.device)
    for codes, decoder, position in (
        (scene.features, scene.decoder, scene.position),
        (solved.features, best, solved.position),
    ):
        squares = _squares(operator.apply(codes), scene, decoder, position)
        losses.append(float((squares * weights).sum() / weights.sum().clamp_min(1e-12)) / variance)
    return FeatureFit(*losses)


def _variance(maps: Sequence[Tensor], scene: JudgedScene, weights: Tensor) -> float:
    """Mean squared distance of a cell's feature from the mean feature, over the cells that count."""
    total, squares, count = torch.zeros(1), 0.0, 0.0
    for values, share in zip(maps, _by_view(weights.cpu(), scene), strict=True):
        rows = values.float().cpu().reshape(len(share), -1)
        total = total + (rows * share[:, None]).sum(0)
        squares += float((rows.square().sum(1) * share).sum())
        count += float(share.sum())
    mean = total / max(count, 1e-12)
    return max(squares / max(count, 1e-12) - float(mean.square().sum()), 1e-12)


def _squares(rendered: Tensor, scene: JudgedScene, decoder: FeatureDecoder, position: Tensor | None) -> Tensor:
    """[P]: squared distance of what each cell renders, decoded, from the backbone's feature."""
    parts = []
    for codes, view, values in zip(_by_view(rendered, scene), scene.views, scene.maps, strict=True):
        decoded = decoder(codes.reshape(*view.grid, -1))
        if position is not None:
            decoded = decoded + position_map(position, view.grid)
        parts.append((decoded - values.to(decoded)).square().sum(-1).reshape(-1))
    return torch.cat(parts)


def _by_view(cells: Tensor, scene: JudgedScene) -> tuple[Tensor, ...]:
    return cells.split([view.grid[0] * view.grid[1] for view in scene.views])
