"""Linear probe for semantic segmentation: normalisation and one linear layer on frozen patch features.

The published probe (DINOv2, FiT3D) is a BatchNorm and a 1x1 convolution, upsampled bilinearly to the pixels, with cross
entropy. Here the normalisation uses the statistics of the whole training set, and the loss is taken at random
pixels of each window: a linear layer and bilinear interpolation commute, so that the features are interpolated there
and the mean over pixels is estimated without bias at a hundredth of the cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fit3d_finetune.probing.consistency import sample_features
from fit3d_finetune.probing.encoding import EncodedWindows, Standardization
from fit3d_finetune.probing.heads import LinearHeads
from fit3d_finetune.probing.metrics import VOID, class_accuracy, confusion_matrix, iou_per_class, pixel_accuracy
from fit3d_finetune.probing.protocol import Protocol, learning_rate
from fit3d_finetune.probing.results import Arm, SegmentationResult
from fit3d_ns.console import progress
from fit3d_ns.patch_grid import upsample_to_pixels

Array = np.ndarray[Any, np.dtype[Any]]
_CACHED_LABELS = 512


def train_segmentation(
    encoded: EncodedWindows,
    statistics: Mapping[str, Standardization],
    arms: Sequence[Arm],
    num_classes: int,
    seeds: Sequence[int],
    protocol: Protocol,
) -> LinearHeads:
    """Train the heads of all arms and seeds in one pass.

    A seed decides its heads' start and which windows and pixels they see; all arms see the same ones.

    Args:
        encoded: training windows of labelled images.
        statistics: of the training features, by backbone.
        arms: what to concatenate.
        num_classes: K.
        seeds: of the probes.
        protocol: schedule and batch sizes.
    """
    heads = LinearHeads(arms, {name: maps.channels for name, maps in encoded.maps.items()}, num_classes, seeds)
    optimizer = torch.optim.AdamW(heads.parameters(), weight_decay=protocol.weight_decay, fused=True)
    read_labels = lru_cache(_CACHED_LABELS)(lambda image: encoded.images[image].labels(num_classes))
    with progress("steps") as bar:
        task = bar.add_task("Segmentation probes", total=protocol.segmentation_iterations)
        for step in range(protocol.segmentation_iterations):
            lr = learning_rate(
                step, protocol.segmentation_iterations, protocol.segmentation_warmup, protocol.segmentation_lr
            )
            for group in optimizer.param_groups:
                group["lr"] = lr
            batches = [_draw(encoded, read_labels, seed, step, protocol) for seed in seeds]
            labels = torch.stack([torch.cat([drawn.labels for drawn in batch]) for batch in batches])
            logits = _logits(heads, encoded, statistics, batches)
            loss = F.cross_entropy(
                logits.flatten(0, 2), labels.expand(len(arms), -1, -1).flatten(), ignore_index=VOID, reduction="none"
            )
            counted = (labels != VOID).sum(-1).clamp_min(1)  # per seed
            per_head = loss.reshape(len(arms), len(seeds), -1).sum(-1) / counted
            optimizer.zero_grad(set_to_none=True)
            per_head.sum().backward()
            optimizer.step()
            bar.advance(task)
    return heads


@dataclass(frozen=True)
class _Drawn:
    """Random pixels of one window."""

    window: int
    places: Array
    """[n, 2]: x and y in the window, in 0..1."""
    labels: Tensor
    """[n]; all void if the window has no labelled pixel."""


def _draw(encoded: EncodedWindows, read_labels: Any, seed: int, step: int, protocol: Protocol) -> list[_Drawn]:
    """What a seed sees in a step."""
    random = np.random.default_rng([seed, step])
    drawn = []
    for index in random.integers(0, len(encoded), protocol.segmentation_windows):
        window = encoded.windows[index]
        labels = read_labels(window.image)
        row, column = window.pixels(*labels.shape)
        cut = labels[row, column]
        valid = np.flatnonzero(cut != VOID)
        if len(valid) == 0:
            valid = np.arange(cut.size)
        chosen = random.choice(valid, protocol.pixels_per_window)
        r, c = np.divmod(chosen, cut.shape[1])
        places = window.places(r + row.start, c + column.start, *labels.shape)
        drawn.append(_Drawn(int(index), places, torch.from_numpy(cut[r, c].astype(np.int64))))
    return drawn


def _logits(
    heads: LinearHeads,
    encoded: EncodedWindows,
    statistics: Mapping[str, Standardization],
    batches: Sequence[Sequence[_Drawn]],
) -> Tensor:
    """Logits [arms, seeds, N, K] at the pixels that were drawn, one batch per seed.

    The linear layer goes before the interpolation where there are fewer patches than pixels, and after it elsewhere.
    """

    def maps(drawn: _Drawn) -> dict[str, Tensor]:
        return {name: statistics[name](encoded.features(name, drawn.window)) for name in encoded.maps}

    first = batches[0][0]
    h, w = next(iter(maps(first).values())).shape[:2]
    if len(first.places) <= h * w:
        blocks: dict[str, list[Tensor]] = {name: [] for name in encoded.maps}
        for batch in batches:
            rows = [{name: sample_features(map, d.places) for name, map in maps(d).items()} for d in batch]
            for name in blocks:
                blocks[name].append(torch.cat([row[name] for row in rows]))
        return heads({name: torch.stack(rows) for name, rows in blocks.items()})
    per_seed = []
    for s, batch in enumerate(batches):
        parts = []
        for d in batch:
            found = maps(d)
            h, w = next(iter(found.values())).shape[:2]
            logits = heads.one_seed({name: map.flatten(0, 1)[None] for name, map in found.items()}, s)[:, 0]
            at_pixels = sample_features(logits.permute(1, 0, 2).reshape(h, w, -1), d.places)
            parts.append(at_pixels.unflatten(1, (len(logits), heads.outputs)).permute(1, 0, 2))
        per_seed.append(torch.cat(parts, dim=1))
    return torch.stack(per_seed, dim=1)


@torch.no_grad()
def predict_segmentation(
    heads: LinearHeads, encoded: EncodedWindows, statistics: Mapping[str, Standardization]
) -> Iterator[tuple[int, list[list[Array]]]]:
    """Per image its index and the predicted classes [arms][seeds] of [H, W]; logits are averaged over windows.

    Args:
        heads: trained.
        encoded: windows that cover every image, none mirrored.
        statistics: those of training.
    """
    by_image: dict[int, list[int]] = {}
    for index, window in enumerate(encoded.windows):
        by_image.setdefault(window.image, []).append(index)
    arms, seeds = heads.shape
    for image, indices in by_image.items():
        height, width = encoded.images[image].size()
        maps = []
        for index in indices:
            blocks = {name: statistics[name](encoded.features(name, index)) for name in encoded.maps}
            h, w = next(iter(blocks.values())).shape[:2]
            logits = heads({name: values.reshape(1, h * w, -1) for name, values in blocks.items()})
            maps.append((encoded.windows[index], logits.unflatten(2, (h, w))))
        predicted = [[_merge(maps, arm, seed, height, width) for seed in range(seeds)] for arm in range(arms)]
        yield image, predicted


def _merge(maps: Sequence[tuple[Any, Tensor]], arm: int, seed: int, height: int, width: int) -> Array:
    """Class of every pixel: the best of the logits' mean over the windows that show it."""
    total = torch.zeros(height, width, maps[0][1].shape[-1])
    count = torch.zeros(height, width, 1)
    for window, logits in maps:
        rows, columns = window.pixels(height, width)
        total[rows, columns] += upsample_to_pixels(
            logits[arm, seed], rows.stop - rows.start, columns.stop - columns.start
        )
        count[rows, columns] += 1
    return (total / count).argmax(-1).numpy()


class SegmentationScores:
    """Confusion matrices of all heads, filled image by image."""

    def __init__(self, arms: Sequence[Arm], seeds: Sequence[int], num_classes: int) -> None:
        self.arms, self.num_classes = arms, num_classes
        self.confusion = np.zeros((len(arms), len(seeds), num_classes, num_classes), np.int64)
        self.accuracy: list[list[list[float]]] = [[[] for _ in seeds] for _ in arms]

    def add(self, labels: Array, predicted: list[list[Array]]) -> None:
        """Count one image: labels [H, W], predictions [arms][seeds] of [H, W]."""
        for a, of_arm in enumerate(predicted):
            for s, values in enumerate(of_arm):
                counts = confusion_matrix(labels, values, self.num_classes)
                self.confusion[a, s] += counts
                self.accuracy[a][s].append(pixel_accuracy(counts))

    def results(self, counted: Sequence[int]) -> dict[str, SegmentationResult]:
        """By arm name; `counted` are the classes that means go over."""
        found = {}
        for a, arm in enumerate(self.arms):
            matrices = list(self.confusion[a])
            ious = [iou_per_class(matrix) for matrix in matrices]
            found[arm.name] = SegmentationResult(
                miou=[float(np.nanmean(iou[list(counted)])) for iou in ious],
                pixel_accuracy=[pixel_accuracy(matrix) for matrix in matrices],
                class_accuracy=[class_accuracy(matrix, counted) for matrix in matrices],
                iou_per_class=[iou.tolist() for iou in ious],
                accuracy_per_image=self.accuracy[a],
            )
        return found
