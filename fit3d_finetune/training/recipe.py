"""How a backbone is fine-tuned: the published recipe, and the one that we recommend."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi
from typing import Literal

from fit3d_ns.common.errors import InputError

LossKind = Literal["l1", "smooth-l1", "cosine"]
PresetName = Literal["paper", "recommended"]


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of the fine-tuning. The defaults are the published ones (FiT3D, ECCV 2024, section 4.1)."""

    epochs: int = 1
    """Passes over all training views."""
    batch_size: int = 2
    """Views per forward and backward pass."""
    accumulate: int = 1
    """Passes per optimiser step, to reach a larger batch in the same memory."""
    lr: float = 1e-5
    """AdamW's learning rate, of the last tuned block."""
    weight_decay: float = 1e-4
    """AdamW's weight decay."""
    clip_norm: float = 0.1
    """Largest norm of all gradients together."""
    warmup: float = 0.0
    """Share of all steps in which the learning rate rises from zero."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up: constant, or a cosine down to zero."""
    layer_decay: float = 1.0
    """Learning rate of a block as a multiple of the next one's; below 1, early blocks change less."""
    loss: LossKind = "l1"
    """Between the backbone's patch tokens and the target: l1 (paper), smooth-l1, or cosine (1 - cosine)."""
    keep_original: float = 0.0
    """Share of the view's own original features in its target (0: only the re-rendered ones)."""
    weight_mix: float = 1.0
    """Share of the fine-tuned weights in the result; the rest is the original's (alpha of WiSE-FT, Wortsman et al.,
    CVPR 2022)."""
    crop_scale: float = 1.0
    """Random crops: smallest side as a share of the image's, enlarged to the full size again; 1: no crops."""

    def check(self) -> None:
        """Raise `InputError` on the first value that makes no sense."""
        positive = ("epochs", "batch_size", "accumulate", "lr", "clip_norm", "layer_decay", "weight_mix", "crop_scale")
        for name in positive:
            if not getattr(self, name) > 0:
                raise InputError(f"--{name.replace('_', '-')} must be more than 0, not {getattr(self, name)}.")
        for name in ("warmup", "keep_original", "layer_decay", "weight_mix", "crop_scale"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"--{name.replace('_', '-')} must lie in 0..1, not {getattr(self, name)}.")
        if not self.weight_decay >= 0:
            raise InputError(f"--weight-decay must not be negative, but is {self.weight_decay}.")


PRESETS: dict[PresetName, Recipe] = {
    "paper": Recipe(),
    # Found on rooms (benchmarks/results/README.md): train far, then go half of the way back to the original.
    "recommended": Recipe(epochs=2, lr=1e-4, warmup=0.05, schedule="cosine", clip_norm=1.0, weight_mix=0.5),
}


def lr_factor(step: int, steps: int, recipe: Recipe) -> float:
    """The learning rate of a step (from 0) as a share of `recipe.lr`."""
    warmup = round(recipe.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    if recipe.schedule == "constant":
        return 1.0
    return 0.5 * (1 + cos(pi * (step - warmup) / max(1, steps - warmup)))
