"""k-means of features, the same every time: groups of things that look alike to a backbone."""

from __future__ import annotations

import torch
from torch import Tensor

_STEPS = 20
_STARTS = 4
_CANDIDATES = 4
"""From so many the next seed of a start is taken, the one that leaves the least: one draw alone often misses a group
that is small."""


@torch.no_grad()
def fit_clusters(points: Tensor, count: int, weights: Tensor | None = None) -> Tensor:
    """Centres of the clusters of `points` by k-means (Lloyd 1982), the heaviest cluster first.

    The best of a few starts, each from greedy k-means++ seeds (Arthur and Vassilvitskii 2007), drawn with random
    numbers of its own: the same points give the same centres, and nobody else's random numbers are used up.

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
    starts = [_moved(points, weights, _seeds(points, count, weights, seed)) for seed in range(_STARTS)]
    _, centers, shares = min(starts, key=lambda start: start[0])
    return centers[shares.argsort(descending=True, stable=True)] + mean


def _moved(points: Tensor, weights: Tensor, centers: Tensor) -> tuple[float, Tensor, Tensor]:
    """Lloyd's steps from a start: what is left, the centres [K, D] and the weight of each [K]."""
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
    left = weights * (points - centers[_nearest(points, centers)]).square().sum(1)
    return float(left.double().sum()), centers, shares


def nearest_cluster(points: Tensor, centers: Tensor) -> Tensor:
    """For each of `points` [..., D] the index [...] of the nearest of `centers` [K, D]."""
    middle = centers.mean(0)
    flat = points.reshape(-1, points.shape[-1]).float()
    return _nearest(flat - middle, centers - middle).reshape(points.shape[:-1])


def _seeds(points: Tensor, count: int, weights: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centers = points[:0]
    chances = weights
    nearest: Tensor | None = None
    for _ in range(count):
        sums = chances.double().cumsum(0)
        if float(sums[-1]) <= 0:
            break
        drawn = sums[-1] * torch.rand(_CANDIDATES, generator=generator, dtype=torch.float64).to(sums)
        candidates = points[torch.searchsorted(sums, drawn, right=True).clamp(max=len(points) - 1)]
        # [candidates, N]: how far every point would be from the nearest centre.
        squares = torch.stack([(points - candidate).square().sum(1) for candidate in candidates])
        squares = squares if nearest is None else torch.minimum(nearest, squares)
        best = int((squares.double() @ weights.double()).argmin())
        centers = torch.cat([centers, candidates[best][None]])
        nearest = squares[best]
        chances = weights * nearest
    return centers if len(centers) else points[:1]


def _nearest(points: Tensor, centers: Tensor) -> Tensor:
    """[N]; of the squared distances only what differs between centres."""
    return torch.addmm(centers.square().sum(1), points, centers.T, alpha=-2).argmin(1)
