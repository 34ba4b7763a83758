"""What learns in a fine-tuning: the tuned part of a backbone, the heads that teach it shape, and their optimiser."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from fit3d_finetune.backbone.geometry import GeometryHeads
from fit3d_finetune.training.adapter import InsertedLoRA, LoRA
from fit3d_finetune.training.loss import Teacher
from fit3d_finetune.training.optimizer import build_optimizer, tuned_parameters
from fit3d_finetune.training.recipe import Recipe
from fit3d_ns.features.backbone import Backbone


@dataclass(frozen=True, eq=False)
class Learner:
    """A backbone in training."""

    backbone: Backbone
    parameters: dict[str, nn.Parameter]
    """Of the backbone, as far as they are tuned, by timm's names (those of an adapter by peft's)."""
    teacher: Teacher | None
    optimizer: torch.optim.AdamW
    adapter: InsertedLoRA | None = None

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """All that the optimiser changes, by name."""
        heads = None if self.teacher is None else self.teacher.heads
        return {**self.parameters, **({} if heads is None else dict(heads.named_parameters(prefix="heads")))}


def make_learner(backbone: Backbone, recipe: Recipe, lora: LoRA | None = None, seed: int = 0) -> Learner:
    """Set a backbone up for training: only what its feature layer depends on gets gradients.

    Args:
        lora: train low-rank updates of its attention, and none of its weights.
        seed: of their first factors.
    """
    adapter = None if lora is None else InsertedLoRA(backbone, lora.rank, seed)
    parameters = tuned_parameters(backbone) if adapter is None else adapter.parameters
    for name, parameter in backbone.model.named_parameters():
        parameter.requires_grad_(name in parameters)
    heads = teacher = None
    if recipe.teaches_geometry:
        heads = GeometryHeads(backbone.embed_dim, recipe.depth_weight > 0, recipe.normal_weight > 0)
        heads = heads.to(next(backbone.parameters()).device)
    if recipe.teaches_geometry or recipe.holds_original:
        teacher = Teacher(heads, recipe)
    optimizer = build_optimizer(backbone, recipe, heads, parameters)
    return Learner(backbone, parameters, teacher, optimizer, adapter)
