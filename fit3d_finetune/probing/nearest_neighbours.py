"""k-nearest-neighbour segmentation: what the features know about classes before any head is trained.

Every test patch takes the labels of its k most similar training patches, weighted by exp(cosine / temperature)
(Wu et al., CVPR 2018; the evaluation of DINO, Caron et al., ICCV 2021), and the class scores of patches are
upsampled bilinearly to pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fit3d_finetune.probing.metrics import (
    VOID,
    confusion_matrix,
    counted_classes,
    iou_per_class,
    pixel_accuracy,
)
from fit3d_finetune.probing.results import NearestNeighbourResult
from fit3d_ns.errors import InputError
from fit3d_ns.patch_grid import upsample_to_pixels

Array = np.ndarray[Any, np.dtype[Any]]

TEMPERATURE = 0.07
_CHUNK = 1 << 24
"""Elements of the largest temporary tensors."""


def nearest_neighbour_segmentation(
    train: Iterable[tuple[Tensor, Array]],
    test: Iterable[tuple[Tensor, Array]],
    num_classes: int,
    counted: Sequence[int] | None = None,
    k: int = 20,
    max_train_patches: int = 20_000,
    seed: int = 0,
) -> NearestNeighbourResult:
    """Segment test images by their patches' nearest neighbours among training patches, and score the result.

    Both iterables are read once, image by image; memory holds the sample of training patches and one image.

    Args:
        train: features [h, w, C] (any device) and labels [H, W] (class index, 255 = void) of training images.
        test: the same of test images.
        num_classes: number of classes.
        counted: the classes that mIoU averages; None: those with 0.2 % of the labelled test pixels.
        k: neighbours per patch.
        max_train_patches: size of a random sample of training patches. It depends on labels, their order and
            `seed` only, so that all arms see the same patches.
        seed: of that sample.

    Raises:
        InputError: no training patch has a label, or no test pixel.
    """
    features, classes = sample_patches(train, num_classes, max_train_patches, seed)
    confusion = np.zeros((num_classes, num_classes), np.int64)
    accuracies = []
    for map, labels in test:
        scores = neighbour_scores(map, features, classes, num_classes, k)
        predicted = upsample_argmax(scores, *labels.shape)
        counts = confusion_matrix(labels, predicted, num_classes)
        confusion += counts
        accuracies.append(pixel_accuracy(counts))
    if confusion.sum() == 0:
        raise InputError("no test image has a labelled pixel; give test data with labels.")
    iou = iou_per_class(confusion)
    if counted is None:
        counted = counted_classes(confusion.sum(axis=1))
    return NearestNeighbourResult(
        k=k,
        miou=float(np.nanmean(iou[list(counted)])),
        pixel_accuracy=pixel_accuracy(confusion),
        iou_per_class=iou.tolist(),
        accuracy_per_image=accuracies,
    )


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
    images: Iterable[tuple[Tensor, Array]], num_classes: int, max_patches: int, seed: int
) -> tuple[Tensor, Tensor]:
    """A uniform random sample of the labelled patches of all images, without replacement, in one pass.

    Returns:
        features [n, C], of unit length, and classes [n] (int64) with n <= max_patches.

    Raises:
        InputError: no patch has a label.
    """
    # Every patch draws a number; those with the lowest are the sample. Pruned whenever it has doubled.
    random = np.random.default_rng(seed)
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    for map, labels in images:
        classes = patch_labels(labels, (map.shape[0], map.shape[1]), num_classes).reshape(-1)
        valid = np.flatnonzero(classes != VOID)
        draws = torch.from_numpy(random.random(len(valid)))
        rows = map.reshape(-1, map.shape[-1])[torch.from_numpy(valid).to(map.device)]
        kept.append((rows, torch.from_numpy(classes[valid].astype(np.int64)), draws))
        if sum(len(part[2]) for part in kept) > 2 * max_patches:
            kept = [_lowest(kept, max_patches)]
    if not sum(len(part[2]) for part in kept):
        raise InputError("no training image has a labelled patch; give training data with labels.")
    features, known, _ = _lowest(kept, max_patches)
    return F.normalize(features.float(), dim=-1), known.to(features.device)


def neighbour_scores(map: Tensor, features: Tensor, classes: Tensor, num_classes: int, k: int) -> Tensor:
    """Class scores [h, w, num_classes] of the patches of a map [h, w, C]; they sum to one in each patch.

    Args:
        map: features of one image.
        features: [n, C], training features of unit length.
        classes: [n], their classes.
        num_classes: number of classes.
        k: neighbours per patch; all of them if there are fewer.
    """
    h, w, C = map.shape
    queries = F.normalize(map.reshape(-1, C).to(features), dim=-1)
    scores = features.new_zeros(h * w, num_classes)
    step = max(1, _CHUNK // len(features))
    for start in range(0, h * w, step):
        similar, nearest = (queries[start : start + step] @ features.T).topk(min(k, len(features)), dim=-1)
        # Normalised, which no patch's own decision depends on, but the interpolation between patches does.
        weights = (similar / TEMPERATURE).softmax(dim=-1)
        scores[start : start + step].scatter_add_(1, classes[nearest], weights)
    return scores.reshape(h, w, num_classes)


def upsample_argmax(scores: Tensor, height: int, width: int) -> Array:
    """Best class [height, width] (int64) of bilinearly upsampled scores [h, w, K], strip by strip."""
    h, _, K = scores.shape
    wide = upsample_to_pixels(scores, h, width).reshape(h, width * K)
    rows = upsample_to_pixels(torch.eye(h, dtype=scores.dtype, device=scores.device)[:, None], height, 1)[:, 0]
    step = max(1, _CHUNK // (width * K))
    strips = [(strip @ wide).reshape(-1, width, K).argmax(dim=-1).cpu().numpy() for strip in rows.split(step)]
    return np.concatenate(strips)


def _lowest(parts: list[tuple[Tensor, Tensor, Tensor]], count: int) -> tuple[Tensor, Tensor, Tensor]:
    rows, classes, draws = (torch.cat([part[i] for part in parts]) for i in range(3))
    best = draws.argsort()[:count]
    return rows[best.to(rows.device)], classes[best], draws[best]
