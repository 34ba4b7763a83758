"""Which of the two backends a tensor is for."""

from __future__ import annotations

import torch

GSPLAT_DEVICES: tuple[str, ...] = ("cuda",)


def on_gsplat(device: torch.device) -> bool:
    """Whether gsplat's kernels render what lies on a device; else ours do."""
    return device.type in GSPLAT_DEVICES
