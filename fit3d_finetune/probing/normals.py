"""The linear probe for surface normals, on cached features of whole images with their class tokens.

As in Probe3D (El Banani et al., CVPR 2024): a direction and a concentration at every pixel, trained with the
uncertainty-aware angular loss of Bae et al. (ICCV 2021). The truth is what the depth of a posed image says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fit3d_finetune.probing.data.encoding import EncodedImages, Standardization, StandardizedImages
from fit3d_finetune.probing.heads import LinearHeads
from fit3d_finetune.probing.metrics import NORMAL_METRICS, normal_metrics
from fit3d_finetune.probing.protocol import FastProtocol
from fit3d_finetune.probing.results import Arm, NormalsResult
from fit3d_finetune.probing.scene_figures import mean_over_scenes, value_sums
from fit3d_finetune.probing.whole_images import CACHED_TRUTHS, head_outputs, resize, thinned, train_on_whole_images

Array = np.ndarray[Any, np.dtype[Any]]

OUTPUTS = 4
"""A direction, and how sure it is."""
MIN_CONCENTRATION = 0.01
_NEAR_ONE = 1 - 1e-6


def angular_loss(outputs: Tensor, normals: Tensor, known: Tensor) -> Tensor:
    """Negative log likelihood of normals under an angular von Mises-Fisher distribution (Bae et al., 2021, eq. 8).

    -log(k^2 + 1) + k a + log(1 + exp(-k pi)) with the angle a and the concentration k = elu(output) + 1.01; mean over
    an image's pixels, zero where it has none.

    Args:
        outputs: [..., H, W, 4], the direction of any length.
        normals: [..., H, W, 3], of unit length where known.
        known: bool [..., H, W].

    Returns:
        [...], one for each image.
    """
    concentration = F.elu(outputs[..., 3]) + 1 + MIN_CONCENTRATION
    cosine = (F.normalize(outputs[..., :3], dim=-1) * normals).sum(-1)
    # The arc cosine's slope has no bound at +-1.
    angle = cosine.clamp(-_NEAR_ONE, _NEAR_ONE).acos()
    losses = -(concentration.square() + 1).log() + concentration * angle + (-concentration * math.pi).exp().log1p()
    count = known.sum(dim=(-2, -1)).clamp_min(1)
    return torch.where(known, losses, 0.0).sum(dim=(-2, -1)) / count


def train_normals(
    encoded: EncodedImages,
    statistics: Mapping[str, Standardization],
    arms: Sequence[Arm],
    seeds: Sequence[int],
    protocol: FastProtocol,
    max_depth: float,
) -> LinearHeads:
    """Train the heads of all arms and seeds in one pass; see `train_on_whole_images`.

    Args:
        encoded: images with depth and cameras.
        statistics: of features and class tokens.
        arms: without class tokens.
        seeds: of the probes.
        protocol: schedule and batch sizes (those of depth).
        max_depth: metres; pixels farther away do not count.
    """

    @lru_cache(CACHED_TRUTHS)
    def truth(index: int) -> Tensor:
        normals = encoded.images[index].normals(max_depth)
        return torch.from_numpy(normals[thinned(*normals.shape[:2])].copy())

    def loss(outputs: Tensor, normals: Tensor) -> Tensor:
        predicted = resize(outputs.permute(1, 2, 0, 3, 4), *normals.shape[1:3]).permute(2, 3, 0, 1, 4)
        known = normals.square().sum(-1) > 0
        return angular_loss(predicted, normals[:, None], known[:, None].expand(predicted.shape[:-1])).sum()

    return train_on_whole_images(encoded, statistics, arms, seeds, OUTPUTS, protocol, truth, loss, "Normal probes")


@torch.no_grad()
def predict_normals(
    heads: LinearHeads, encoded: EncodedImages, statistics: Mapping[str, Standardization]
) -> Iterator[tuple[int, Array]]:
    """Per image its index and unit normals [arms, seeds, H, W, 3] in the camera's frame."""
    images = StandardizedImages(encoded, statistics, max_bytes=0)
    _, seeds = heads.shape
    for index, image in enumerate(encoded.images):
        found = []
        for seed in range(seeds):
            directions = head_outputs(heads, images, [index], seed)[0, ..., :3]
            found.append(F.normalize(resize(directions, *image.size()), dim=-1).permute(2, 0, 1, 3))
        yield index, torch.stack(found, dim=1).numpy()


class NormalsScores:
    """Metrics of all heads, filled image by image."""

    def __init__(self, arms: Sequence[Arm], seeds: Sequence[int], images: int) -> None:
        self.arms = arms
        self.values = np.full((len(arms), len(NORMAL_METRICS), len(seeds), images), np.nan)

    def add(self, index: int, normals: Array, predicted: Array) -> None:
        """Count the image of this index: normals [H, W, 3] (zero: unknown), predictions [arms, seeds, H, W, 3]."""
        for a, of_arm in enumerate(predicted):
            for s, values in enumerate(of_arm):
                found = normal_metrics(normals, values)
                self.values[a, :, s, index] = [found[name] for name in NORMAL_METRICS]

    def results(self, image_scenes: Sequence[int], scenes: int) -> dict[str, NormalsResult]:
        """By arm name: means over scenes of means over their images, per seed."""
        found = {}
        for a, arm in enumerate(self.arms):
            by_image = dict(zip(NORMAL_METRICS, self.values[a], strict=True))
            means = {name: mean_over_scenes(value_sums(v, image_scenes, scenes)) for name, v in by_image.items()}
            found[arm.name] = NormalsResult(**means, image_rmse=by_image["rmse"].tolist())
        return found
