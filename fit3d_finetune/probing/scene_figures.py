"""The compared figures, scene by scene: one definition for what is shown and for what is tested.

Each is, in a scene, a mean over K of ratios of sums over its frames: IoU of K classes from intersections and unions,
or with K = 1 a mean over images or pairs of views. So blocks of frames can be drawn again without a look at the pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fit3d_finetune.probing.comparison import Task, Unit
from fit3d_finetune.probing.counts import Array, ClassCounts
from fit3d_finetune.probing.results import ConsistencyResult, DepthResult, MatchingResult, ProbeResults


@dataclass(frozen=True, eq=False)
class SceneSums:
    """What one arm's figure is made of in one scene, frame by frame in their order along the trajectory."""

    numerators: Array
    """[seeds, frames, K] float64."""
    denominators: Array
    """The same; 0 where a frame says nothing about one of the K."""

    def figure(self) -> Array:
        """The scene's figure by seed, [seeds]; NaN if no frame says anything."""
        return mean_ratio(self.numerators.sum(axis=1), self.denominators.sum(axis=1))


@dataclass(frozen=True)
class Figure:
    """One figure that arms are compared in."""

    task: Task
    metric: str
    unit: Unit
    higher_is_better: bool
    sums: Callable[[ProbeResults, str], list[SceneSums]]
    """(results, arm) to the sums of each scene of `ProbeResults.scenes`."""


def mean_ratio(numerators: Array, denominators: Array) -> Array:
    """Mean over the last axis of the ratios whose denominator is not 0; NaN where there is none."""
    known = denominators > 0
    ratios = np.divide(numerators, denominators, out=np.zeros(numerators.shape), where=known)
    count = known.sum(axis=-1)
    found: Array = np.divide(ratios.sum(axis=-1), count, out=np.full(count.shape, np.nan), where=count > 0)
    return found


def mean_over_scenes(sums: Sequence[SceneSums]) -> list[float]:
    """The shown figure by seed: the mean over the scenes that have it."""
    return mean_known(np.stack([scene.figure() for scene in sums])).tolist()


def mean_known(values: Array) -> Array:
    """Mean over the first axis of what is not NaN; NaN where nothing is."""
    known = np.isfinite(values)
    total, count = np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0)
    found: Array = np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)
    return found


def iou_sums(
    counts: ClassCounts, labelled_pixels: Array, image_scenes: Sequence[int], scenes: int, counted: Sequence[int]
) -> list[SceneSums]:
    """mIoU by scene, over those of the counted classes that the scene's labels hold: the same for every arm.

    A class that is only predicted would be an IoU of 0 for one arm and nothing at all for another; as it is, a wrong
    prediction counts in the union of the class that was there.

    Args:
        counts: pixels [seeds, images, classes].
        labelled_pixels: [images, classes].
        image_scenes: [images], index of each image's scene.
        scenes: how many there are.
        counted: indices of the classes.
    """
    found = []
    for members, classes in _members(labelled_pixels, image_scenes, scenes, counted):
        chosen = np.ix_(range(len(counts.unions)), members, classes)
        found.append(SceneSums(counts.intersections[chosen].astype(float), counts.unions[chosen].astype(float)))
    return found


def accuracy_sums(
    counts: ClassCounts,
    labelled_pixels: Array,
    image_scenes: Sequence[int],
    scenes: int,
    counted: Sequence[int] | None = None,
) -> list[SceneSums]:
    """Class accuracy by scene, over classes as in `iou_sums`; without `counted` pixel accuracy. Arguments as there."""
    found = []
    every = range(labelled_pixels.shape[1])
    for members, classes in _members(labelled_pixels, image_scenes, scenes, every if counted is None else counted):
        hits = counts.intersections[:, members][..., classes].astype(float)
        labelled = np.broadcast_to(labelled_pixels[members][:, classes].astype(float), hits.shape)
        if counted is None:
            hits, labelled = hits.sum(axis=-1, keepdims=True), labelled.sum(axis=-1, keepdims=True)
        found.append(SceneSums(hits, labelled))
    return found


def iou_per_class(counts: ClassCounts) -> Array:
    """Intersection over union [seeds, classes] of all images together; NaN where a class is nowhere."""
    intersections, unions = counts.intersections.sum(axis=1), counts.unions.sum(axis=1)
    found: Array = np.divide(intersections, unions, out=np.full(unions.shape, np.nan), where=unions > 0)
    return found


def value_sums(values: Array, members_of: Sequence[int], scenes: int) -> list[SceneSums]:
    """Means of values [seeds, n] that are known frame by frame (NaN: not), by the scene of each."""
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    of_scenes = [np.flatnonzero(np.asarray(members_of) == scene) for scene in range(scenes)]
    return [SceneSums(filled[:, at, None], known[:, at, None].astype(float)) for at in of_scenes]


def image_rmse(squared_error: Sequence[Sequence[float]], pixels: Sequence[int]) -> Array:
    """RMSE of every image [seeds, images] in metres; NaN where no pixel has a depth."""
    total, count = np.asarray(squared_error, np.float64), np.asarray(pixels, np.float64)
    found: Array = np.sqrt(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0))
    return found


def figures_of(results: ProbeResults) -> list[Figure]:
    """The figures that arms are compared in: the first one of each task that ran."""
    figures = []
    if results.segmentation:
        figures.append(Figure("segmentation", "mIoU", "%", True, _segmentation))
    if results.depth:
        figures.append(Figure("depth", "RMSE", "m", False, _depth))
    if results.depth_patches:
        figures.append(Figure("depth_patches", "patches RMSE", "m", False, _depth_patches))
    if results.normals:
        figures.append(Figure("normals", "RMSE angle", "°", False, _normals))
    if results.nearest_neighbours:
        figures.append(Figure("nearest_neighbours", "kNN mIoU", "%", True, _nearest_neighbours))
    if results.nearest_neighbours_across:
        figures.append(Figure("nearest_neighbours_across", "other-angle kNN mIoU", "%", True, _other_angles))
    if results.consistency:
        index = shown_bin(results.consistency)

        def recall(found: ProbeResults, arm: str) -> list[SceneSums]:
            return recall_sums(found, found.consistency[arm], index)

        figures.append(Figure("consistency", recall_name(results.consistency), "%", True, recall))
    if results.matching:
        place = shown_bin(results.matching)

        def matched(found: ProbeResults, arm: str) -> list[SceneSums]:
            return recall_sums(found, found.matching[arm], place)

        figures.append(Figure("matching", matching_name(results), "%", True, matched))
    return figures


PairResults = Mapping[str, ConsistencyResult | MatchingResult]
"""By arm, figures of pairs of views by the angle between them."""


def shown_bin(results: PairResults) -> int | None:
    """The bin of angles that holds 45 degrees, where single images fail; None if it has no pairs."""
    for result in results.values():
        for index, (low, high) in enumerate(itertools.pairwise(result.angle_edges)):
            if low <= 45 < high and result.pairs[index] > 0:
                return index
    return None


def recall_name(results: PairResults) -> str:
    """E.g. "recall at 30–60°"; "recall" where it is that of all pairs."""
    index = shown_bin(results)
    if index is None:
        return "recall"
    edges = next(iter(results.values())).angle_edges
    return f"recall at {edges[index]:g}–{edges[index + 1]:g}°"


def matching_name(results: ProbeResults) -> str:
    """E.g. "5 cm recall at 30–60°"."""
    limit = max(next(iter(results.matching.values())).metres)
    return f"{100 * limit:g} cm {recall_name(results.matching)}"


def recall_sums(
    results: ProbeResults, result: ConsistencyResult | MatchingResult, index: int | None
) -> list[SceneSums]:
    """Recall of one bin of angles by scene, over its pairs of views; of all pairs without an index."""
    inside = np.asarray(result.pair_bins) == index if index is not None else np.ones(len(result.pair_bins), bool)
    recall = np.asarray(result.pair_recall, np.float64)[inside]
    return value_sums(recall[None], np.asarray(result.pair_scenes)[inside].tolist(), len(results.scenes))


def _segmentation(results: ProbeResults, arm: str) -> list[SceneSums]:
    return _iou(results, results.segmentation[arm].counts, results.labelled_pixels)


def _nearest_neighbours(results: ProbeResults, arm: str) -> list[SceneSums]:
    return _iou(results, results.nearest_neighbours[arm].counts, results.labelled_pixels)


def _other_angles(results: ProbeResults, arm: str) -> list[SceneSums]:
    return _iou(results, results.nearest_neighbours_across[arm].counts, results.pixels_across)


def _iou(results: ProbeResults, counts: ClassCounts, labelled: Array) -> list[SceneSums]:
    return iou_sums(counts, labelled, results.image_scenes, len(results.scenes), results.counted_classes)


def _depth(results: ProbeResults, arm: str) -> list[SceneSums]:
    return _rmse(results, results.depth[arm])


def _depth_patches(results: ProbeResults, arm: str) -> list[SceneSums]:
    return _rmse(results, results.depth_patches[arm])


def _rmse(results: ProbeResults, found: DepthResult) -> list[SceneSums]:
    rmse = image_rmse(found.squared_error, found.pixels)
    return value_sums(rmse, results.image_scenes, len(results.scenes))


def _normals(results: ProbeResults, arm: str) -> list[SceneSums]:
    rmse = np.asarray(results.normals[arm].image_rmse, np.float64)
    return value_sums(rmse, results.image_scenes, len(results.scenes))


def _members(
    labelled_pixels: Array, image_scenes: Sequence[int], scenes: int, counted: Sequence[int]
) -> list[tuple[list[int], list[int]]]:
    """Of each scene its images and those of the counted classes that their labels hold."""
    found = []
    for scene in range(scenes):
        members = np.flatnonzero(np.asarray(image_scenes) == scene)
        present = labelled_pixels[members].sum(axis=0) > 0
        found.append((members.tolist(), [index for index in counted if present[index]]))
    return found
