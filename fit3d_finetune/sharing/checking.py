"""Whether a file of another runtime gives what torch gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_finetune.sharing.network import PatchFeatures
from fit3d_ns.common.errors import InputError

CHECKED = ((1, 24, 32), (3, 11, 7))
"""Images, and rows and columns of patches, of the batches that are compared: not those that were traced."""
TOLERANCE = 1e-3
"""Largest difference of any feature; features are of the order of 1, the largest of a ViT-S some tens."""


@dataclass(frozen=True)
class Agreement:
    """How far a file's maps are from torch's."""

    difference: float
    """The largest of any feature, image and size."""
    magnitude: float
    """The largest feature, to compare it with."""
    sizes: tuple[tuple[int, int, int], ...]
    """Images, height and width in pixels of the batches that were compared."""

    def __str__(self) -> str:
        sizes = " and ".join(f"{count} x {height} x {width}" for count, height, width in self.sizes)
        return f"largest difference {self.difference:.1e} of features up to {self.magnitude:.1f}, images of {sizes}"


@torch.no_grad()
def require_agreement(network: PatchFeatures, compute: Callable[[Tensor], Tensor], what: str) -> Agreement:
    """Compare random images' maps at two sizes.

    Args:
        network: what was written, in torch.
        compute: what was read back: images [B, 3, H, W] to maps.
        what: names it in an error.

    Raises:
        InputError: they differ by more than `TOLERANCE`, or in shape.
    """
    random = torch.Generator().manual_seed(0)
    difference, magnitude, sizes = 0.0, 0.0, []
    device = next(network.parameters()).device
    for count, rows, columns in CHECKED:
        size = (count, rows * network.patch_size, columns * network.patch_size)
        images = torch.rand(count, 3, *size[1:], generator=random)
        expected = network(images.to(device)).cpu()
        found = compute(images).cpu()
        if found.shape != expected.shape:
            raise InputError(f"{what} gives maps {list(found.shape)} for torch's {list(expected.shape)}: {_REMEDY}.")
        # NaN must not pass: it compares as false.
        difference = max(difference, float((found - expected).abs().nan_to_num(nan=float("inf")).max()))
        magnitude = max(magnitude, float(expected.abs().max()))
        sizes.append(size)
    if not difference <= TOLERANCE:
        raise InputError(
            f"{what} differs from torch by up to {difference:.1e}, more than {TOLERANCE:g}, and is not kept: {_REMEDY}."
        )
    return Agreement(difference, magnitude, tuple(sizes))


_REMEDY = "try another version of torch, or share the folder itself"
