"""The published segmentation probe: BatchNorm and a 1x1 convolution, trained on augmented crops, tested by windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fit3d_finetune.probing.augmentation import Region, fitted_size, resize, size_of
from fit3d_finetune.probing.data.codings import VOID
from fit3d_finetune.probing.data.labelled_images import LabelledImage
from fit3d_finetune.probing.paper.batches import Sample, draw_batches, segmentation_sample
from fit3d_finetune.probing.paper.encoding import CropEncoder
from fit3d_finetune.probing.paper.heads import BatchNormHeads
from fit3d_finetune.probing.paper.schedules import segmentation_rate, set_rate
from fit3d_finetune.probing.protocol import PaperProtocol
from fit3d_finetune.probing.results import Arm
from fit3d_ns.common.console import progress
from fit3d_ns.features.patch_grid import upsample_to_pixels

Array = np.ndarray[Any, np.dtype[Any]]


def train_segmentation(
    encoder: CropEncoder,
    images: Sequence[LabelledImage],
    arms: Sequence[Arm],
    num_classes: int,
    seeds: Sequence[int],
    protocol: PaperProtocol,
) -> BatchNormHeads:
    """Train the heads of all arms and seeds in one pass, on the encoder's device.

    All see the same crops, drawn by the first seed; a seed decides its heads' start. So the spread over the seeds of
    one run is that of the start, and crops vary between runs.

    Args:
        encoder: with the final norm.
        images: labelled.
        arms: what to concatenate.
        num_classes: K.
        seeds: of the probes.
        protocol: crops, schedule and batch size.
    """
    heads = BatchNormHeads(arms, encoder.channels, num_classes, seeds).to(encoder.device).train()
    decay = protocol.segmentation_weight_decay
    optimizer = torch.optim.AdamW(heads.parameters(), weight_decay=decay, fused=True)
    size = (protocol.segmentation_crop, protocol.segmentation_crop)
    iterations = protocol.segmentation_iterations
    encoder.announce("Segmentation probes", iterations, protocol.batch, size)

    def draw(index: int, random: np.random.Generator) -> Sample:
        return segmentation_sample(images[index], num_classes, protocol, random)

    with progress("steps") as bar:
        task = bar.add_task("Segmentation probes", total=iterations)
        for step, batch in enumerate(draw_batches(draw, len(images), protocol.batch, iterations, seeds[0])):
            rate = segmentation_rate(step, iterations, protocol.segmentation_warmup, protocol.segmentation_lr)
            set_rate(optimizer, rate)
            optimizer.zero_grad(set_to_none=True)
            maps = encoder([sample.image for sample in batch], size).maps
            labels = torch.from_numpy(np.stack([sample.truth for sample in batch])).long().to(encoder.device)
            grid = next(iter(maps.values())).shape[1:3]
            blocks = heads.normalize({name: map.flatten(1, 2) for name, map in maps.items()})
            for place in range(len(seeds)):
                backward(heads(blocks, place).unflatten(1, grid), labels)
            optimizer.step()
            bar.advance(task)
    return heads.eval()


def backward(logits: Tensor, labels: Tensor) -> float:
    """Add the gradients of the cross entropy, summed over arms, of upsampled logits; gives the loss.

    The mean goes over all pixels, those without a label included, where the loss is zero: mmsegmentation's default.
    One image and arm at a time: upsampled logits of all would be the largest tensors by far.

    Args:
        logits: [n, h, w, arms, K].
        labels: [n, H, W] int64.
    """
    leaf = logits.detach().requires_grad_()
    total = 0.0
    for image, truth in zip(leaf, labels, strict=True):
        for arm in image.unbind(2):
            upsampled = upsample_to_pixels(arm, *truth.shape).flatten(0, 1)
            loss = F.cross_entropy(upsampled, truth.flatten(), ignore_index=VOID, reduction="sum") / labels.numel()
            loss.backward()
            total += loss.item()
    logits.backward(leaf.grad)
    return total


def sliding_windows(height: int, width: int, crop: int, stride: int) -> list[Region]:
    """Windows that cover an image; the last of a row or column ends at the border.

    Where the image is smaller than the crop, so is the window.
    """
    starts = [
        dict.fromkeys(min(start, max(side - crop, 0)) for start in range(0, max(side - crop, 0) + stride, stride))
        for side in (height, width)
    ]
    return [
        (slice(top, min(top + crop, height)), slice(left, min(left + crop, width)))
        for top in starts[0]
        for left in starts[1]
    ]


@torch.no_grad()
def predict_segmentation(
    encoder: CropEncoder, heads: BatchNormHeads, images: Sequence[LabelledImage], protocol: PaperProtocol
) -> Iterator[tuple[int, list[list[Array]]]]:
    """Per image its index and the predicted classes [arms][seeds] of [H, W].

    The image is resized, logits are averaged over the windows that show a pixel, and resized to the image's own size.
    """
    arms, seeds = heads.shape
    with progress("images") as bar:
        for index, image in enumerate(bar.track(images, description="Segmentation, sliding windows")):
            pixels = image.image()
            height, width = fitted_size(size_of(pixels), protocol.segmentation_sides)
            pixels = resize(pixels, (height, width))
            windows = sliding_windows(height, width, protocol.segmentation_crop, protocol.segmentation_stride)
            maps = encoder([pixels[window] for window in windows], size_of(pixels[windows[0]])).maps
            grid = next(iter(maps.values())).shape[1:3]
            blocks = heads.normalize({name: map.flatten(1, 2) for name, map in maps.items()})
            logits = [heads(blocks, seed).unflatten(1, grid) for seed in range(seeds)]
            yield (
                index,
                [
                    [
                        _merged(logits[seed][..., arm, :], windows, (height, width), image.size())
                        for seed in range(seeds)
                    ]
                    for arm in range(arms)
                ],
            )


def _merged(logits: Tensor, windows: Sequence[Region], seen: tuple[int, int], size: tuple[int, int]) -> Array:
    """Classes [*size] of logits [windows, h, w, K] of windows of an image that was resized to `seen`."""
    total = logits.new_zeros(*seen, logits.shape[-1])
    count = logits.new_zeros(*seen, 1)
    for window, values in zip(windows, logits, strict=True):
        part = total[window]
        part += upsample_to_pixels(values, *part.shape[:2])
        count[window] += 1
    return np.asarray(upsample_to_pixels(total / count, *size).argmax(-1).cpu())
