"""Which timm models can be a backbone, and what their architecture alone tells about them."""

from __future__ import annotations

import difflib
import json
import re
from functools import lru_cache

import timm
import torch

from fit3d_ns.common.errors import InputError


@lru_cache(maxsize=32)
def skeleton(architecture: str, model_args: str) -> tuple[int, int, int]:
    """Patch size, channels and number of blocks, from the model built without memory for weights."""
    arguments = {**json.loads(model_args), "num_classes": 0, "dynamic_img_size": True}
    try:
        with torch.device("meta"):
            model = timm.create_model(architecture, pretrained=False, **arguments)
        patch_height, patch_width = model.patch_embed.patch_size
        blocks = len(model.blocks)
        # Swin and its kin have patches too but merge them, hybrids have a convolutional stem: only a
        # plain ViT keeps one grid, of pixels / patch size, throughout.
        plain = hasattr(model, "num_prefix_tokens") and hasattr(model, "forward_intermediates")
        plain = plain and isinstance(model.patch_embed, timm.layers.PatchEmbed)
    except (TypeError, AttributeError, ValueError, RuntimeError, AssertionError, ArithmeticError) as error:
        raise InputError(_not_a_vit(architecture)) from error
    if not plain or patch_height != patch_width:
        raise InputError(_not_a_vit(architecture))
    return int(patch_height), int(model.embed_dim), blocks


def _not_a_vit(architecture: str) -> str:
    return (
        f"backbone.name: {architecture} is not a plain ViT that takes images of any size, so it has no patch grid "
        "for features (DINOv2, DINOv3, CLIP, SigLIP, MAE and DeiT-III ViTs of timm do)."
    )


def check_name(name: str) -> None:
    """Refuse a name that timm does not know, with the likeliest ones that it does."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = _suggestions(architecture)
        raise InputError(
            f"backbone.name: timm {timm.__version__} has no model {name!r}"
            + (f" (did you mean {', '.join(close)}?)." if close else " (see timm.list_models('vit*')).")
        )
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise InputError(
            f"backbone.name: timm has no weights {tag!r} for {architecture} (it has: {', '.join(tags) or 'none'})."
        )


def _suggestions(name: str) -> list[str]:
    """The ViTs whose names look most like `name`, also when written like torch hub's (dinov2_vits14)."""
    names = timm.list_models(["vit_*", "deit3_*", "eva*"])
    sizes = {"t": "tiny", "s": "small", "b": "base", "l": "large", "g": "giant", "h": "huge"}
    short = re.sub(r"vit_?([tsblgh])_?(\d+)", lambda m: f"vit_{sizes[m[1]]}_patch{m[2]}", name.lower())
    parts = [part for part in re.split(r"[^a-z0-9]+", short) if len(part) > 2]

    def likeness(known: str) -> float:
        shared = sum(part in known for part in parts)
        return shared + difflib.SequenceMatcher(None, short, known).ratio()

    best = sorted(names, key=likeness, reverse=True)[:3]
    return [known for known in best if likeness(known) > 0.5]
