"""Crops to features, on the fly: padded to whole patches instead of resized, every backbone in memory."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fit3d_ns.common.console import logger
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.backbone import Backbone, BackboneConfig, load_backbone

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Encoded:
    """Features of n crops of one size, by backbone."""

    maps: dict[str, Tensor]
    """[n, h, w, C] float32."""
    class_tokens: dict[str, Tensor]
    """[n, C] float32."""


class CropEncoder:
    """The backbones of a comparison, to encode batches of crops with.

    Args:
        backbones: by name.
        device: where they compute, and where features stay.
        final_norm: whether tokens pass the model's final norm, as the published segmentation has it and depth has not.
    """

    def __init__(
        self, backbones: Mapping[str, BackboneConfig], device: torch.device | str = "cpu", *, final_norm: bool
    ) -> None:
        self.device, self.final_norm = torch.device(device), final_norm
        self.backbones = {name: load_backbone(config, device) for name, config in backbones.items()}

    @property
    def channels(self) -> dict[str, int]:
        """C by backbone."""
        return {name: backbone.embed_dim for name, backbone in self.backbones.items()}

    @torch.no_grad()
    def __call__(self, crops: Sequence[Array], size: tuple[int, int]) -> Encoded:
        """Features of crops [H, W, 3] in 0..255, each at most as large as `size` (height, width).

        Smaller crops are continued to the right and below, and all around to a multiple of the patch size, with what
        is zero after normalisation.

        Raises:
            InputError: a backbone gives NaN or infinite features.
        """
        maps, tokens = {}, {}
        for name, backbone in self.backbones.items():
            images = torch.stack([_normalised(crop, backbone, size, self.device) for crop in crops])
            patches, token = self._encode(backbone, pad_to_patches(images, backbone.patch_size))
            if not (patches.isfinite().all() and token.isfinite().all()):
                raise InputError(
                    f"The backbone ({backbone.description}, layer {backbone.layer}) gives NaN or infinite features: "
                    "its weights are broken, or backbone.precision is too low for it (try fp32)."
                )
            maps[name], tokens[name] = patches.permute(0, 2, 3, 1), token
        return Encoded(maps, tokens)

    def announce(self, what: str, iterations: int, batch: int, size: tuple[int, int]) -> None:
        """Log what training will cost, measured on one crop."""
        blank = [np.zeros((*size, 3), np.uint8)]
        self(blank, size)  # the first one is slower
        start = time.perf_counter()
        self(blank, size)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        logger.info(
            "%s, paper protocol: %s iterations of %d crops of %dx%d, encoded anew by %d %s in %.2g s each here: about "
            "%s for the encoding alone (--iterations shortens it, --protocol fast needs minutes)",
            *(what, f"{iterations:,}", batch, size[1], size[0], len(self.backbones)),
            "backbone" if len(self.backbones) == 1 else "backbones",
            *(seconds, _duration(seconds * batch * iterations)),
        )

    def _encode(self, backbone: Backbone, images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=backbone.config.precision == "bf16"):
            [out] = backbone.model.forward_intermediates(  # type: ignore[operator]
                images,
                indices=[backbone.layer],
                return_prefix_tokens=True,
                norm=self.final_norm,
                stop_early=True,
                output_fmt="NCHW",
                intermediates_only=True,
            )
        patches = (out[0] if isinstance(out, tuple) else out).float()
        if getattr(backbone.model, "cls_token", None) is None:
            return patches, patches.mean(dim=(2, 3))
        return patches, out[1][:, 0].float()


def pad_to_patches(images: Tensor, patch_size: int) -> Tensor:
    """Images [n, 3, H, W] with zeros around them so that both sides are multiples of the patch size.

    Half of the zeros lie on either side; an odd one lies below or to the right.
    """
    missing = [-side % patch_size for side in images.shape[-2:]]
    (top, left), (bottom, right) = zip(*((count // 2, count - count // 2) for count in missing), strict=True)
    return F.pad(images, (left, right, top, bottom))


def _normalised(crop: Array, backbone: Backbone, size: tuple[int, int], device: torch.device) -> Tensor:
    """[3, *size] float32 on the device."""
    image = torch.from_numpy(np.ascontiguousarray(crop)).to(device).permute(2, 0, 1).float() / 255
    mean, std = (image.new_tensor(value)[:, None, None] for value in (backbone.mean, backbone.std))
    height, width = image.shape[-2:]
    return F.pad((image - mean) / std, (0, size[1] - width, 0, size[0] - height))


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
