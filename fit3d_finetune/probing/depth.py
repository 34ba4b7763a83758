"""The fast linear probe for depth, on cached features of whole images with their class tokens.

Linear to bins of depth, expectation over the bins; the published one is `probing.paper.depth`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fit3d_finetune.probing.data.encoding import EncodedImages, Standardization, StandardizedImages
from fit3d_finetune.probing.depth_loss import binned_depth, depth_loss
from fit3d_finetune.probing.heads import LinearHeads
from fit3d_finetune.probing.metrics import DEPTH_METRICS, depth_metrics, known_depth
from fit3d_finetune.probing.protocol import FastProtocol, learning_rate
from fit3d_finetune.probing.results import Arm, DepthResult
from fit3d_finetune.probing.scene_figures import image_rmse, mean_over_scenes, value_sums
from fit3d_ns.common.console import progress
from fit3d_ns.features.patch_grid import upsample_to_pixels

Array = np.ndarray[Any, np.dtype[Any]]

# Training looks at every so many-th pixel of the truth: the prediction is far smoother than that.
_STRIDE = 4
_CACHED_DEPTHS = 4096


def with_class_tokens(arms: Sequence[Arm]) -> list[Arm]:
    """The arms with each backbone's class token as one more block of channels, `name/class`."""
    return [Arm(arm.name, (*arm.backbones, *(f"{name}/class" for name in arm.backbones))) for arm in arms]


def train_depth(
    encoded: EncodedImages,
    statistics: Mapping[str, Standardization],
    arms: Sequence[Arm],
    seeds: Sequence[int],
    protocol: FastProtocol,
    max_depth: float,
) -> LinearHeads:
    """Train the heads of all arms and seeds in one pass over whole images; see `train_segmentation`.

    Args:
        encoded: images with depth.
        statistics: of features and class tokens.
        arms: without class tokens.
        seeds: of the probes.
        protocol: schedule and batch sizes.
        max_depth: metres; larger depths do not count.
    """
    channels = {name: maps.channels for name, maps in encoded.maps.items()}
    channels |= {f"{name}/class": count for name, count in channels.items()}
    heads = LinearHeads(with_class_tokens(arms), channels, protocol.depth_bins, seeds)
    optimizer = torch.optim.AdamW(heads.parameters(), weight_decay=protocol.weight_decay, fused=True)

    @lru_cache(_CACHED_DEPTHS)
    def truth(index: int) -> Tensor:
        return torch.from_numpy(encoded.images[index].depth()[_STRIDE // 2 :: _STRIDE, _STRIDE // 2 :: _STRIDE].copy())

    images = StandardizedImages(encoded, statistics)
    with progress("steps") as bar:
        task = bar.add_task("Depth probes", total=protocol.depth_iterations)
        for step in range(protocol.depth_iterations):
            lr = learning_rate(step, protocol.depth_iterations, protocol.depth_warmup, protocol.depth_lr)
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.zero_grad(set_to_none=True)
            for place, seed in enumerate(seeds):
                random = np.random.default_rng([seed, step])
                # Images of one size together; all are, as a rule.
                groups: dict[tuple[int, ...], list[int]] = {}
                for index in random.integers(0, len(encoded), protocol.depth_images).tolist():
                    size = (*truth(index).shape, *images.features(images.backbones[0], index).shape)
                    groups.setdefault(size, []).append(index)
                for indices in groups.values():
                    depth = torch.stack([truth(index) for index in indices])
                    predicted = _predict(heads, images, indices, place, max_depth)
                    known = (depth > 0) & (depth <= max_depth)
                    losses = depth_loss(_resize(predicted, *depth.shape[-2:]), depth, known)
                    (losses.sum() / protocol.depth_images).backward()
            optimizer.step()
            bar.advance(task)
    return heads


def _predict(
    heads: LinearHeads, images: StandardizedImages, indices: Sequence[int], seed: int, max_depth: float
) -> Tensor:
    """Depth [h, w, n, arms] of n images of one size by the heads of one seed (its index)."""
    blocks: dict[str, Tensor] = {}
    for name in images.backbones:
        maps = torch.stack([images.features(name, index) for index in indices])
        grid = maps.shape[1:3]
        blocks[name] = maps.flatten(1, 2)
        blocks[f"{name}/class"] = torch.stack([images.class_token(name, index) for index in indices])[:, None]
    return binned_depth(heads(blocks, seed).unflatten(1, grid), max_depth)


def _resize(depth: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, [h, w, n, arms] to [n, arms, height, width]."""
    return upsample_to_pixels(depth.flatten(2), height, width).unflatten(2, depth.shape[2:]).permute(2, 3, 0, 1)


@torch.no_grad()
def predict_depth(
    heads: LinearHeads, encoded: EncodedImages, statistics: Mapping[str, Standardization], max_depth: float
) -> Iterator[tuple[int, Array]]:
    """Per image its index and depth [arms, seeds, H, W] in metres."""
    images = StandardizedImages(encoded, statistics, max_bytes=0)
    _, seeds = heads.shape
    for index, image in enumerate(encoded.images):
        depths = [_resize(_predict(heads, images, [index], seed, max_depth), *image.size())[0] for seed in range(seeds)]
        yield index, torch.stack(depths, dim=1).numpy()


class DepthScores:
    """Metrics of all heads, filled image by image."""

    def __init__(self, arms: Sequence[Arm], seeds: Sequence[int], images: int, max_depth: float) -> None:
        self.arms, self.max_depth = arms, max_depth
        self.values = np.full((len(arms), len(DEPTH_METRICS), len(seeds), images), np.nan)
        self.squared_error = np.zeros((len(arms), len(seeds), images))
        self.pixels = np.zeros(images, np.int64)

    def add(self, index: int, depth: Array, predicted: Array) -> None:
        """Count the image of this index: depth [H, W], predictions [arms, seeds, H, W]."""
        self.pixels[index] = known_depth(depth, self.max_depth).sum()
        for a, of_arm in enumerate(predicted):
            for s, values in enumerate(of_arm):
                found = depth_metrics(depth, values, self.max_depth)
                self.values[a, :, s, index] = [found[name] for name in DEPTH_METRICS]
                if self.pixels[index]:
                    self.squared_error[a, s, index] = found["rmse"] ** 2 * self.pixels[index]

    def results(self, image_scenes: Sequence[int], scenes: int) -> dict[str, DepthResult]:
        """By arm name: means over scenes of means over their images, per seed."""
        found = {}
        for a, arm in enumerate(self.arms):
            squared_error, pixels = self.squared_error[a].tolist(), self.pixels.tolist()
            by_image = dict(zip(DEPTH_METRICS, self.values[a], strict=True))
            by_image["rmse"] = image_rmse(squared_error, pixels)
            means = {name: mean_over_scenes(value_sums(v, image_scenes, scenes)) for name, v in by_image.items()}
            found[arm.name] = DepthResult(**means, squared_error=squared_error, pixels=pixels)
        return found
