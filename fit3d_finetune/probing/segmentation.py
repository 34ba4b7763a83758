"""The fast linear probe for semantic segmentation, on cached features of whole images.

The published probe (`probing.paper.segmentation`) is a BatchNorm and a 1x1 convolution, upsampled bilinearly to the
pixels, with cross entropy. Here the normalisation uses the statistics of the whole training set, and the loss is taken
at random pixels of each image: a linear layer and bilinear interpolation commute, so that the features are interpolated
there and the mean over pixels is estimated without bias at a hundredth of the cost.
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
from fit3d_finetune.probing.data.codings import VOID
from fit3d_finetune.probing.data.encoding import EncodedImages, Standardization, StandardizedImages
from fit3d_finetune.probing.heads import LinearHeads
from fit3d_finetune.probing.metrics import confusion_matrix
from fit3d_finetune.probing.protocol import FastProtocol, learning_rate
from fit3d_finetune.probing.results import Arm, SegmentationResult
from fit3d_finetune.probing.sampling import sample_features
from fit3d_finetune.probing.scene_figures import accuracy_sums, iou_per_class, iou_sums, mean_known, mean_over_scenes
from fit3d_ns.common.console import progress
from fit3d_ns.features.patch_grid import upsample_to_pixels
from fit3d_ns.rasterization.kernel_cache import load_kernels

Array = np.ndarray[Any, np.dtype[Any]]
_CACHED_LABELS = 512


def train_segmentation(
    encoded: EncodedImages,
    statistics: Mapping[str, Standardization],
    arms: Sequence[Arm],
    num_classes: int,
    seeds: Sequence[int],
    protocol: FastProtocol,
    device: torch.device | str = "cpu",
) -> LinearHeads:
    """Train the heads of all arms and seeds in one pass.

    A seed decides its heads' start and which images and pixels they see; all arms see the same ones.

    Args:
        encoded: labelled training images.
        statistics: of the training features, by backbone.
        arms: what to concatenate.
        num_classes: K.
        seeds: of the probes.
        protocol: schedule and batch sizes.
        device: where they are trained, and stay.
    """
    channels = {name: maps.channels for name, maps in encoded.maps.items()}
    heads = LinearHeads(arms, channels, num_classes, seeds).to(device)
    optimizer = torch.optim.AdamW(heads.parameters(), weight_decay=protocol.weight_decay, fused=True)
    images = StandardizedImages(encoded, statistics, device=device)
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
                labels = torch.cat([drawn.labels for drawn in batch]).to(device)
                logits = _logits(heads, images, batch, place)
                loss = F.cross_entropy(
                    logits.flatten(0, 1), labels.repeat_interleave(len(arms)), ignore_index=VOID, reduction="sum"
                )
                (loss / (labels != VOID).sum().clamp_min(1)).backward()
            optimizer.step()
            bar.advance(task)
    return heads


@dataclass(frozen=True)
class _Drawn:
    """Random pixels of one image."""

    image: int
    places: Array
    """[n, 2]: x and y in the image, in 0..1."""
    labels: Tensor
    """[n]; all void if the image has no labelled pixel."""


def _draw(encoded: EncodedImages, read_labels: Any, seed: int, step: int, protocol: FastProtocol) -> list[_Drawn]:
    """What a seed sees in a step."""
    random = np.random.default_rng([seed, step])
    drawn = []
    for index in random.integers(0, len(encoded), protocol.segmentation_images).tolist():
        labels = read_labels(index)
        r, c = np.divmod(_labelled_pixels(labels, protocol.pixels_per_image, random), labels.shape[1])
        places = np.stack([(c + 0.5) / labels.shape[1], (r + 0.5) / labels.shape[0]], axis=-1)
        drawn.append(_Drawn(index, places, torch.from_numpy(labels[r, c].astype(np.int64))))
    return drawn


def _labelled_pixels(labels: Array, count: int, random: np.random.Generator) -> Array:
    """Flat indices of random pixels of an image that are not void; of any pixels if all are."""
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


def _logits(heads: LinearHeads, images: StandardizedImages, batch: Sequence[_Drawn], seed: int) -> Tensor:
    """Logits [N, arms, K] of one seed (its index) at the pixels that it drew.

    The linear layer goes before the interpolation where there are fewer patches than pixels, and after it elsewhere.
    """
    maps = {name: [images.features(name, drawn.image) for drawn in batch] for name in images.backbones}
    grids = [map.shape[:2] for map in next(iter(maps.values()))]
    if len(batch[0].places) <= grids[0][0] * grids[0][1]:
        sampled = {
            name: torch.cat([sample_features(map, drawn.places) for map, drawn in zip(found, batch, strict=True)])
            for name, found in maps.items()
        }
        return heads({name: rows[None] for name, rows in sampled.items()}, seed)[0]
    rows = {name: torch.cat([map.flatten(0, 1) for map in found]) for name, found in maps.items()}
    logits = heads({name: values[None] for name, values in rows.items()}, seed)[0].flatten(1)
    of_images = logits.split([h * w for h, w in grids])
    parts = [
        sample_features(values.unflatten(0, grid), drawn.places)
        for values, grid, drawn in zip(of_images, grids, batch, strict=True)
    ]
    return torch.cat(parts).unflatten(1, (-1, heads.outputs))


@torch.no_grad()
def predict_segmentation(
    heads: LinearHeads, encoded: EncodedImages, statistics: Mapping[str, Standardization]
) -> Iterator[tuple[int, list[list[Array]]]]:
    """Per image its index and the predicted classes [arms][seeds] of [H, W].

    Args:
        heads: trained.
        encoded: the test images.
        statistics: those of training.
    """
    arms, seeds = heads.shape
    for index, image in enumerate(encoded.images):
        height, width = image.size()
        blocks = {name: statistics[name](encoded.features(name, index)).to(heads.device) for name in encoded.maps}
        logits = [heads(blocks, seed) for seed in range(seeds)]
        predicted = [
            [
                upsample_to_pixels(logits[seed][:, :, arm], height, width).argmax(-1).cpu().numpy()
                for seed in range(seeds)
            ]
            for arm in range(arms)
        ]
        yield index, predicted


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
