"""Linear probe for depth: patch features with the class token, linear to bins of depth, expectation over the bins.

After DINOv2's and FiT3D's probe: uniform bins, linear normalisation of the rectified outputs, the scale-invariant
logarithmic loss with weight 1 and a gradient loss with weight 0.5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fit3d_finetune.probing.encoding import EncodedWindows, Standardization
from fit3d_finetune.probing.heads import LinearHeads
from fit3d_finetune.probing.metrics import DEPTH_METRICS, depth_metrics
from fit3d_finetune.probing.protocol import Protocol, learning_rate
from fit3d_finetune.probing.results import Arm, DepthResult
from fit3d_ns.console import progress
from fit3d_ns.patch_grid import upsample_to_pixels

Array = np.ndarray[Any, np.dtype[Any]]

MIN_DEPTH = 1e-3
GRADIENT_WEIGHT = 0.5
GRADIENT_SCALES = 4
# Training looks at every so many-th pixel of the truth: the prediction is far smoother than that.
_STRIDE = 4
_CACHED_DEPTHS = 256


def with_class_tokens(arms: Sequence[Arm]) -> list[Arm]:
    """The arms with each backbone's class token as one more block of channels, `name/class`."""
    return [Arm(arm.name, (*arm.backbones, *(f"{name}/class" for name in arm.backbones))) for arm in arms]


def bins_to_depth(outputs: Tensor, max_depth: float) -> Tensor:
    """Outputs [..., K] to depths [...] in metres: the mean of K uniform bins, weighted by relu(output) + 0.1."""
    bins = torch.linspace(MIN_DEPTH, max_depth, outputs.shape[-1], device=outputs.device)
    weights = F.relu(outputs) + 0.1
    return (weights @ bins) / weights.sum(-1)


def silog_loss(predicted: Tensor, depth: Tensor, known: Tensor) -> Tensor:
    """Scale-invariant logarithmic loss over the last two axes (Eigen et al., 2014, with a variance weight of 0.85).

    sqrt(mean(g^2) - 0.85 mean(g)^2) with g = log predicted - log depth; zero where nothing is known.

    Args:
        predicted: [..., H, W], positive.
        depth: broadcasts against it.
        known: bool, like depth.
    """
    difference = torch.where(known, predicted.clamp_min(MIN_DEPTH).log() - depth.clamp_min(MIN_DEPTH).log(), 0.0)
    count = known.sum((-2, -1)).clamp_min(1)
    mean, square = difference.sum((-2, -1)) / count, difference.square().sum((-2, -1)) / count
    return (square - 0.85 * mean.square()).clamp_min(1e-8).sqrt()


def gradient_loss(predicted: Tensor, depth: Tensor, known: Tensor) -> Tensor:
    """Mean absolute gradient of the logarithmic difference, summed over four scales (as MiDaS); like `silog_loss`."""
    difference = predicted.clamp_min(MIN_DEPTH).log() - depth.clamp_min(MIN_DEPTH).log()
    total = predicted.new_zeros(predicted.shape[:-2])
    for scale in range(GRADIENT_SCALES):
        g, k = difference[..., :: 2**scale, :: 2**scale], known[..., :: 2**scale, :: 2**scale]
        count = k.sum((-2, -1)).clamp_min(1)
        for axis in (-1, -2):
            both = k.narrow(axis, 1, k.shape[axis] - 1) & k.narrow(axis, 0, k.shape[axis] - 1)
            total = total + torch.where(both, g.diff(dim=axis).abs(), 0.0).sum((-2, -1)) / count
    return total


def train_depth(
    encoded: EncodedWindows,
    statistics: Mapping[str, Standardization],
    arms: Sequence[Arm],
    seeds: Sequence[int],
    protocol: Protocol,
    max_depth: float,
) -> LinearHeads:
    """Train the heads of all arms and seeds in one pass over whole images; see `train_segmentation`.

    Args:
        encoded: whole images with depth, all windows without a box.
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
        window = encoded.windows[index]
        values = torch.from_numpy(
            encoded.images[window.image].depth()[_STRIDE // 2 :: _STRIDE, _STRIDE // 2 :: _STRIDE].copy()
        )
        return values.flip(-1) if window.mirrored else values

    with progress("steps") as bar:
        task = bar.add_task("Depth probes", total=protocol.depth_iterations)
        for step in range(protocol.depth_iterations):
            lr = learning_rate(step, protocol.depth_iterations, protocol.depth_warmup, protocol.depth_lr)
            for group in optimizer.param_groups:
                group["lr"] = lr
            draws = [np.random.default_rng([seed, step]) for seed in seeds]
            chosen = [draw.integers(0, len(encoded), protocol.depth_images).tolist() for draw in draws]
            optimizer.zero_grad(set_to_none=True)
            # Image by image (one per seed): images may differ in size.
            for indices in zip(*chosen, strict=True):
                predicted = _predict(heads, encoded, statistics, indices, protocol.depth_upsampling, max_depth)
                losses = []
                for s, index in enumerate(indices):
                    depth = truth(index)
                    known = (depth > 0) & (depth <= max_depth)
                    upsampled = _resize(predicted[s], depth.shape[0], depth.shape[1])
                    loss = silog_loss(upsampled, depth, known) + GRADIENT_WEIGHT * gradient_loss(
                        upsampled, depth, known
                    )
                    losses.append(loss.sum())
                (torch.stack(losses).sum() / protocol.depth_images).backward()
            optimizer.step()
            bar.advance(task)
    return heads


def _predict(
    heads: LinearHeads,
    encoded: EncodedWindows,
    statistics: Mapping[str, Standardization],
    indices: Sequence[int],
    upsampling: int,
    max_depth: float,
) -> list[Tensor]:
    """Depth [arms, h, w] of one window per seed (or of one for all: then one list entry [arms * seeds, h, w])."""
    per_window = []
    for s, index in enumerate(indices):
        blocks: dict[str, Tensor] = {}
        for name in encoded.maps:
            features = statistics[name](encoded.features(name, index))
            grid = (features.shape[0], features.shape[1])
            blocks[name] = features.flatten(0, 1)[None]
            blocks[f"{name}/class"] = statistics[f"{name}/class"](encoded.class_token(name, index))[None, None]
        outputs = heads(blocks) if len(indices) == 1 else heads.one_seed(blocks, s)
        # The published head upsamples its features. A linear layer and bilinear interpolation commute, and here the
        # layer goes first: it then meets 1 / upsampling^2 of the places.
        outputs = _upsampled(outputs.unflatten(2, grid), upsampling)
        per_window.append(bins_to_depth(outputs, max_depth).flatten(0, 1))
    return per_window


def _upsampled(outputs: Tensor, factor: int) -> Tensor:
    """[arms, seeds, h, w, K] to [arms, seeds, factor * h, factor * w, K], bilinearly."""
    if factor == 1:
        return outputs
    arms, seeds, h, w, K = outputs.shape
    maps = upsample_to_pixels(outputs.permute(2, 3, 0, 1, 4).reshape(h, w, -1), h * factor, w * factor)
    return maps.unflatten(-1, (arms, seeds, K)).permute(2, 3, 0, 1, 4)


@torch.no_grad()
def predict_depth(
    heads: LinearHeads,
    encoded: EncodedWindows,
    statistics: Mapping[str, Standardization],
    upsampling: int,
    max_depth: float,
) -> Iterator[tuple[int, Array]]:
    """Per image its index and depth [arms, seeds, H, W] in metres, averaged over its windows (itself, mirrored)."""
    by_image: dict[int, list[int]] = {}
    for index, window in enumerate(encoded.windows):
        by_image.setdefault(window.image, []).append(index)
    for image, indices in by_image.items():
        height, width = encoded.images[image].size()
        total = torch.zeros(heads.shape[0] * heads.shape[1], height, width)
        for index in indices:
            [depth] = _predict(heads, encoded, statistics, [index], upsampling, max_depth)
            depth = depth.flip(-1) if encoded.windows[index].mirrored else depth
            total += _resize(depth, height, width)
        yield image, (total / len(indices)).unflatten(0, heads.shape).numpy()


def _resize(depth: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, [n, h, w] to [n, height, width]."""
    return F.interpolate(depth[None], (height, width), mode="bilinear", align_corners=False)[0]


class DepthScores:
    """Metrics of all heads, filled image by image."""

    def __init__(self, arms: Sequence[Arm], seeds: Sequence[int], max_depth: float) -> None:
        self.arms, self.max_depth = arms, max_depth
        self.values: list[list[list[dict[str, float]]]] = [[[] for _ in seeds] for _ in arms]

    def add(self, depth: Array, predicted: Array) -> None:
        """Count one image: depth [H, W], predictions [arms, seeds, H, W]."""
        for a, of_arm in enumerate(predicted):
            for s, values in enumerate(of_arm):
                self.values[a][s].append(depth_metrics(depth, values, self.max_depth))

    def results(self) -> dict[str, DepthResult]:
        """By arm name: means over images, per seed."""
        found = {}
        for arm, by_seed in zip(self.arms, self.values, strict=True):
            means = {
                name: [float(np.nanmean([image[name] for image in images])) for images in by_seed]
                for name in DEPTH_METRICS
            }
            per_image = [[image["rmse"] for image in images] for images in by_seed]
            found[arm.name] = DepthResult(**means, rmse_per_image=per_image)
        return found
