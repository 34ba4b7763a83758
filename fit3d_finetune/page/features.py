"""What the original and the fine-tuned backbone make of one photo."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fit3d_finetune.backbone.geometry import GeometryReader, load_geometry
from fit3d_finetune.backbone.hub import FeatureAssembly, load
from fit3d_ns.common.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Backbones:
    """The two backbones of a fine-tuned folder, and the heads that it kept."""

    assembly: FeatureAssembly
    geometry: GeometryReader | None
    """Its backbone is the assembly's fine-tuned one."""
    no_geometry: str
    """Why there is no depth and no normals, as a sentence; empty if there are."""

    @property
    def patch_size(self) -> int:
        """Pixels."""
        return self.assembly.patch_size


@dataclass(frozen=True, eq=False)
class PhotoFeatures:
    """Both backbones' features of one photo, on one patch grid (h, w), on the CPU."""

    original: Tensor
    """[h, w, C]."""
    finetuned: Tensor
    """[h, w, C]."""
    depth: Array | None
    """[h, w] along the camera's z axis, right up to one factor, as the focal length is not known."""
    normals: Array | None
    """[h, w, 3] unit normals in the camera's frame (x right, y down, z forward)."""

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) patches."""
        return self.original.shape[0], self.original.shape[1]

    @property
    def maps(self) -> tuple[Tensor, Tensor]:
        """Original, fine-tuned."""
        return self.original, self.finetuned


def load_backbones(folder: Path, device: str = "cpu", original_weights: str | None = None) -> Backbones:
    """Both backbones of a folder of fit3d-finetune, with its heads if it has any that can be read.

    Args:
        folder: of the fine-tuned backbone.
        device: where to compute.
        original_weights: where the original's weights are now, if they moved.

    Raises:
        InputError: not such a folder, or the original's weights cannot be had.
    """
    assembly = load(folder, device, original_weights)
    try:
        # Read with a backbone of its own, which is dropped for the one that is there already.
        geometry = replace(load_geometry(folder, device), backbone=assembly.finetuned)
    except InputError as error:
        return Backbones(assembly, None, str(error))
    return Backbones(assembly, geometry, "")


@torch.no_grad()
def see(backbones: Backbones, image: Array) -> PhotoFeatures:
    """Run both backbones on a photo, each once.

    Args:
        backbones: of the fine-tuned folder.
        image: uint8 [H, W, 3].
    """
    device = next(backbones.assembly.parameters()).device
    images = torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float() / 255
    original = backbones.assembly.original(images)
    finetuned, token = backbones.assembly.finetuned.forward_with_class_token(images)
    depth = normals = None
    if (reader := backbones.geometry) is not None:
        # What reader.depth and reader.normals give, without encoding the photo anew for each.
        log_depth, directions = reader.heads(finetuned, token)
        assert log_depth is not None
        assert directions is not None
        depth = (log_depth[0].exp() * reader.typical_depth).cpu().numpy()
        normals = F.normalize(directions[0], dim=-1).cpu().numpy()
    return PhotoFeatures(_patches(original), _patches(finetuned), depth, normals)


def _patches(map: Tensor) -> Tensor:
    """[1, C, h, w] to [h, w, C] on the CPU."""
    return map[0].permute(1, 2, 0).float().cpu().contiguous()
