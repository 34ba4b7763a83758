"""Which pixels of two posed views show the same point: from depth and cameras alone, no labels, no features.

Found once per data set, so that every arm of a comparison is measured on the same pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fit3d_finetune.probing.data.views import Array, ConsistencyView
from fit3d_ns.common.errors import InputError

_TRIES_PER_PAIR = 50
"""Candidates that are looked at for each pair that is wanted; bounds the search in scenes of thousands of views."""


@dataclass(frozen=True)
class PairSettings:
    """Which pairs of views are compared, and at which pixels."""

    angle_edges: tuple[float, ...] = (0.0, 15.0, 30.0, 60.0, 90.0, 120.0, 180.0)
    """Edges in degrees of the bins of the angle between two views: Probe3D's for ScanNet, with its last bin split.
    A bin has its lower edge and lacks its upper one, except for the last, which has both."""
    max_pairs: int = 100
    """At most so many pairs per bin, over all scenes; drawn at random where there are more."""
    min_correspondences: int = 50
    """Pairs with fewer are left out."""
    samples: int = 1024
    """About so many pixels of the first view, on a regular grid, look for their place in the second view."""
    depth_tolerance: float = 0.02
    """A point is visible where its depth differs from the depth map by at most this share of the latter."""
    seed: int = 0
    """Of the draw of pairs."""
    among: tuple[tuple[int, int], ...] | None = None
    """The only pairs that are looked at, all of them, by the views' indices; None: those of all scenes, by the draw."""


@dataclass(frozen=True, eq=False)
class ViewPair:
    """Two views and n pairs of places that show the same point."""

    first: int
    second: int
    """Indices of the views; first < second."""
    angle: float
    """Degrees, see `rotation_angles`."""
    bin: int
    """Index of the angle's bin in `PairSettings.angle_edges`."""
    places_first: Array
    """[n, 2] float64: x and y as shares of the image's width and height, in 0..1."""
    places_second: Array
    """[n, 2], the same for the second view."""


def rotation_angles(camera_to_world: Array) -> Array:
    """Angles in degrees [N, N] of the rotations that turn one camera into another, as Probe3D bins pairs.

    Args:
        camera_to_world: [N, 4, 4] or [N, 3, 3], rotations orthonormal.
    """
    rotations = np.asarray(camera_to_world, dtype=np.float64)[:, :3, :3].reshape(-1, 9)
    traces = rotations @ rotations.T  # trace(R_i^T R_j) = 1 + 2 cos(angle)
    angles: Array = np.degrees(np.arccos(np.clip((traces - 1) / 2, -1.0, 1.0)))
    return angles


def find_correspondences(
    first: ConsistencyView, second: ConsistencyView, samples: int = 1024, depth_tolerance: float = 0.02
) -> tuple[Array, Array]:
    """Places in two views that show the same point.

    About `samples` pixels of the first view, on a regular grid, are moved to 3D by their depth and projected into
    the second. One corresponds if it falls in front of the second camera, inside its image, on a pixel of
    known depth d with |z - d| <= depth_tolerance * d; otherwise something hides it.

    Returns:
        places in the first and in the second view, [n, 2] each: x and y as shares of width and height.
    """
    H, W = first.depth.shape
    rows = max(1, round((samples * H / W) ** 0.5))
    columns = max(1, round(samples / rows))
    y, x = (axis.ravel() for axis in np.meshgrid(_spread(rows, H), _spread(columns, W), indexing="ij"))
    z = first.depth[y, x].astype(np.float64)
    known = np.isfinite(z) & (z > 0)
    x, y, z = x[known] + 0.5, y[known] + 0.5, z[known]

    rays = np.linalg.solve(np.asarray(first.K, np.float64), np.stack([x, y, np.ones_like(x)]))
    to_second = np.linalg.solve(
        np.asarray(second.camera_to_world, np.float64), np.asarray(first.camera_to_world, np.float64)
    )
    points = to_second[:3, :3] @ (rays * z) + to_second[:3, 3:]
    visible, places_second = visible_points(points, second, depth_tolerance)
    return np.stack([x / W, y / H], axis=-1)[visible], places_second


def visible_points(points: Array, view: ConsistencyView, depth_tolerance: float = 0.02) -> tuple[Array, Array]:
    """Which points a view sees, and where.

    Args:
        points: [3, n] in the camera's frame.
        view: which camera.
        depth_tolerance: see `find_correspondences`.

    Returns:
        indices [m] of the visible ones, rising, and their places [m, 2]: x and y as shares of width and height.
    """
    projected = np.asarray(view.K, np.float64) @ points
    H, W = view.depth.shape
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v = projected[:2] / projected[2]
    # NaN compares as False: what lies in the camera's own plane is not inside.
    inside = np.flatnonzero((points[2] > 0) & (u >= 0) & (u < W) & (v >= 0) & (v < H))
    u, v, depth = u[inside], v[inside], points[2][inside]
    seen = view.depth[v.astype(np.int64), u.astype(np.int64)].astype(np.float64)
    # Unknown depth, 0, is near no depth; infinity would be within its own tolerance of all.
    visible = np.isfinite(seen) & (np.abs(depth - seen) <= depth_tolerance * seen)
    return inside[visible], np.stack([u / W, v / H], axis=-1)[visible]


def find_pairs(views: Sequence[ConsistencyView], settings: PairSettings | None = None) -> list[ViewPair]:
    """Pairs of views of one scene that see common points, by the angle between them.

    For each bin of angles, candidates are looked at in a random order (the same for the same seed) until
    `max_pairs` of them had `min_correspondences`.

    Returns:
        the pairs, ordered by first view and then by second.

    Raises:
        InputError: no two views see common points.
    """
    settings = settings or PairSettings()
    edges = np.asarray(settings.angle_edges, dtype=np.float64)
    if len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise InputError(f"angle edges {list(settings.angle_edges)} must be two or more rising numbers of degrees.")
    candidates, angles = _candidates(views) if settings.among is None else _given(views, settings.among)
    most = settings.max_pairs if settings.among is None else len(candidates)
    bins = np.searchsorted(edges, angles, side="right") - 1
    bins[angles == edges[-1]] = len(edges) - 2
    random = np.random.default_rng(settings.seed)
    pairs: list[ViewPair] = []
    for index in range(len(edges) - 1):
        order = random.permutation(np.flatnonzero(bins == index))[: _TRIES_PER_PAIR * most]
        found = 0
        for candidate in order:
            if found == most:
                break
            i, j = (int(view) for view in candidates[candidate])
            places = find_correspondences(views[i], views[j], settings.samples, settings.depth_tolerance)
            if len(places[0]) >= settings.min_correspondences:
                pairs.append(ViewPair(i, j, float(angles[candidate]), index, *places))
                found += 1
    if not pairs:
        scenes = sorted({view.scene for view in views})
        raise InputError(
            f"no two of the {len(views)} views of {', '.join(scenes) or 'the test data'} show common points (at least "
            f"{settings.min_correspondences} of {settings.samples} pixels); check that depth and poses are in the "
            f"same unit of length."
        )
    return sorted(pairs, key=lambda pair: (pair.first, pair.second))


def _candidates(views: Sequence[ConsistencyView]) -> tuple[Array, Array]:
    """Pairs [P, 2] of views of the same scene, lower index first, and their angles [P]."""
    scenes: dict[str, list[int]] = {}
    for index, view in enumerate(views):
        scenes.setdefault(view.scene, []).append(index)
    pairs, angles = [np.zeros((0, 2), np.int64)], [np.zeros(0)]
    for members in scenes.values():
        i, j = np.triu_indices(len(members), k=1)
        pairs.append(np.asarray(members)[np.stack([i, j], axis=-1)])
        angles.append(rotation_angles(np.stack([views[index].camera_to_world for index in members]))[i, j])
    return np.concatenate(pairs), np.concatenate(angles)


def _given(views: Sequence[ConsistencyView], pairs: Sequence[tuple[int, int]]) -> tuple[Array, Array]:
    """Those pairs, each with its lower index first, and their angles."""
    indices = np.unique(np.sort(np.array(pairs, np.int64).reshape(-1, 2)), axis=0)
    angles = [rotation_angles(np.stack([views[i].camera_to_world, views[j].camera_to_world]))[0, 1] for i, j in indices]
    return indices, np.array(angles, np.float64)


def _spread(count: int, pixels: int) -> Array:
    """Indices of the pixels under the centres of `count` equal cells."""
    indices: Array = ((np.arange(count) + 0.5) * pixels / count).astype(np.int64)
    return indices
