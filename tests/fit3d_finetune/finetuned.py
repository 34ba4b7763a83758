"""Fine-tuned folders without a training: weights that were moved a little, and the summary of one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fit3d_finetune.backbone.card import model_card
from fit3d_finetune.backbone.hub import save_finetuned
from fit3d_ns.features.backbone import BackboneConfig, load_backbone
from tests.fit3d_finetune.scenes import BACKBONE, backbone_info


def summary_of(config: BackboneConfig = BACKBONE) -> dict[str, Any]:
    """What fit3d.json and the card say of a training."""
    return {
        "run": {
            "recipe": {"lr": 1e-3, "weight_mix": 1.0},
            "targets": "gaussians",
            "scenes": {"attic": "ab" * 32},
            "novel_views": 0,
            "val_scenes": {},
            "backbone": {"weights": config.weights, "precision": "fp32", "weights_sha256": "cd" * 32},
            "seed": 0,
        },
        "training_views": 4,
        "steps": 8,
        "seconds": 1.0,
        "history": [{"step": 8, "held-out views/loss": 0.5}],
        "mixed": None,
        "device": "cpu",
        "processor": "x86_64",
        "versions": {"fit3d": "1", "timm": "1"},
    }


def write_finetuned(folder: Path, config: BackboneConfig = BACKBONE) -> Path:
    """A folder as of fit3d-finetune, with features of its own."""
    backbone = load_backbone(config)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in backbone.model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=random)
    summary = summary_of(config)
    save_finetuned(backbone, folder, summary, model_card(backbone_info(config), summary))
    return folder
