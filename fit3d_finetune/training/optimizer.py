"""AdamW over the part of a backbone that its feature layer depends on."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import nn

from fit3d_finetune.training.recipe import Recipe
from fit3d_ns.features.backbone import Backbone

# Parts that no patch feature passes through, besides blocks after the feature layer.
_UNUSED = ("head.", "head_dist.", "fc_norm.", "attn_pool.", "mask_token")


def tuned_parameters(backbone: Backbone) -> dict[str, nn.Parameter]:
    """The parameters that the features of the backbone's layer depend on, by timm's names.

    The others (later blocks, heads) stay as they are: they get no gradient.
    """
    chosen = {}
    for name, parameter in backbone.model.named_parameters():
        block = _block(name)
        if not name.startswith(_UNUSED) and (block is None or block <= backbone.layer):
            chosen[name] = parameter
    return chosen


def build_optimizer(
    backbone: Backbone,
    recipe: Recipe,
    heads: nn.Module | None = None,
    parameters: Mapping[str, nn.Parameter] | None = None,
) -> torch.optim.AdamW:
    """AdamW with one group per depth, and one for heads; each group keeps its share of the learning rate in
    `lr_scale`.

    Args:
        parameters: what is tuned of the backbone, by names that begin as timm's; None: its `tuned_parameters`.
    """
    groups: dict[int, list[nn.Parameter]] = {}
    top = backbone.layer + 1
    for name, parameter in (tuned_parameters(backbone) if parameters is None else parameters).items():
        block = _block(name)
        # Embeddings come before the first block; the final norm goes with the last.
        depth = block + 1 if block is not None else top if name.startswith("norm.") else 0
        groups.setdefault(depth, []).append(parameter)
    options = [
        {"params": members, "lr_scale": recipe.layer_decay ** (top - depth)}
        for depth, members in sorted(groups.items())
    ]
    if heads is not None:
        options.append({"params": list(heads.parameters()), "lr_scale": recipe.head_lr / recipe.lr})
    return torch.optim.AdamW(options, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def _block(name: str) -> int | None:
    match = re.match(r"blocks\.(\d+)\.", name)
    return None if match is None else int(match.group(1))
