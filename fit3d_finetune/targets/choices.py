"""What options of targets choose from, apart from the modules that import torch: `--help` need not."""

from __future__ import annotations

from typing import Literal

TargetKind = Literal["gaussians", "mirror"]
"""Of `fit3d_finetune.targets.store`."""

PatchGrid = Literal["floor", "export"]
Resampling = Literal["bilinear", "area"]
Uncovered = Literal["count", "ignore"]
"""Of `fit3d_finetune.targets.rule.TargetRule`."""
