"""k-nearest-neighbour segmentation: what the features know about classes before any head is trained.

Every test patch takes the labels of its k most similar training patches, weighted by exp(cosine / temperature)
(Wu et al., CVPR 2018; the evaluation of DINO, Caron et al., ICCV 2021), and the class scores of patches are
upsampled bilinearly to pixels. In an arm of several backbones each of them counts the same: its similarity is the
mean of their cosines, which is the cosine of the concatenation of their features at unit length each. So the
similarities of a backbone are computed once for all arms that it is part of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fit3d_finetune.probing.counts import Array, ClassCounts, counts_of
from fit3d_finetune.probing.data.labelled_images import VOID
from fit3d_finetune.probing.metrics import confusion_matrix
from fit3d_finetune.probing.results import Arm, NearestNeighbourResult
from fit3d_finetune.probing.scene_figures import accuracy_sums, iou_per_class, iou_sums, mean_known, mean_over_scenes
from fit3d_ns.common.console import progress
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.patch_grid import upsample_to_pixels

LabelledMaps = tuple[Mapping[str, Tensor], Array]
"""Features [h, w, C] by backbone, of one image, and its labels [H, W] (class index, 255 = void)."""

TEMPERATURE = 0.07
_CHUNK = 1 << 24
"""Elements of the largest temporary tensors."""


def nearest_neighbour_segmentation(
    train: Iterable[LabelledMaps],
    test: Iterable[LabelledMaps],
    arms: Sequence[Arm],
    labelled_pixels: Array,
    image_scenes: Sequence[int],
    counted: Sequence[int],
    k: int = 20,
    max_train_patches: int = 20_000,
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
    features, classes = sample_patches(train, num_classes, max_train_patches, seed)
    intersections = np.zeros((len(arms), 1, *labelled_pixels.shape), np.int64)
    unions = np.zeros_like(intersections)
    with progress("images") as bar:
        for index, (maps, labels) in enumerate(bar.track(test, description="Nearest neighbours")):
            for a, scores in enumerate(neighbour_scores(maps, features, classes, arms, num_classes, k)):
                confusion = confusion_matrix(labels, upsample_argmax(scores, *labels.shape), num_classes)
                intersections[a, 0, index], unions[a, 0, index] = counts_of(confusion)
    results = {}
    for a, arm in enumerate(arms):
        counts = ClassCounts(intersections[a], unions[a])
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
    (H, W), (h, w) = labels.shape, grid
    rows = ((np.arange(H) + 0.5) * h / H).astype(np.int64)
    columns = ((np.arange(W) + 0.5) * w / W).astype(np.int64)
    cells = rows[:, None] * w + columns
    valid = labels != VOID
    index = cells[valid] * num_classes + labels[valid].astype(np.int64)
    counts = np.bincount(index, minlength=h * w * num_classes).reshape(h * w, num_classes)
    pixels = np.bincount(cells.ravel(), minlength=h * w)
    known = (counts.sum(axis=1) * 2 >= pixels) & (pixels > 0)
    return np.where(known, counts.argmax(axis=1), VOID).astype(np.uint8).reshape(h, w)


def sample_patches(
    images: Iterable[LabelledMaps], num_classes: int, max_patches: int, seed: int
) -> tuple[dict[str, Tensor], Tensor]:
    """A uniform random sample of the labelled patches of all images, without replacement, in one pass.

    Returns:
        features [n, C] by backbone, of unit length, and classes [n] (int64) with n <= max_patches.

    Raises:
        InputError: no patch has a label.
    """
    # Every patch draws a number; those with the lowest are the sample. Pruned whenever it has doubled.
    random = np.random.default_rng(seed)
    kept: list[_Patches] = []
    for maps, labels in images:
        [grid] = {map.shape[:2] for map in maps.values()}
        known = patch_labels(labels, (grid[0], grid[1]), num_classes).reshape(-1)
        valid = np.flatnonzero(known != VOID)
        draws = torch.from_numpy(random.random(len(valid)))
        rows = {name: map.flatten(0, 1)[torch.from_numpy(valid).to(map.device)] for name, map in maps.items()}
        kept.append((rows, torch.from_numpy(known[valid].astype(np.int64)), draws))
        if sum(len(part[2]) for part in kept) > 2 * max_patches:
            kept = [_lowest(kept, max_patches)]
    if not sum(len(part[2]) for part in kept):
        raise InputError("no training image has a labelled patch; give training data with labels.")
    features, classes, _ = _lowest(kept, max_patches)
    return {name: F.normalize(rows.float(), dim=-1) for name, rows in features.items()}, classes


def neighbour_scores(
    maps: Mapping[str, Tensor],
    features: Mapping[str, Tensor],
    classes: Tensor,
    arms: Sequence[Arm],
    num_classes: int,
    k: int,
) -> Tensor:
    """Class scores [arms, h, w, num_classes] of the patches of an image; they sum to one in each patch.

    Args:
        maps: features [h, w, C] of one image, by backbone.
        features: [n, C], training features of unit length, by backbone.
        classes: [n], their classes.
        arms: which backbones count together.
        num_classes: number of classes.
        k: neighbours per patch; all of them if there are fewer.
    """
    [grid] = {map.shape[:2] for map in maps.values()}
    queries = {name: F.normalize(map.flatten(0, 1).to(features[name]), dim=-1) for name, map in maps.items()}
    count, known = grid[0] * grid[1], len(classes)
    scores = torch.zeros(len(arms), count, num_classes)
    step = max(1, _CHUNK // known)
    for start in range(0, count, step):
        cosines = {name: rows[start : start + step] @ features[name].T for name, rows in queries.items()}
        for a, arm in enumerate(arms):
            first, *others = (cosines[name] for name in arm.backbones)
            similar = sum(others, first) / len(arm.backbones)
            best, nearest = similar.topk(min(k, known), dim=-1)
            # Normalised, which no patch's own decision depends on, but the interpolation between patches does.
            weights = (best / TEMPERATURE).softmax(dim=-1).cpu()
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
"""Features [n, C] by backbone, classes [n] and draws [n] of some patches."""


def _lowest(parts: list[_Patches], count: int) -> _Patches:
    rows = {name: torch.cat([part[0][name] for part in parts]) for name in parts[0][0]}
    classes, draws = torch.cat([part[1] for part in parts]), torch.cat([part[2] for part in parts])
    best = draws.argsort()[:count]
    return {name: part[best.to(part.device)] for name, part in rows.items()}, classes[best], draws[best]
