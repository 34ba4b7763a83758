"""The linear probe for surface normals, on cached features of whole images with their class tokens.

Unlike Probe3D (El Banani et al., CVPR 2024) it is solved in closed form, and has neither a schedule nor a seed: the
uncertainty-aware angular loss there lets a linear head give up on what it finds hard (a low concentration stops the
gradient of a direction). The truth is what the depth of a posed image says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fit3d_finetune.probing.data.encoding import EncodedImages, Standardization, StandardizedImages
from fit3d_finetune.probing.metrics import NORMAL_METRICS, normal_metrics
from fit3d_finetune.probing.results import Arm, NormalsResult
from fit3d_finetune.probing.scene_figures import mean_over_scenes, value_sums
from fit3d_finetune.probing.whole_images import resize, with_class_tokens
from fit3d_ns.common.console import progress
from fit3d_ns.common.ridge import RidgeSums
from fit3d_ns.features.patch_grid import pool_to_patch_grid

Array = np.ndarray[Any, np.dtype[Any]]

RIDGE = 0.1
"""Penalty of a squared coefficient as a share of the variance of its channel, which is one."""


@dataclass(frozen=True, eq=False)
class NormalHeads:
    """A linear map from an arm's standardised features and class tokens to a direction, for each arm."""

    weights: list[dict[str, Tensor]]
    """Of each arm [C, 3] by block: a backbone's name, `name/class` for its class token. Of one that stands there twice,
    the sum."""
    biases: list[Tensor]
    """[3] each."""


def fit_normals(
    encoded: EncodedImages, statistics: Mapping[str, Standardization], arms: Sequence[Arm], max_depth: float
) -> NormalHeads:
    """Ridge regression of the unit normals of all pixels on the tokens of their patches, for all arms at once.

    The sums that the regression needs are taken once over all backbones; an arm's are a part of them.

    Args:
        encoded: images with depth and cameras.
        statistics: of features and class tokens.
        arms: without class tokens.
        max_depth: metres; pixels farther away do not count.
    """
    images = StandardizedImages(encoded, statistics, max_bytes=0)
    columns: dict[str, Tensor] = {}
    count = 0
    for name, maps in encoded.maps.items():
        for block in (name, f"{name}/class"):
            columns[block] = torch.arange(count, count + maps.channels)
            count += maps.channels
    sums = RidgeSums(count + 1, 3)
    with progress("images") as bar:
        for index in bar.track(range(len(encoded)), description="Normal probes"):
            parts: list[Tensor] = []
            for name in encoded.maps:
                features = images.features(name, index)
                parts += [features, images.class_token(name, index).expand_as(features)]
            rows = torch.cat([*parts, torch.ones_like(parts[0][..., :1])], dim=-1)
            normals = torch.from_numpy(encoded.images[index].normals(max_depth))
            known = normals.square().sum(-1, keepdim=True) > 0
            means, shares = pool_to_patch_grid(normals, (rows.shape[0], rows.shape[1]), known)
            sums.add(rows.flatten(0, 1), means.flatten(0, 1), shares.reshape(-1, 1))
    penalty = RIDGE * float(sums.squares[-1, -1])  # the weights of all rows together
    found = NormalHeads([], [])
    for arm in with_class_tokens(arms):
        used = [columns[block] for block in arm.backbones]
        solved = sums.solve(penalty, torch.cat([*used, torch.tensor([count])])).float()
        weights: dict[str, Tensor] = {}
        for block, part in zip(arm.backbones, solved[:-1].split([len(one) for one in used]), strict=True):
            weights[block] = weights.get(block, torch.zeros(())) + part
        found.weights.append(weights)
        found.biases.append(solved[-1])
    return found


def predict_normals(
    heads: NormalHeads, encoded: EncodedImages, statistics: Mapping[str, Standardization]
) -> Iterator[tuple[int, Array]]:
    """Per image its index and unit normals [arms, H, W, 3] in the camera's frame."""
    images = StandardizedImages(encoded, statistics, max_bytes=0)
    for index, image in enumerate(encoded.images):
        found = []
        for weights, bias in zip(heads.weights, heads.biases, strict=True):
            directions = bias
            for block, weight in weights.items():
                name = block.removesuffix("/class")
                read = images.features if name == block else images.class_token
                directions = directions + read(name, index) @ weight
            found.append(F.normalize(resize(directions, *image.size()), dim=-1))
        yield index, torch.stack(found).numpy()


class NormalsScores:
    """Metrics of all arms, filled image by image."""

    def __init__(self, arms: Sequence[Arm], seeds: Sequence[int], images: int) -> None:
        self.arms, self.seeds = arms, seeds
        self.values = np.full((len(arms), len(NORMAL_METRICS), images), np.nan)

    def add(self, index: int, normals: Array, predicted: Array) -> None:
        """Count the image of this index: normals [H, W, 3] (zero: unknown), predictions [arms, H, W, 3]."""
        for a, of_arm in enumerate(predicted):
            found = normal_metrics(normals, of_arm)
            self.values[a, :, index] = [found[name] for name in NORMAL_METRICS]

    def results(self, image_scenes: Sequence[int], scenes: int) -> dict[str, NormalsResult]:
        """By arm name: means over scenes of means over their images; the same for every seed, as none takes part."""
        found = {}
        for a, arm in enumerate(self.arms):
            by_image = {
                name: np.repeat(values[None], len(self.seeds), axis=0)
                for name, values in zip(NORMAL_METRICS, self.values[a], strict=True)
            }
            means = {name: mean_over_scenes(value_sums(v, image_scenes, scenes)) for name, v in by_image.items()}
            found[arm.name] = NormalsResult(**means, image_rmse=by_image["rmse"].tolist())
        return found
