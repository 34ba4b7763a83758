"""Linear heads that read depth and surface normals from a backbone's tokens: to teach it both, and to ask for both."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fit3d_finetune.backbone.hub import read_finetuned
from fit3d_ns.common.atomic import atomic_file
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.json_input import parse_json
from fit3d_ns.features.backbone import Backbone, load_backbone

HEADS_FILE = "heads.safetensors"
FORMAT_VERSION = 1


class GeometryHeads(nn.Module):
    """Depth from [patch token, class token], normals from the patch token; linear, zero at the start.

    At zero neither pulls the backbone anywhere: the first step moves the heads alone.

    Args:
        embed_dim: channels of the backbone.
        depth, normals: which heads there are.
    """

    def __init__(self, embed_dim: int, depth: bool, normals: bool) -> None:
        super().__init__()
        self.depth = nn.Linear(2 * embed_dim, 1) if depth else None
        self.normals = nn.Linear(embed_dim, 3) if normals else None
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, maps: Tensor, tokens: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Log canonical depth [B, h, w] and normals [B, h, w, 3] (of any length).

        Args:
            maps: features [B, C, h, w].
            tokens: class tokens [B, C].
        """
        patches = maps.permute(0, 2, 3, 1)
        if self.depth is None:
            return None, None if self.normals is None else self.normals(patches)
        local, whole = self.depth.weight.split(patches.shape[-1], dim=1)
        # What is the same for all patches of an image meets the bias before it meets them.
        of_image = F.linear(tokens, whole, self.depth.bias)[:, None]
        if self.normals is None:
            return F.linear(patches, local)[..., 0] + of_image, None
        # One product for both: their few outputs cost what reading the patches costs.
        both = F.linear(patches, torch.cat([local, self.normals.weight]))
        return both[..., 0] + of_image, both[..., 1:] + self.normals.bias


@dataclass(frozen=True, eq=False)
class GeometryReader:
    """A fine-tuned backbone with the heads that it kept: depth and normals of any image."""

    backbone: Backbone
    heads: GeometryHeads
    typical_depth: float
    """Typical depth of the training scenes for a focal length of one image height, in their unit."""

    @torch.no_grad()
    def depth(self, images: Tensor, focal: float | None = None) -> Tensor:
        """Depth [B, h, w] along the camera's z axis, on the patch grid.

        Args:
            images: [B, 3, H, W] in 0..1.
            focal: focal length in pixels of `images`. None: unknown; depths are then right up to one factor an image.

        Returns:
            in the unit of the training scenes, if they had one in common (as captures in metres do); else up to scale.
        """
        log_depth, _ = self.heads(*self._tokens(images))
        assert log_depth is not None
        lens = 1.0 if focal is None else focal / images.shape[-2]
        return log_depth.exp() * (self.typical_depth * lens)

    @torch.no_grad()
    def normals(self, images: Tensor) -> Tensor:
        """Unit normals [B, h, w, 3] in the camera's frame (x right, y down, z forward), on the patch grid."""
        _, normals = self.heads(*self._tokens(images))
        assert normals is not None
        return F.normalize(normals, dim=-1)

    def _tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.backbone.forward_with_class_token(images.to(next(self.backbone.parameters()).device))


def save_heads(heads: GeometryHeads, typical_depth: float, folder: Path) -> None:
    """Write heads.safetensors into a fine-tuned folder, atomically."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in heads.state_dict().items()}
    metadata = {"fit3d": json.dumps({"format_version": FORMAT_VERSION, "typical_depth": typical_depth})}
    with atomic_file(folder / HEADS_FILE) as temporary:
        save_file(tensors, temporary, metadata)


def load_geometry(folder: Path | str, device: torch.device | str = "cpu") -> GeometryReader:
    """The backbone and heads of a folder of fit3d-finetune --keep-heads.

    Raises:
        InputError: not such a folder, or its heads cannot be read.
    """
    folder = Path(folder)
    described = read_finetuned(folder)
    path = folder / HEADS_FILE
    if not path.is_file():
        raise InputError(f"{folder} holds no heads of depth and normals: fine-tune with --keep-heads.")
    try:
        with safe_open(path, framework="pt") as file:
            info = parse_json(file.metadata()["fit3d"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if info["format_version"] != FORMAT_VERSION:
            raise InputError(f"{path} has version {info['format_version']}, this program reads {FORMAT_VERSION}.")
        typical = float(info["typical_depth"])
        if not (math.isfinite(typical) and typical > 0):
            raise ValueError(f"a typical depth of {typical}")
        backbone = load_backbone(described.finetuned, device)
        heads = GeometryHeads(backbone.embed_dim, depth=True, normals=True)
        heads.load_state_dict(tensors)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{path} is damaged ({' '.join(str(error).split())}): fine-tune again.") from error
    return GeometryReader(backbone, heads.to(device).eval(), typical)


def predict_depth(
    folder: Path | str, images: Tensor, focal: float | None = None, device: torch.device | str = "cpu"
) -> Tensor:
    """Depth [B, h, w] of images [B, 3, H, W] in 0..1 by a folder of fit3d-finetune --keep-heads; see `GeometryReader`.

    For many images load once: `load_geometry`.
    """
    return load_geometry(folder, device).depth(images, focal)
