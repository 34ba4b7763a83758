"""A fine-tuned folder of a ViT that takes milliseconds, made without training, and photos for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fit3d_finetune.backbone.geometry import GeometryHeads, save_heads
from fit3d_finetune.backbone.hub import save_finetuned
from fit3d_ns.features.backbone import load_backbone
from tests.fit3d_finetune.scenes import BACKBONE


def write_folder(folder: Path, heads: bool = True) -> Path:
    """The original's random weights a little moved, and heads that say something of every patch."""
    backbone, random = load_backbone(BACKBONE), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter += 0.3 * parameter.std(correction=0) * torch.randn(parameter.shape, generator=random)
    save_finetuned(backbone, folder, summary={}, card="")
    if heads:
        geometry = GeometryHeads(backbone.embed_dim, depth=True, normals=True)
        for parameter in geometry.parameters():
            torch.nn.init.normal_(parameter, std=0.1, generator=random)
        save_heads(geometry, 2.5, folder)
    return folder


def write_photo(path: Path, width: int, height: int, seed: int = 0) -> Path:
    """Smooth colours, another in every place."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path
