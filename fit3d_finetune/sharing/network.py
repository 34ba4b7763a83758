"""What is handed to other runtimes: images of whole patches in, feature maps out, of any number and size."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from fit3d_finetune.backbone.extract import Extractor
from fit3d_finetune.backbone.hub import Finetuned
from fit3d_ns.common.choices import FeatureChoice
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.backbone import Backbone

TRACED = (2, 8, 10)
"""Images, and rows and columns of patches, of the batch that is traced: no two alike, lest they be taken for one."""


class PatchFeatures(nn.Module):
    """One backbone or two in a row, up to their feature layers, as plain tensor arithmetic in float32.

    Resizing is left to the caller: sides must be multiples of `patch_size`. There the maps are those of the extractor.
    """

    def __init__(self, extractor: Extractor) -> None:
        super().__init__()
        backbones = [extractor] if isinstance(extractor, Backbone) else [extractor.original, extractor.finetuned]
        self.patch_size = extractor.patch_size
        self.embed_dim = extractor.embed_dim
        self.layers = tuple(backbone.layer for backbone in backbones)
        self.identities = tuple(backbone.identity for backbone in backbones)
        self.models = nn.ModuleList(_up_to_layer(backbone) for backbone in backbones)
        for name in ("mean", "std"):
            values = torch.tensor([getattr(backbone, name) for backbone in backbones])
            self.register_buffer(name, values[:, None, :, None, None].to(next(extractor.parameters()).device))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in 0..1, H and W multiples of the patch size -> maps [B, C, h, w], or [B, 2 C, h, w]."""
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        maps = []
        for i, (model, layer) in enumerate(zip(self.models, self.layers, strict=True)):
            [patches] = model.forward_intermediates(  # type: ignore[operator]
                (images - mean[i]) / std[i], indices=[layer], norm=True, output_fmt="NCHW", intermediates_only=True
            )
            maps.append(patches)
        return maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)

    def weight_bytes(self) -> int:
        """Of all parameters and buffers."""
        return sum(t.numel() * t.element_size() for t in (*self.parameters(), *self.buffers()))


def _up_to_layer(backbone: Backbone) -> nn.Module:
    """A copy without the blocks after the feature layer, which would travel for nothing."""
    model: Any = copy.deepcopy(backbone.model)
    model.blocks = model.blocks[: backbone.layer + 1]
    return model.float().requires_grad_(False)


def describe(network: PatchFeatures, features: FeatureChoice, described: Finetuned) -> dict[str, Any]:
    """What a file says of the network in it: no paths of this machine."""
    return {
        "features": features,
        "name": described.original.name,
        "layer": network.layers[0],
        "patch_size": network.patch_size,
        "channels": network.embed_dim,
        "input": "images [B, 3, H, W], RGB in 0..1; H and W multiples of patch_size; mean and std are inside",
        "output": "maps [B, channels, H / patch_size, W / patch_size]",
        "weights_sha256": [identity.weights_sha256 for identity in network.identities],
        "original_sha256": described.original_sha256,
    }


def trace(network: PatchFeatures) -> ExportedProgram:
    """The network as a program for any number of images of any height and width.

    Raises:
        InputError: torch cannot trace this architecture for all sizes at once.
    """
    count, rows, columns = TRACED
    weight = next(network.parameters())
    images = torch.rand(count, 3, rows * network.patch_size, columns * network.patch_size).to(weight.device)
    sizes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    try:
        with torch.no_grad():
            return torch.export.export(network, (images,), dynamic_shapes=(sizes,), strict=False)
    except Exception as error:  # torch.export fails in as many ways as there are networks
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{network.identities[0].architecture} cannot be traced for images of any size by torch "
            f"{torch.__version__} ({reason}): share the folder itself."
        ) from error
