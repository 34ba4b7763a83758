"""k-means of features, the same every time: groups of things that look alike to a backbone."""

from __future__ import annotations

import torch
from torch import Tensor

_STEPS = 20
_SEED = 0


@torch.no_grad()
def fit_clusters(points: Tensor, count: int, weights: Tensor | None = None) -> Tensor:
    """Centres of the clusters of `points` by k-means (Lloyd 1982), the heaviest cluster first.

    They start from k-means++ seeds (Arthur and Vassilvitskii 2007), drawn with random numbers of its own: the same
    points give the same centres, and nobody else's random numbers are used up.

    Args:
        points: [N, D], N > 0.
        count: of clusters, at least 1.
        weights: [N], not negative; None: all count alike.

    Returns:
        [K, D]: K is `count`, or less where there are fewer different points of positive weight.
    """
    points = points.float()
    weights = torch.ones_like(points[:, 0]) if weights is None else weights.to(points)
    mean = (weights[:, None] * points).sum(0) / weights.sum().clamp_min(1e-12)
    points = points - mean  # features have much in common, which the squares below would lose digits to
    centers = _seeds(points, count, weights)
    shares = weights.new_zeros(len(centers))
    for _ in range(_STEPS):
        # A product and no scattered sum: on a GPU the order of its additions is not fixed.
        belongs = _nearest(points, centers)[:, None]
        members = weights.new_zeros(len(points), len(centers)).scatter_(1, belongs, weights[:, None])
        shares = members.sum(0)
        moved = torch.where(shares[:, None] > 0, members.T @ points / shares[:, None].clamp_min(1e-12), centers)
        if torch.equal(moved, centers):
            break
        centers = moved
    return centers[shares.argsort(descending=True, stable=True)] + mean


def nearest_cluster(points: Tensor, centers: Tensor) -> Tensor:
    """For each of `points` [..., D] the index [...] of the nearest of `centers` [K, D]."""
    middle = centers.mean(0)
    flat = points.reshape(-1, points.shape[-1]).float()
    return _nearest(flat - middle, centers - middle).reshape(points.shape[:-1])


def _seeds(points: Tensor, count: int, weights: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(_SEED)
    centers = points[:0]
    chances = weights
    nearest: Tensor | None = None
    for _ in range(count):
        sums = chances.double().cumsum(0)
        if float(sums[-1]) <= 0:
            break
        drawn = sums[-1] * float(torch.rand((), generator=generator, dtype=torch.float64))
        index = int(torch.searchsorted(sums, drawn, right=True).clamp(max=len(points) - 1))
        centers = torch.cat([centers, points[index][None]])
        squares = (points - points[index]).square().sum(1)
        nearest = squares if nearest is None else torch.minimum(nearest, squares)
        chances = weights * nearest
    return centers if len(centers) else points[:1]


def _nearest(points: Tensor, centers: Tensor) -> Tensor:
    """[N]; of the squared distances only what differs between centres."""
    return torch.addmm(centers.square().sum(1), points, centers.T, alpha=-2).argmin(1)
