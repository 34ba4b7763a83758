"""The published depth probe: a 1x1 convolution from upsampled features and a class token to bins of depth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fit3d_finetune.probing.augmentation import padded, size_of
from fit3d_finetune.probing.data.depth_benchmarks import DepthBenchmark
from fit3d_finetune.probing.data.labelled_images import LabelledImage
from fit3d_finetune.probing.depth_loss import binned_depth
from fit3d_finetune.probing.heads import LinearHeads
from fit3d_finetune.probing.paper.batches import Sample, depth_sample, draw_batches
from fit3d_finetune.probing.paper.depth_loss import depth_loss
from fit3d_finetune.probing.paper.encoding import CropEncoder, Encoded
from fit3d_finetune.probing.paper.heads import clip_gradients, convolution_heads
from fit3d_finetune.probing.paper.schedules import depth_momentum, depth_rate, set_rate
from fit3d_finetune.probing.protocol import PaperProtocol
from fit3d_finetune.probing.results import Arm
from fit3d_ns.common.console import progress
from fit3d_ns.features.patch_grid import upsample_to_pixels

Array = np.ndarray[Any, np.dtype[Any]]


def with_first_class_token(arms: Sequence[Arm]) -> list[Arm]:
    """The arms with the class token of their first backbone as one more block of channels, `name/class`.

    In the published assembly that is the original's: 3 x 384 channels for a ViT-S.
    """
    return [Arm(arm.name, (*arm.backbones, f"{arm.backbones[0]}/class")) for arm in arms]


def train_depth(
    encoder: CropEncoder,
    images: Sequence[LabelledImage],
    arms: Sequence[Arm],
    seeds: Sequence[int],
    protocol: PaperProtocol,
    benchmark: DepthBenchmark,
    max_depth: float,
) -> LinearHeads:
    """Train the heads of all arms and seeds in one pass, on the encoder's device; see `train_segmentation`.

    Args:
        encoder: without the final norm.
        images: with depth.
        arms: without class tokens.
        seeds: of the probes; crops are drawn by the first one.
        protocol: schedule and batch size.
        benchmark: crops and colours.
        max_depth: metres, of the last bin. Larger depths count in training, as published.
    """
    with_tokens = with_first_class_token(arms)
    channels = {block: encoder.channels[block.removesuffix("/class")] for block in _blocks_of(with_tokens)}
    heads = convolution_heads(with_tokens, channels, protocol.depth_bins, seeds).to(encoder.device)
    optimizer = torch.optim.AdamW(heads.parameters(), weight_decay=protocol.depth_weight_decay, fused=True)
    iterations = protocol.depth_iterations
    encoder.announce("Depth probes", iterations, protocol.batch, benchmark.crop)

    def draw(index: int, random: np.random.Generator) -> Sample:
        return depth_sample(images[index], benchmark, protocol, random)

    with progress("steps") as bar:
        task = bar.add_task("Depth probes", total=iterations)
        for step, batch in enumerate(draw_batches(draw, len(images), protocol.batch, iterations, seeds[0])):
            rate = depth_rate(step, iterations, protocol.depth_warmup, protocol.depth_lr)
            set_rate(optimizer, rate, depth_momentum(step, iterations))
            optimizer.zero_grad(set_to_none=True)
            # Images smaller than the crop: all as large as the largest of the batch.
            shapes = np.array([sample.truth.shape for sample in batch])
            size = (int(shapes[:, 0].max()), int(shapes[:, 1].max()))
            encoded = encoder([sample.image for sample in batch], size)
            depth = torch.from_numpy(np.stack([padded(sample.truth, size, 0) for sample in batch])).to(encoder.device)
            groups = torch.arange(len(batch)).split(protocol.depth_images_per_loss)
            for place in range(len(seeds)):
                for group in groups:
                    predicted = _predict(heads, _some(encoded, group), place, protocol, max_depth)
                    losses = depth_loss(
                        _resized(predicted, size), depth[group], warming=step < protocol.depth_loss_warmup
                    )
                    (losses.sum() / len(groups)).backward()
            clip_gradients(heads, protocol.depth_gradient_norm)
            optimizer.step()
            bar.advance(task)
    return heads


@torch.no_grad()
def predict_depth(
    encoder: CropEncoder,
    heads: LinearHeads,
    images: Sequence[LabelledImage],
    protocol: PaperProtocol,
    benchmark: DepthBenchmark,
    max_depth: float,
) -> Iterator[tuple[int, Array]]:
    """Per image its index and depth [arms, seeds, H, W] in metres: the mean of the image and its mirror image.

    Zero outside the benchmark's test region.
    """
    arms, seeds = heads.shape
    with progress("images") as bar:
        for index, image in enumerate(bar.track(images, description="Depth, with mirror images")):
            whole = image.image()
            region = benchmark.test_region(*size_of(whole))
            pixels = whole[region]
            encoded = encoder([pixels, pixels[:, ::-1]], size_of(pixels))
            found = np.zeros((arms, seeds, *size_of(whole)), np.float32)
            seen = found[:, :, region[0], region[1]]
            for seed in range(seeds):
                plain, mirrored = _resized(_predict(heads, encoded, seed, protocol, max_depth), size_of(pixels))
                seen[:, seed] = ((plain + mirrored.flip(-1)) / 2).cpu().numpy()
            yield index, found


def _blocks_of(arms: Sequence[Arm]) -> list[str]:
    return list(dict.fromkeys(block for arm in arms for block in arm.backbones))


def _some(encoded: Encoded, indices: Tensor) -> Encoded:
    def select(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value[indices.to(value.device)] for name, value in values.items()}

    return Encoded(select(encoded.maps), select(encoded.class_tokens))


def _predict(heads: LinearHeads, encoded: Encoded, seed: int, protocol: PaperProtocol, max_depth: float) -> Tensor:
    """Depth [h, w, n, arms] at upsampled patches by the heads of one seed (its index)."""
    grid = next(iter(encoded.maps.values())).shape[1:3]
    blocks = {name: map.flatten(1, 2) for name, map in encoded.maps.items()}
    blocks |= {f"{name}/class": token[:, None] for name, token in encoded.class_tokens.items()}
    outputs = heads({name: blocks[name] for name in heads.users}, seed).unflatten(1, grid)
    return binned_depth(outputs, max_depth, protocol.depth_upsampling)


def _resized(depth: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, [h, w, n, arms] to [n, arms, *size]."""
    return upsample_to_pixels(depth.flatten(2), *size).unflatten(2, depth.shape[2:]).permute(2, 3, 0, 1)
