"""Training of the fast protocol's heads on whole images with their class tokens, for what is known at every pixel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fit3d_finetune.probing.data.encoding import EncodedImages, Standardization, StandardizedImages
from fit3d_finetune.probing.heads import LinearHeads
from fit3d_finetune.probing.protocol import FastProtocol, learning_rate
from fit3d_finetune.probing.results import Arm
from fit3d_ns.common.console import progress
from fit3d_ns.features.patch_grid import upsample_to_pixels

STRIDE = 4
"""Training looks at every so many-th pixel of the truth: the prediction is far smoother than that."""
CACHED_TRUTHS = 4096

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs [n, h, w, arms, K], truths [n, ...]) of images of one size to the sum of their losses over all heads."""


def thinned(height: int, width: int) -> tuple[slice, slice]:
    """The pixels that training looks at, in the middle of their squares."""
    return slice(STRIDE // 2, height, STRIDE), slice(STRIDE // 2, width, STRIDE)


def with_class_tokens(arms: Sequence[Arm]) -> list[Arm]:
    """The arms with each backbone's class token as one more block of channels, `name/class`."""
    return [Arm(arm.name, (*arm.backbones, *(f"{name}/class" for name in arm.backbones))) for arm in arms]


def train_on_whole_images(
    encoded: EncodedImages,
    statistics: Mapping[str, Standardization],
    arms: Sequence[Arm],
    seeds: Sequence[int],
    outputs: int,
    protocol: FastProtocol,
    truth: Callable[[int], Tensor],
    loss: Loss,
    description: str,
    class_tokens: bool = True,
    device: torch.device | str = "cpu",
) -> LinearHeads:
    """Train the heads of all arms and seeds in one pass over whole images; see `train_segmentation`.

    Args:
        encoded: images of which the truth is known.
        statistics: of features and class tokens.
        arms: without class tokens.
        seeds: of the probes.
        outputs: K.
        protocol: schedule and batch sizes (those of depth).
        truth: of an image by its index, thinned.
        loss: of what the heads say.
        description: for the progress bar.
        class_tokens: whether heads read them too.
        device: where they are trained, and stay.
    """
    channels = {name: maps.channels for name, maps in encoded.maps.items()}
    if class_tokens:
        channels |= {f"{name}/class": count for name, count in channels.items()}
    heads = LinearHeads(with_class_tokens(arms) if class_tokens else arms, channels, outputs, seeds)
    heads = heads.to(device)
    optimizer = torch.optim.AdamW(heads.parameters(), weight_decay=protocol.weight_decay, fused=True)
    images = StandardizedImages(encoded, statistics, device=device)
    with progress("steps") as bar:
        task = bar.add_task(description, total=protocol.depth_iterations)
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
                    truths = torch.stack([truth(index) for index in indices]).to(device)
                    (loss(head_outputs(heads, images, indices, place), truths) / protocol.depth_images).backward()
            optimizer.step()
            bar.advance(task)
    return heads


def head_outputs(heads: LinearHeads, images: StandardizedImages, indices: Sequence[int], seed: int) -> Tensor:
    """What the heads of one seed (its index) say of n images of one size: [n, h, w, arms, K]."""
    blocks: dict[str, Tensor] = {}
    for name in images.backbones:
        maps = torch.stack([images.features(name, index) for index in indices])
        grid = maps.shape[1:3]
        blocks[name] = maps.flatten(1, 2)
        if f"{name}/class" in heads.users:
            blocks[f"{name}/class"] = torch.stack([images.class_token(name, index) for index in indices])[:, None]
    return heads(blocks, seed).unflatten(1, grid)


def resize(values: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, [h, w, ...] to [height, width, ...]."""
    return upsample_to_pixels(values.flatten(2), height, width).unflatten(2, values.shape[2:])
