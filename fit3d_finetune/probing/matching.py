"""Geometric matching as in Probe3D (El Banani et al., CVPR 2024, section 4.2): how far off are the clearest matches?

Of two views of a scene every point of the first one's feature map, upsampled, looks for its nearest neighbour in the
second one's. The thousand that pass the ratio test best are kept (Lowe, IJCV 2004; distance 1 - cosine), and count as
found where they are wrong by less than a few centimetres in space, or pixels in the second image. Every backbone is so
measured at the points that it is surest of; `consistency` measures all at the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fit3d_finetune.probing.correspondences import PairSettings, ViewPair, find_pairs
from fit3d_finetune.probing.data.views import Array, ConsistencyView
from fit3d_finetune.probing.results import Arm, MatchingResult
from fit3d_finetune.probing.scene_figures import mean_over_scenes, value_sums
from fit3d_ns.common.console import logger, progress
from fit3d_ns.features.patch_grid import upsample_to_pixels

FeatureMaps = Callable[[str, int], Tensor]
"""(backbone, index of a view) to its features [h, w, C]."""

MATCHES = 1_000
UPSAMPLING = 2
"""Points along each side of a patch."""
METRES = (0.01, 0.02, 0.05)
PIXELS = (5.0, 25.0, 50.0)
PAIRS = PairSettings(max_pairs=25)
"""Fewer than `consistency` looks at: here all points of the one view are compared with all of the other."""


@dataclass(frozen=True, eq=False)
class _Points:
    """The points of one view whose depth is known."""

    features: dict[str, Tensor]
    """By backbone [n, C], of unit length."""
    pixels: Array
    """[n, 2]: x and y in pixels of the depth map."""
    positions: Array
    """[n, 3] in the camera's frame, in the unit of the depth."""


def measure_matching(
    views: Sequence[ConsistencyView],
    backbones: Sequence[str],
    maps: FeatureMaps,
    arms: Sequence[Arm],
    settings: PairSettings = PAIRS,
) -> dict[str, MatchingResult]:
    """Match every pair of views with the features of every arm.

    Args:
        views: geometry of the test views, of one or more scenes; depth and poses in metres.
        backbones: their names.
        maps: their features.
        arms: which of them count together: the mean of their cosines decides, so each counts the same.
        settings: which pairs.

    Raises:
        InputError: no two views see common points.
    """
    scenes = list(dict.fromkeys(view.scene for view in views))
    pairs = find_pairs(views, settings)
    logger.info("matching: %d pairs of views", len(pairs))
    errors = {arm.name: np.zeros((len(METRES) + len(PIXELS), len(pairs))) for arm in arms}
    held: tuple[int, _Points] | None = None  # pairs come ordered by their first view
    with progress("pairs") as bar:
        for index, pair in enumerate(bar.track(pairs, description="Matching")):
            if held is None or held[0] != pair.first:
                held = (pair.first, _points(views[pair.first], backbones, maps, pair.first))
            first, second = held[1], _points(views[pair.second], backbones, maps, pair.second)
            cosines = {name: first.features[name] @ second.features[name].T for name in backbones}
            for arm in arms:
                matches = ratio_test_matches(_mean([cosines[name] for name in arm.backbones]), MATCHES)
                errors[arm.name][:, index] = _recall(first, second, matches, views[pair.first], views[pair.second])
    places = [scenes.index(views[pair.first].scene) for pair in pairs]
    return {name: _summarize(found, pairs, places, settings) for name, found in errors.items()}


def _mean(cosines: Sequence[Tensor]) -> Tensor:
    """Their mean; the one itself where there is but one, as these matrices are far larger than any cache."""
    one, *others = cosines
    return sum(others, one).div_(len(cosines)) if others else one


def ratio_test_matches(cosine: Tensor, count: int) -> tuple[Array, Array]:
    """The clearest nearest neighbours: indices of rows and of their columns, at most `count` each.

    Args:
        cosine: [n, m] between points of two views.
        count: how many to keep, by the ratio of the distances (1 - cosine) to the nearest and the second.
    """
    if cosine.shape[1] < 2:
        rows = torch.arange(cosine.shape[0] if cosine.shape[1] else 0)
        return rows.numpy(), torch.zeros_like(rows).numpy()
    best, columns = cosine.topk(2, dim=1)
    distances = (1 - best).clamp_min(1e-9)
    clearest = (distances[:, 0] / distances[:, 1]).argsort(stable=True)[:count]
    return clearest.numpy(), columns[clearest, 0].numpy()


def _points(view: ConsistencyView, backbones: Sequence[str], maps: FeatureMaps, index: int) -> _Points:
    H, W = view.depth.shape
    features = {name: maps(name, index) for name in backbones}
    h, w = (UPSAMPLING * side for side in next(iter(features.values())).shape[:2])
    y, x = ((np.arange(count) + 0.5) * size / count for count, size in ((h, H), (w, W)))
    depth = view.depth[np.ix_(y.astype(np.int64), x.astype(np.int64))].astype(np.float64)
    known = np.isfinite(depth) & (depth > 0)
    pixels = np.stack(np.meshgrid(x, y), axis=-1)[known]
    rays = np.linalg.solve(np.asarray(view.K, np.float64), np.column_stack([pixels, np.ones(len(pixels))]).T).T
    mask = torch.from_numpy(known)
    upsampled = {
        name: F.normalize(upsample_to_pixels(map.float(), h, w)[mask], dim=-1) for name, map in features.items()
    }
    return _Points(upsampled, pixels, rays * depth[known][:, None])


def _recall(
    first: _Points, second: _Points, matches: tuple[Array, Array], a: ConsistencyView, b: ConsistencyView
) -> Array:
    """Shares of the matches that are right within each of `METRES`, then of `PIXELS`; NaN without any."""
    rows, columns = matches
    if not len(rows):
        return np.full(len(METRES) + len(PIXELS), np.nan)
    to_second = np.linalg.solve(np.asarray(b.camera_to_world, np.float64), np.asarray(a.camera_to_world, np.float64))
    moved = first.positions[rows] @ to_second[:3, :3].T + to_second[:3, 3]
    metres = np.linalg.norm(moved - second.positions[columns], axis=-1)
    projected = moved @ np.asarray(b.K, np.float64).T
    ahead = projected[:, 2] > 0
    places = projected[:, :2] / np.where(ahead, projected[:, 2], 1.0)[:, None]
    pixels = np.where(ahead, np.linalg.norm(places - second.pixels[columns], axis=-1), np.inf)
    return np.array([*((metres <= limit).mean() for limit in METRES), *((pixels <= limit).mean() for limit in PIXELS)])


def _summarize(recall: Array, pairs: Sequence[ViewPair], scenes: list[int], settings: PairSettings) -> MatchingResult:
    bins = np.array([pair.bin for pair in pairs])
    count = len(settings.angle_edges) - 1
    by_bin = [
        mean_over_scenes(value_sums(np.where(bins == index, recall, np.nan), scenes, max(scenes) + 1))
        for index in range(count)
    ]
    columns = [list(column) for column in zip(*by_bin, strict=True)]
    return MatchingResult(
        angle_edges=list(settings.angle_edges),
        metres=list(METRES),
        recall_metres=columns[: len(METRES)],
        pixels=list(PIXELS),
        recall_pixels=columns[len(METRES) :],
        pairs=[int((bins == index).sum()) for index in range(count)],
        pair_scenes=scenes,
        pair_bins=bins.tolist(),
        pair_recall=recall[len(METRES) - 1].tolist(),
    )
