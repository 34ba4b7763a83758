"""How a backbone is fine-tuned: the published recipe, and the one that we recommend."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, inf, pi
from typing import TYPE_CHECKING, Any, Literal

from fit3d_finetune.backbone.choices import PrecisionChoice
from fit3d_finetune.targets.choices import PatchGrid, Resampling, Uncovered
from fit3d_ns.common.errors import InputError

if TYPE_CHECKING:
    from fit3d_finetune.targets.rule import TargetRule

LossKind = Literal["l1", "smooth-l1", "cosine"]
LossMean = Literal["batch", "image"]
PresetName = Literal["paper", "recommended"]
LOSS_WEIGHTS = ("depth_weight", "normal_weight", "class_token_weight", "gram_weight", "anchor_weight")
"""Fields of a recipe: of what is taught beside features, each 0 where it is not."""


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of the fine-tuning. The defaults are those of the code of FiT3D (ECCV 2024)."""

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
    loss_mean: LossMean = "batch"
    """The loss of a pass is the mean over all patches of its views alike (batch, published), or over the views' own
    means (image: a view of which few patches count weighs as much as any)."""
    uncovered: Uncovered = "count"
    """Patches of which the Gaussians or the mask leave more than half uncovered: count by their unmasked share
    (published; the target is what is rendered there), or ignore."""
    patch_grid: PatchGrid = "floor"
    """floor: only patches that fit into the image as a whole (published); export: the grid of the scene's features."""
    resampling: Resampling = "bilinear"
    """How images, targets and masks are brought to the patch grid: bilinear between the nearest pixels (published), or
    area (images bicubic and antialiased, of targets and masks the mean over each patch)."""
    last_batch: Literal["drop", "keep"] = "drop"
    """A last step of an epoch for which views are missing: drop (published) or keep."""
    block_scenes: int = 0
    """Scenes whose views are seen together, all before those of the next block, both in random order: with many scenes,
    targets of few at a time are read. Batches are less mixed then. 0: views of all scenes in one order."""
    precision: PrecisionChoice = "fp32"
    """Of the backbone: fp32 (published), bf16, or auto: bf16 where it is faster (measured on a CPU), else fp32. A run
    that goes on keeps what auto began with."""
    keep_original: float = 0.0
    """Share of the view's own original features in its target (0: only the re-rendered ones)."""
    position_share: float = 0.0
    """Share of the position term in the target (of exports that have one: what features say of the place in the image,
    whatever it shows): 0 for features that do not tell where in the image they are, 1 as the original has it."""
    weight_mix: float = 1.0
    """Share of the fine-tuned weights in the result; the rest is the original's (alpha of WiSE-FT, Wortsman et al.,
    CVPR 2022)."""
    crop_scale: float = 1.0
    """Random crops: smallest side as a share of the image's, enlarged to the full size again; 1: no crops."""
    depth_weight: float = 0.0
    """Of a second loss, beside that of the features: how well a linear head on [patch token, class token] predicts the
    log depth that the Gaussians render (scale-invariant; the head is thrown away in the end). 0: no such head."""
    normal_weight: float = 0.0
    """The same for a linear head on the patch token that predicts the Gaussians' surface normals. 0: no such head."""
    class_token_weight: float = 0.0
    """Of a loss that keeps the class token the original's (1 - cosine): the scale of an image stands in it. 0: none."""
    gram_weight: float = 0.0
    """Of a loss that keeps the cosines between all patches of an image those of the original at twice the resolution
    (mean squared difference; Gram anchoring of DINOv3). 0: none."""
    anchor_weight: float = 0.0
    """Of a loss that lets no patch token go further from the original's than --anchor-margin. 0: none."""
    anchor_margin: float = 0.85
    """With --anchor-weight: only patches whose cosine to the original's is below this count, by how far it is."""
    head_lr: float = 1e-3
    """AdamW's learning rate of these heads."""

    @property
    def teaches_geometry(self) -> bool:
        """Whether the Gaussians' shape is part of the targets."""
        return self.depth_weight > 0 or self.normal_weight > 0

    @property
    def holds_original(self) -> bool:
        """Whether any loss holds tokens to those of the original backbone."""
        return self.class_token_weight > 0 or self.gram_weight > 0 or self.anchor_weight > 0

    @property
    def target_rule(self) -> TargetRule:
        """What concerns the targets."""
        from fit3d_finetune.targets.rule import TargetRule  # here, as it imports torch

        return TargetRule(self.patch_grid, self.resampling, self.uncovered)

    def check(self) -> None:
        """Raise `InputError` on the first value that makes no sense."""
        positive = (
            "epochs",
            "batch_size",
            "accumulate",
            "lr",
            "clip_norm",
            "layer_decay",
            "weight_mix",
            "crop_scale",
            "head_lr",
        )
        for name in positive:
            if not getattr(self, name) > 0:
                raise InputError(f"--{name.replace('_', '-')} must be more than 0, not {getattr(self, name)}.")
        for name in (
            "warmup",
            "keep_original",
            "layer_decay",
            "weight_mix",
            "crop_scale",
            "anchor_margin",
            "position_share",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"--{name.replace('_', '-')} must lie in 0..1, not {getattr(self, name)}.")
        if self.block_scenes < 0:
            raise InputError(f"--block-scenes must be 0 or more, not {self.block_scenes}.")
        for name in ("weight_decay", *LOSS_WEIGHTS):
            if not 0 <= getattr(self, name) < inf:
                raise InputError(f"--{name.replace('_', '-')} must be 0 or more, not {getattr(self, name)}.")


DEFAULT_PRESET: PresetName = "recommended"
PRESETS: dict[PresetName, Recipe] = {
    "paper": Recipe(),
    # Found on rooms (benchmarks/results/rooms.md): train far, then go part of the way back to the original.
    "recommended": Recipe(
        epochs=2,
        lr=1e-4,
        warmup=0.05,
        schedule="cosine",
        clip_norm=1.0,
        weight_mix=0.7,
        loss_mean="image",
        uncovered="ignore",
        patch_grid="export",
        resampling="area",
        last_batch="keep",
        precision="auto",
        depth_weight=1.0,
        normal_weight=1.0,
        class_token_weight=1.0,
    ),
}

RELEASE_0_1: dict[str, Any] = {
    **{
        name: getattr(PRESETS["recommended"], name)
        for name in ("loss_mean", "uncovered", "patch_grid", "resampling", "last_batch")
    },
    **{
        name: getattr(Recipe(), name)
        for name in (*LOSS_WEIGHTS, "head_lr", "anchor_margin", "position_share", "block_scenes")
    },
}
"""What release 0.1 did in every recipe, and so did not record; nor did versions after it, before they had an option."""


def lr_factor(step: int, steps: int, recipe: Recipe) -> float:
    """The learning rate of a step (from 0) as a share of `recipe.lr`."""
    warmup = round(recipe.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    if recipe.schedule == "constant":
        return 1.0
    return 0.5 * (1 + cos(pi * (step - warmup) / max(1, steps - warmup)))
