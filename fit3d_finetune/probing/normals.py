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

Array = np.ndarray[Any, np.dtype[Any]]

RIDGE = 0.1
"""Penalty of a squared coefficient as a share of the variance of its channel, which is one."""


@dataclass(frozen=True, eq=False)
class NormalHeads:
    """A linear map from an arm's standardised features and class tokens to a direction, for each arm."""

    blocks: list[tuple[str, ...]]
    """Of each arm: the backbones' names, and `name/class` for their class tokens."""
    weights: list[dict[str, Tensor]]
    """Of each arm by block: [C, 3]; of a block that stands in it twice, the sum."""
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
    blocks = [name for backbone in encoded.maps for name in (backbone, f"{backbone}/class")]
    images = StandardizedImages(encoded, statistics, max_bytes=0)
    sizes = [encoded.maps[name.removesuffix("/class")].channels for name in blocks]
    squares = torch.zeros(sum(sizes) + 1, sum(sizes) + 1, dtype=torch.float64)
    products = torch.zeros(sum(sizes) + 1, 3, dtype=torch.float64)
    with progress("images") as bar:
        for index in bar.track(range(len(encoded)), description="Normal probes"):
            maps = [images.features(name, index) for name in encoded.maps]
            tokens = [images.class_token(name, index).expand_as(m) for name, m in zip(encoded.maps, maps, strict=True)]
            parts = [part for pair in zip(maps, tokens, strict=True) for part in pair]
            rows = torch.cat([*parts, torch.ones_like(maps[0][..., :1])], dim=-1).flatten(0, 1)
            sums, share = patch_normals(encoded.images[index].normals(max_depth), *maps[0].shape[:2])
            squares += (rows.T @ (rows * share.reshape(-1, 1))).double()
            products += (rows.T @ sums.reshape(-1, 3)).double()
    offsets = np.cumsum([0, *sizes])
    columns = {
        name: torch.arange(start, start + size) for name, start, size in zip(blocks, offsets, sizes, strict=False)
    }
    found = NormalHeads([arm.backbones for arm in with_class_tokens(arms)], [], [])
    for names in found.blocks:
        used = torch.cat([*(columns[name] for name in names), torch.tensor([sum(sizes)])])
        held = torch.full((len(used),), RIDGE, dtype=torch.float64) * squares[-1, -1]
        held[-1] = 0  # the constant is not held back
        solved = torch.linalg.solve(squares[used][:, used] + held.diag(), products[used]).float()
        weights: dict[str, Tensor] = {}
        for name, part in zip(names, solved[:-1].split([len(columns[name]) for name in names]), strict=True):
            weights[name] = weights.get(name, torch.zeros(())) + part
        found.weights.append(weights)
        found.biases.append(solved[-1])
    return found


def patch_normals(normals: Array, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The normals of an image [H, W, 3] (zero: unknown) as means over its patches, unknown ones counting as zero.

    Returns:
        [height, width, 3], and the share of known pixels [height, width].
    """
    pixels = torch.from_numpy(normals).permute(2, 0, 1)
    known = pixels.square().sum(0, keepdim=True) > 0
    both = F.adaptive_avg_pool2d(torch.cat([pixels, known.to(pixels)]), (height, width)).permute(1, 2, 0)
    return both[..., :3], both[..., 3]


def predict_normals(
    heads: NormalHeads, encoded: EncodedImages, statistics: Mapping[str, Standardization]
) -> Iterator[tuple[int, Array]]:
    """Per image its index and unit normals [arms, H, W, 3] in the camera's frame."""
    images = StandardizedImages(encoded, statistics, max_bytes=0)
    for index, image in enumerate(encoded.images):
        found = []
        for weights, bias in zip(heads.weights, heads.biases, strict=True):
            local = [images.features(name, index) @ w for name, w in weights.items() if not name.endswith("/class")]
            tokens = [
                images.class_token(name.removesuffix("/class"), index) @ w
                for name, w in weights.items()
                if name.endswith("/class")
            ]
            found.append(F.normalize(resize(sum([*local, *tokens], start=bias), *image.size()), dim=-1))
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
