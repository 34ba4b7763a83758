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
from fit3d_finetune.probing.protocol import FastProtocol
from fit3d_finetune.probing.results import Arm, DepthResult
from fit3d_finetune.probing.scene_figures import image_rmse, mean_over_scenes, value_sums
from fit3d_finetune.probing.whole_images import CACHED_TRUTHS, head_outputs, resize, thinned, train_on_whole_images

Array = np.ndarray[Any, np.dtype[Any]]


def train_depth(
    encoded: EncodedImages,
    statistics: Mapping[str, Standardization],
    arms: Sequence[Arm],
    seeds: Sequence[int],
    protocol: FastProtocol,
    max_depth: float,
    class_tokens: bool = True,
    device: torch.device | str = "cpu",
) -> LinearHeads:
    """Train the heads of all arms and seeds in one pass; see `train_on_whole_images`.

    Args:
        encoded: images with depth.
        statistics: of features and class tokens.
        arms: without class tokens.
        seeds: of the probes.
        protocol: schedule and batch sizes.
        max_depth: metres; larger depths do not count.
        class_tokens: whether heads read them too.
        device: where they are trained, and stay.
    """

    @lru_cache(CACHED_TRUTHS)
    def truth(index: int) -> Tensor:
        depth = encoded.images[index].depth()
        return torch.from_numpy(depth[thinned(*depth.shape)].copy())

    def loss(outputs: Tensor, depth: Tensor) -> Tensor:
        predicted = resize(binned_depth(outputs, max_depth), *depth.shape[-2:])
        known = (depth > 0) & (depth <= max_depth)
        return depth_loss(predicted.permute(2, 3, 0, 1), depth, known).sum()

    bins = protocol.depth_bins
    return train_on_whole_images(
        encoded, statistics, arms, seeds, bins, protocol, truth, loss, "Depth probes", class_tokens, device
    )


@torch.no_grad()
def predict_depth(
    heads: LinearHeads, encoded: EncodedImages, statistics: Mapping[str, Standardization], max_depth: float
) -> Iterator[tuple[int, Array]]:
    """Per image its index and depth [arms, seeds, H, W] in metres."""
    images = StandardizedImages(encoded, statistics, max_bytes=0, device=heads.device)
    _, seeds = heads.shape
    for index, image in enumerate(encoded.images):
        depths = []
        for seed in range(seeds):
            predicted = binned_depth(head_outputs(heads, images, [index], seed), max_depth)
            depths.append(resize(predicted, *image.size())[:, :, 0].permute(2, 0, 1))
        yield index, torch.stack(depths, dim=1).cpu().numpy()


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
