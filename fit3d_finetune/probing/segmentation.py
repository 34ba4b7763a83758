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

from fit3d_finetune.probing.counts import ClassCounts, counts_of
from fit3d_finetune.probing.data.encoding import (
    EncodedWindows,
    Standardization,
    StandardizedWindows,
    Window,
    windows_by_image,
)
from fit3d_finetune.probing.data.sampling import sample_features
from fit3d_finetune.probing.heads import LinearHeads
from fit3d_finetune.probing.metrics import VOID, confusion_matrix
from fit3d_finetune.probing.protocol import Protocol, learning_rate
from fit3d_finetune.probing.results import Arm, SegmentationResult
from fit3d_finetune.probing.scene_figures import accuracy_sums, iou_per_class, iou_sums, mean_known, mean_over_scenes
from fit3d_ns.common.console import progress
from fit3d_ns.features.patch_grid import upsample_to_pixels
from fit3d_ns.rasterization.kernel_cache import load_kernels

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
    windows = StandardizedWindows(encoded, statistics)
    read_labels = lru_cache(_CACHED_LABELS)(lambda image: encoded.images[image].labels(num_classes))
    with progress("steps") as bar:
        task = bar.add_task("Segmentation probes", total=protocol.segmentation_iterations)
        for step in range(protocol.segmentation_iterations):
            lr = learning_rate(
                step, protocol.segmentation_iterations, protocol.segmentation_warmup, protocol.segmentation_lr
            )
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.zero_grad(set_to_none=True)
            for place, seed in enumerate(seeds):
                batch = _draw(encoded, read_labels, seed, step, protocol)
                labels = torch.cat([drawn.labels for drawn in batch])
                logits = _logits(heads, windows, batch, place)
                loss = F.cross_entropy(
                    logits.flatten(0, 1), labels.repeat_interleave(len(arms)), ignore_index=VOID, reduction="sum"
                )
                (loss / (labels != VOID).sum().clamp_min(1)).backward()
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
        r, c = np.divmod(_labelled_pixels(cut, protocol.pixels_per_window, random), cut.shape[1])
        places = window.places(r + row.start, c + column.start, *labels.shape)
        drawn.append(_Drawn(int(index), places, torch.from_numpy(cut[r, c].astype(np.int64))))
    return drawn


def _labelled_pixels(labels: Array, count: int, random: np.random.Generator) -> Array:
    """Flat indices of random pixels of a window that are not void; of any pixels if all are."""
    _kernels = load_kernels("fit3d_finetune.probing._kernels")

    up_to_row = np.empty(len(labels), np.int64)
    _kernels.count_labelled(labels, VOID, up_to_row)
    labelled = int(up_to_row[-1])
    ranks = random.choice(labelled or labels.size, count)
    if labelled in (0, labels.size):
        return ranks
    found = np.empty_like(ranks)
    _kernels.find_labelled(labels, VOID, up_to_row, ranks, found)
    return found


def _logits(heads: LinearHeads, windows: StandardizedWindows, batch: Sequence[_Drawn], seed: int) -> Tensor:
    """Logits [N, arms, K] of one seed (its index) at the pixels that it drew.

    The linear layer goes before the interpolation where there are fewer patches than pixels, and after it elsewhere.
    """
    maps = {name: [windows.features(name, drawn.window) for drawn in batch] for name in windows.backbones}
    grids = [map.shape[:2] for map in next(iter(maps.values()))]
    if len(batch[0].places) <= grids[0][0] * grids[0][1]:
        sampled = {
            name: torch.cat([sample_features(map, drawn.places) for map, drawn in zip(found, batch, strict=True)])
            for name, found in maps.items()
        }
        return heads({name: rows[None] for name, rows in sampled.items()}, seed)[0]
    rows = {name: torch.cat([map.flatten(0, 1) for map in found]) for name, found in maps.items()}
    logits = heads({name: values[None] for name, values in rows.items()}, seed)[0].flatten(1)
    of_windows = logits.split([h * w for h, w in grids])
    parts = [
        sample_features(values.unflatten(0, grid), drawn.places)
        for values, grid, drawn in zip(of_windows, grids, batch, strict=True)
    ]
    return torch.cat(parts).unflatten(1, (-1, heads.outputs))


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
    arms, seeds = heads.shape
    for image, indices in windows_by_image(encoded).items():
        height, width = encoded.images[image].size()
        maps = []
        for index in indices:
            blocks = {name: statistics[name](encoded.features(name, index)) for name in encoded.maps}
            logits = torch.stack([heads(blocks, seed) for seed in range(seeds)])
            maps.append((encoded.windows[index], logits))
        predicted = [[_merge(maps, arm, seed, height, width) for seed in range(seeds)] for arm in range(arms)]
        yield image, predicted


def _merge(maps: Sequence[tuple[Window, Tensor]], arm: int, seed: int, height: int, width: int) -> Array:
    """Class of every pixel: the best of the mean over the windows that show it of logits [seeds, h, w, arms, K]."""
    total = torch.zeros(height, width, maps[0][1].shape[-1])
    count = torch.zeros(height, width, 1)
    for window, logits in maps:
        rows, columns = window.pixels(height, width)
        total[rows, columns] += upsample_to_pixels(
            logits[seed, :, :, arm], rows.stop - rows.start, columns.stop - columns.start
        )
        count[rows, columns] += 1
    return (total / count).argmax(-1).numpy()


class SegmentationScores:
    """Pixel counts of all heads, filled image by image."""

    def __init__(self, arms: Sequence[Arm], seeds: Sequence[int], labelled_pixels: Array) -> None:
        """Arguments: the heads' arms and seeds; `labelled_pixels` [images, classes] of the test images."""
        self.arms, self.labelled_pixels = arms, labelled_pixels
        self.intersections = np.zeros((len(arms), len(seeds), *labelled_pixels.shape), np.int64)
        self.unions = np.zeros_like(self.intersections)

    def add(self, index: int, labels: Array, predicted: list[list[Array]]) -> None:
        """Count the image of this index: labels [H, W], predictions [arms][seeds] of [H, W]."""
        for a, of_arm in enumerate(predicted):
            for s, values in enumerate(of_arm):
                counts = counts_of(confusion_matrix(labels, values, self.labelled_pixels.shape[1]))
                self.intersections[a, s, index], self.unions[a, s, index] = counts

    def results(
        self, image_scenes: Sequence[int], scenes: int, counted: Sequence[int]
    ) -> dict[str, SegmentationResult]:
        """By arm name; `image_scenes` is each image's scene, `counted` are the classes that means go over."""
        found = {}
        for a, arm in enumerate(self.arms):
            counts = ClassCounts(self.intersections[a], self.unions[a])
            of_scenes = (counts, self.labelled_pixels, image_scenes, scenes)
            ious = iou_per_class(counts)
            found[arm.name] = SegmentationResult(
                miou=mean_over_scenes(iou_sums(*of_scenes, counted)),
                pooled_miou=mean_known(ious.T[list(counted)]).tolist(),
                pixel_accuracy=mean_over_scenes(accuracy_sums(*of_scenes)),
                class_accuracy=mean_over_scenes(accuracy_sums(*of_scenes, counted)),
                iou_per_class=ious.tolist(),
                counts=counts,
            )
        return found
