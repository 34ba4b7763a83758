"""k-nearest-neighbour segmentation: what the features know about classes before any head is trained.

Every test patch takes the labels of its k most similar training patches, weighted by exp(cosine / temperature)
(Wu et al., CVPR 2018; the evaluation of DINO, Caron et al., ICCV 2021), and the class scores of patches are
upsampled bilinearly to pixels. In an arm of several backbones each of them counts the same: its similarity is the
mean of their cosines, which is the cosine of the concatenation of their features at unit length each. So the
similarities of a backbone are computed once for all arms that it is part of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fit3d_finetune.probing.counts import Array, ClassCounts, counts_of
from fit3d_finetune.probing.data.codings import VOID
from fit3d_finetune.probing.metrics import confusion_matrix
from fit3d_finetune.probing.results import Arm, NearestNeighbourResult
from fit3d_finetune.probing.scene_figures import accuracy_sums, iou_per_class, iou_sums, mean_known, mean_over_scenes
from fit3d_ns.common.console import progress
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.patch_grid import upsample_to_pixels

LabelledMaps = tuple[Mapping[str, Tensor], Array]
"""Features [h, w, C] by backbone, of one image, and its labels [H, W] (class index, 255 = void)."""

LeftOut = Callable[[slice], Tensor]
"""Of some patches of an image, row by row, which patches of the memory are no neighbours of theirs: bool [m, n]."""

NEIGHBOURS = 20
MEMORY = 20_000
"""Patches at most."""
TEMPERATURE = 0.07
_CHUNK = 1 << 24
"""Elements of the largest temporary tensors."""


@dataclass(frozen=True, eq=False)
class PatchSample:
    """Labelled patches of some images, which others are compared with."""

    features: dict[str, Tensor]
    """By backbone [n, C], of unit length."""
    classes: Tensor
    """[n] int64."""
    images: Array
    """[n]: the image of each, by its place among those that the sample was drawn from."""
    cells: Array
    """[n]: its place in the patch grid, row by row."""


def nearest_neighbour_segmentation(
    train: Iterable[LabelledMaps],
    test: Iterable[LabelledMaps],
    arms: Sequence[Arm],
    labelled_pixels: Array,
    image_scenes: Sequence[int],
    counted: Sequence[int],
    k: int = NEIGHBOURS,
    max_train_patches: int = MEMORY,
    seed: int = 0,
) -> dict[str, NearestNeighbourResult]:
    """Segment test images by their patches' nearest neighbours among training patches, and score every arm.

    Both iterables are read once, image by image; memory holds the sample of training patches and one image.

    Args:
        train: training images.
        test: test images.
        arms: which backbones count together.
        labelled_pixels: [test images, classes].
        image_scenes: [test images], index of each image's scene.
        counted: the classes that mIoU averages.
        k: neighbours per patch.
        max_train_patches: size of a random sample of training patches. It depends on labels, their order and
            `seed` only.
        seed: of that sample.

    Raises:
        InputError: no training patch has a label, or no test pixel.
    """
    if not labelled_pixels.any():
        raise InputError("no test image has a labelled pixel; give test data with labels.")
    num_classes = labelled_pixels.shape[1]
    sample = sample_patches(train, num_classes, max_train_patches, seed)
    scores = NeighbourScores(arms, labelled_pixels.shape)
    with progress("images") as bar:
        for index, (maps, labels) in enumerate(bar.track(test, description="Nearest neighbours")):
            scores.add(index, labels, neighbour_scores(maps, sample, arms, num_classes, k))
    return scores.results(labelled_pixels, image_scenes, counted, k)


class NeighbourScores:
    """Pixel counts of all arms, filled image by image."""

    def __init__(self, arms: Sequence[Arm], shape: tuple[int, ...]) -> None:
        """Arguments: `shape` is (images, classes)."""
        self.arms = arms
        self.intersections = np.zeros((len(arms), 1, *shape), np.int64)
        self.unions = np.zeros_like(self.intersections)

    def add(self, index: int, labels: Array, scores: Tensor) -> None:
        """Count the image of this index: labels [H, W], class scores of its patches [arms, h, w, classes]."""
        for a, of_arm in enumerate(scores):
            confusion = confusion_matrix(labels, upsample_argmax(of_arm, *labels.shape), scores.shape[-1])
            self.intersections[a, 0, index], self.unions[a, 0, index] = counts_of(confusion)

    def results(
        self, labelled_pixels: Array, image_scenes: Sequence[int], counted: Sequence[int], k: int
    ) -> dict[str, NearestNeighbourResult]:
        """By arm name; arguments as in `nearest_neighbour_segmentation`, labelled pixels as far as they counted."""
        results = {}
        for a, arm in enumerate(self.arms):
            counts = ClassCounts(self.intersections[a], self.unions[a])
            of_scenes = (counts, labelled_pixels, image_scenes, max(image_scenes) + 1)
            ious = iou_per_class(counts)[0]
            results[arm.name] = NearestNeighbourResult(
                k=k,
                miou=mean_over_scenes(iou_sums(*of_scenes, counted))[0],
                pooled_miou=float(mean_known(ious[list(counted)])),
                pixel_accuracy=mean_over_scenes(accuracy_sums(*of_scenes))[0],
                iou_per_class=ious.tolist(),
                counts=counts,
            )
        return results


def patch_labels(labels: Array, grid: tuple[int, int], num_classes: int) -> Array:
    """The most frequent class in each patch: [h, w] uint8, 255 where more than half of the pixels are void.

    A pixel belongs to the patch that holds its centre; of equally frequent classes the lowest index wins.

    Args:
        labels: [H, W] class indices, 255 = void.
        grid: (h, w) patches.
        num_classes: number of classes.
    """
    h, w = grid
    cells = patch_of_pixels(labels.shape, grid)
    valid = labels != VOID
    index = cells[valid] * num_classes + labels[valid].astype(np.int64)
    counts = np.bincount(index, minlength=h * w * num_classes).reshape(h * w, num_classes)
    pixels = np.bincount(cells.ravel(), minlength=h * w)
    known = (counts.sum(axis=1) * 2 >= pixels) & (pixels > 0)
    return np.where(known, counts.argmax(axis=1), VOID).astype(np.uint8).reshape(h, w)


def patch_of_pixels(size: tuple[int, ...], grid: tuple[int, int]) -> Array:
    """The patch that holds each pixel's centre, counted row by row: [H, W] int64 of an image of `size` (H, W)."""
    (H, W), (h, w) = size, grid
    rows = ((np.arange(H) + 0.5) * h / H).astype(np.int64)
    columns = ((np.arange(W) + 0.5) * w / W).astype(np.int64)
    cells: Array = rows[:, None] * w + columns
    return cells


def sample_patches(images: Iterable[LabelledMaps], num_classes: int, max_patches: int, seed: int) -> PatchSample:
    """A uniform random sample of at most `max_patches` labelled patches, without replacement, in one pass.

    Raises:
        InputError: no patch has a label.
    """
    # Every patch draws a number; those with the lowest are the sample. Pruned whenever it has doubled.
    random = np.random.default_rng(seed)
    kept: list[_Patches] = []
    for index, (maps, labels) in enumerate(images):
        [grid] = {map.shape[:2] for map in maps.values()}
        known = patch_labels(labels, (grid[0], grid[1]), num_classes).reshape(-1)
        valid = np.flatnonzero(known != VOID)
        draws = torch.from_numpy(random.random(len(valid)))
        rows = {name: map.flatten(0, 1)[torch.from_numpy(valid).to(map.device)] for name, map in maps.items()}
        facts = np.stack([known[valid].astype(np.int64), np.full(len(valid), index), valid], axis=-1)
        kept.append((rows, torch.from_numpy(facts), draws))
        if sum(len(part[2]) for part in kept) > 2 * max_patches:
            kept = [_lowest(kept, max_patches)]
    if not sum(len(part[2]) for part in kept):
        raise InputError("no training image has a labelled patch; give training data with labels.")
    features, facts_of, _ = _lowest(kept, max_patches)
    classes, places, cells = facts_of.unbind(dim=1)
    unit = {name: F.normalize(rows.float(), dim=-1) for name, rows in features.items()}
    return PatchSample(unit, classes.contiguous(), places.numpy(), cells.numpy())


def neighbour_scores(
    maps: Mapping[str, Tensor],
    sample: PatchSample,
    arms: Sequence[Arm],
    num_classes: int,
    k: int,
    left_out: LeftOut | None = None,
) -> Tensor:
    """Class scores [arms, h, w, num_classes] of the patches of an image.

    They sum to one in each patch, to zero in one that has no neighbour.

    Args:
        maps: features [h, w, C] of one image, by backbone.
        sample: n patches to look for neighbours among.
        arms: which backbones count together.
        num_classes: number of classes.
        k: neighbours per patch; all of them if there are fewer.
        left_out: which pairs of patches are no neighbours; None: all may be.
    """
    [grid] = {map.shape[:2] for map in maps.values()}
    features, classes = sample.features, sample.classes
    queries = {name: F.normalize(map.flatten(0, 1).to(features[name]), dim=-1) for name, map in maps.items()}
    count, known = grid[0] * grid[1], len(classes)
    scores = torch.zeros(len(arms), count, num_classes)
    step = max(1, _CHUNK // known)
    for start in range(0, count, step):
        cosines = {name: rows[start : start + step] @ features[name].T for name, rows in queries.items()}
        if left_out is not None:
            hidden = left_out(slice(start, start + step))
            cosines = {name: rows.masked_fill(hidden, -torch.inf) for name, rows in cosines.items()}
        for a, arm in enumerate(arms):
            first, *others = (cosines[name] for name in arm.backbones)
            similar = sum(others, first) / len(arm.backbones)
            best, nearest = similar.topk(min(k, known), dim=-1)
            # Normalised, which no patch's own decision depends on, but the interpolation between patches does.
            weights = (best / TEMPERATURE).softmax(dim=-1).masked_fill(best[:, :1] == -torch.inf, 0.0).cpu()
            scores[a, start : start + step].scatter_add_(1, classes[nearest.cpu()], weights)
    return scores.unflatten(1, tuple(grid))


def upsample_argmax(scores: Tensor, height: int, width: int) -> Array:
    """Best class [height, width] (int64) of bilinearly upsampled scores [h, w, K], strip by strip."""
    h, _, K = scores.shape
    wide = upsample_to_pixels(scores, h, width).reshape(h, width * K)
    rows = upsample_to_pixels(torch.eye(h, dtype=scores.dtype, device=scores.device)[:, None], height, 1)[:, 0]
    step = max(1, _CHUNK // (width * K))
    strips = [(strip @ wide).reshape(-1, width, K).argmax(dim=-1).cpu().numpy() for strip in rows.split(step)]
    return np.concatenate(strips)


_Patches = tuple[dict[str, Tensor], Tensor, Tensor]
"""Features [n, C] by backbone; class, image and cell [n, 3]; and draws [n] of some patches."""


def _lowest(parts: list[_Patches], count: int) -> _Patches:
    rows = {name: torch.cat([part[0][name] for part in parts]) for name in parts[0][0]}
    facts, draws = torch.cat([part[1] for part in parts]), torch.cat([part[2] for part in parts])
    best = draws.argsort()[:count]
    return {name: part[best.to(part.device)] for name, part in rows.items()}, facts[best], draws[best]
