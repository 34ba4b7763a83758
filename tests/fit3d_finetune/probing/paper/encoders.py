"""An encoder that needs no backbone: what a patch looks like, and noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from fit3d_finetune.probing.paper.encoding import Encoded, pad_to_patches

PATCH = 8


class ColourEncoder:
    """Stands in for CropEncoder. "colour": mean colours of each patch and their squares; "noise": nothing."""

    device = torch.device("cpu")
    channels = {"colour": 6, "noise": 6}  # noqa: RUF012 (read only)

    def __init__(self) -> None:
        self.random = torch.Generator().manual_seed(0)
        self.sizes: list[tuple[int, int]] = []
        self.announced: list[tuple[str, int, int, tuple[int, int]]] = []

    def announce(self, what: str, iterations: int, batch: int, size: tuple[int, int]) -> None:
        self.announced.append((what, iterations, batch, size))

    def __call__(self, crops: Sequence[np.ndarray], size: tuple[int, int]) -> Encoded:
        self.sizes.append(size)
        images = torch.zeros(len(crops), 3, *size)
        for image, crop in zip(images, crops, strict=True):
            pixels = torch.from_numpy(np.ascontiguousarray(crop)).permute(2, 0, 1).float() / 255 - 0.5
            image[:, : pixels.shape[1], : pixels.shape[2]] = pixels
        pooled = F.avg_pool2d(pad_to_patches(images, PATCH), PATCH).permute(0, 2, 3, 1)
        colour = torch.cat([pooled, pooled.square()], dim=-1)
        maps = {"colour": colour, "noise": torch.randn(colour.shape, generator=self.random)}
        return Encoded(maps, {name: map.mean((1, 2)) for name, map in maps.items()})
