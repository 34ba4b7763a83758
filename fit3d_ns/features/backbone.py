"""Any timm ViT as a dense feature extractor: image in, one feature vector per patch out.

    backbone = load_backbone(BackboneConfig(weights="offline"))
    features = backbone(images)                  # [B, 3, H, W] in 0..1 -> [B, C, h, w]

`load_backbone` builds the network; `backbone_fingerprint` says which one it would be (for cache keys
and exports) without reading its weights into memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fit3d_ns.common.console import logger
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.randomness import preserved_random_state
from fit3d_ns.features.config import DEFAULT_NAME, BackboneConfig, InputRule
from fit3d_ns.features.names import check_name, skeleton
from fit3d_ns.features.weights import (
    CONFIG_FILE,
    WeightFile,
    find_weights,
    load_weights,
    read_folder_config,
    weights_folder,
)

# The offline weights' last blocks collapsed towards saliency: the 9th block has the richest features.
OFFLINE_LAYER = 8
INPUT_RULES: dict[InputRule, str] = {
    "nearest": "nearest multiple of the patch size, bicubic with antialiasing",
    "floor": "largest multiple of the patch size that fits, bilinear without antialiasing",
}
"""How the input size follows from the image size, in the words of fingerprints and exports."""


@dataclass(frozen=True)
class BackboneIdentity:
    """Everything that decides what features a backbone gives, known without its weights in memory."""

    name: str
    architecture: str
    description: str
    weights: str
    weights_sha256: str
    layer: int
    patch_size: int
    embed_dim: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    input_rule: str
    max_size: int | None
    precision: str
    model_args: dict[str, Any]


class Backbone(nn.Module):
    """A ViT that turns images into patch feature maps; differentiable, so fine-tuning uses it too.

    The timm model is `self.model`. `self.identity` and the attributes below say what it is.
    """

    def __init__(self, model: nn.Module, config: BackboneConfig, identity: BackboneIdentity) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.identity = identity
        self.layer = identity.layer
        self.patch_size = identity.patch_size
        self.embed_dim = identity.embed_dim
        self.mean = identity.mean
        self.std = identity.std
        self.weights_sha256 = identity.weights_sha256
        self.description = identity.description

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) to which an image of this size is brought for the backbone."""
        return input_size(height, width, self.patch_size, self.config.max_size, self.config.input_rule)

    def grid_size(self, height: int, width: int) -> tuple[int, int]:
        """The (h, w) patches of the feature map of an image of this size."""
        return grid_size(height, width, self.patch_size, self.config.max_size, self.config.input_rule)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in 0..1 -> the layer's patch tokens after the final norm, [B, C, h, w].

        The image is resized to `input_size` as `input_rule` says and normalised with the model's own mean and
        std. The final norm is applied at every layer, also before the last: it was trained for the last block, but
        evens out the few channels that dominate in between.
        """
        return self.forward_with_class_token(images)[0]

    def forward_with_class_token(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The feature map [B, C, h, w] and the class token [B, C] of the same layer and norm.

        Models without a class token (SigLIP) give the mean of their patch tokens in its place.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be [B, 3, H, W], not {list(images.shape)}")
        size = self.input_size(*images.shape[-2:])
        if tuple(images.shape[-2:]) != size:
            if self.config.input_rule == "floor":
                images = F.interpolate(images, size, mode="bilinear", align_corners=False)
            else:
                # clamp: bicubic overshoots at edges, to values that no image has.
                images = F.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (images.new_tensor(value)[:, None, None] for value in (self.mean, self.std))
        images = (images - mean) / std
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            [(patches, prefix)] = self._intermediates(images)
        patches = patches.float()
        if getattr(self.model, "cls_token", None) is None:
            return patches, patches.mean(dim=(2, 3))
        return patches, prefix[:, 0].float()

    def _intermediates(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        outputs = self.model.forward_intermediates(  # type: ignore[operator]
            images,
            indices=[self.layer],
            return_prefix_tokens=True,
            norm=True,
            stop_early=True,
            output_fmt="NCHW",
            intermediates_only=True,
        )
        # Without prefix tokens (SigLIP) timm leaves the pair out.
        return [out if isinstance(out, tuple) else (out, out) for out in outputs]


def input_size(
    height: int, width: int, patch_size: int, max_size: int | None, rule: InputRule = "nearest"
) -> tuple[int, int]:
    """Each side to the nearest multiple of the patch size (halves go up; "floor": always down), at least one patch.

    An image with a side longer than `max_size` is first scaled down, aspect kept; no side of the
    result is longer than `max_size`.
    """
    if height < 1 or width < 1:
        raise ValueError(f"an image of {height} x {width} pixels has no patches")
    scale = 1.0 if max_size is None else min(1.0, max_size / max(height, width))
    most = None if max_size is None else max_size // patch_size
    if rule == "floor":
        # Rounding must not lose the last patch of a side that the scale makes a whole number of patches.
        cells = [max(1, int(side * scale / patch_size + 1e-9)) for side in (height, width)]
    else:
        cells = [max(1, int(side * scale / patch_size + 0.5)) for side in (height, width)]
    if most is not None:
        cells = [min(side, max(1, most)) for side in cells]
    return cells[0] * patch_size, cells[1] * patch_size


def grid_size(
    height: int, width: int, patch_size: int, max_size: int | None, rule: InputRule = "nearest"
) -> tuple[int, int]:
    """The (h, w) patches of an image of this size, see `input_size`."""
    rows, columns = input_size(height, width, patch_size, max_size, rule)
    return rows // patch_size, columns // patch_size


def rule_of(words: str) -> InputRule:
    """The input rule that a fingerprint or an export has in these words; "nearest" if no rule of ours has them."""
    return next((rule for rule, described in INPUT_RULES.items() if described == words), "nearest")


def load_backbone(config: BackboneConfig, device: torch.device | str = "cpu") -> Backbone:
    """Build the backbone with its weights, in eval mode; the caller's random state stays as it is."""
    plan = _plan(config)
    source = find_weights(config.weights, plan.name, plan.pretrained_cfg)
    with preserved_random_state():
        torch.manual_seed(0)  # random weights are the same every time
        model = _create(plan)
    if source.kind != "random":
        load_weights(model, source)
    identity = _identity(config, plan, source)
    layer = f"block {identity.layer} (0-based) of {plan.blocks}"
    why = ", whose later blocks collapsed towards saliency" if _is_offline_default(config) else ""
    logger.info("Backbone: %s, %s%s, %s", identity.description, layer, why, config.precision)
    return Backbone(model, config, identity).to(device).eval()


def backbone_fingerprint(config: BackboneConfig) -> dict[str, Any]:
    """The identity of the backbone that `load_backbone(config)` would give, as plain JSON values.

    Reads no weights into memory (they are only hashed); downloads hub weights if they are not cached.
    """
    plan = _plan(config)
    identity = _identity(config, plan, find_weights(config.weights, plan.name, plan.pretrained_cfg))
    return dict(json.loads(json.dumps(asdict(identity))))


@dataclass(frozen=True)
class _Plan:
    """A checked config: the timm model to build and what its skeleton told."""

    name: str
    pretrained_cfg: Any
    model_args: Mapping[str, Any]
    patch_size: int
    embed_dim: int
    blocks: int
    layer: int

    @property
    def architecture(self) -> str:
        return self.name.split(".")[0]


def _plan(config: BackboneConfig) -> _Plan:
    """Check everything about `config` that can be checked without its weights."""
    if config.precision not in ("fp32", "bf16"):
        raise InputError(f"backbone.precision must be fp32 or bf16, not {config.precision!r}.")
    if config.input_rule not in INPUT_RULES:
        raise InputError(f"backbone.input_rule must be {' or '.join(INPUT_RULES)}, not {config.input_rule!r}.")
    folder = weights_folder(config.weights)
    name, pretrained_cfg, model_args = config.name, None, {}
    if folder is not None:
        described = read_folder_config(folder)
        if config.name.split(".")[0] != described.architecture and config.name != DEFAULT_NAME:
            raise InputError(
                f"{folder} holds a {described.architecture}, not a {config.name}: leave backbone.name out."
            )
        name, model_args = described.architecture, described.model_args
        check_name(name)
        known = set(timm.models.PretrainedCfg.__dataclass_fields__)
        pretrained_cfg = timm.models.PretrainedCfg(
            **{key: value for key, value in described.pretrained_cfg.items() if key in known}
        )
    else:
        check_name(name)
        if config.weights == "offline":
            name = name.split(".")[0]  # not the weights that the tag names
        pretrained_cfg = timm.models.get_pretrained_cfg(name)
    try:
        patch_size, embed_dim, blocks = skeleton(name.split(".")[0], json.dumps(model_args, sort_keys=True))
    except InputError as error:
        if folder is None or not model_args:
            raise
        raise InputError(
            f"{folder / CONFIG_FILE}: timm builds no plain ViT of a {name} with these model_args: fetch the folder "
            "anew, or fine-tune again."
        ) from error
    layer = OFFLINE_LAYER if _is_offline_default(config) else -1 if config.layer is None else config.layer
    if not -blocks <= layer < blocks:
        raise InputError(f"backbone.layer {layer} does not exist: {name} has blocks 0 to {blocks - 1}.")
    if config.max_size is not None and config.max_size < patch_size:
        raise InputError(f"backbone.max_size {config.max_size} is less than one {patch_size}-pixel patch of {name}.")
    return _Plan(name, pretrained_cfg, model_args, patch_size, embed_dim, blocks, layer % blocks)


def _is_offline_default(config: BackboneConfig) -> bool:
    return config.weights == "offline" and config.layer is None


def _identity(config: BackboneConfig, plan: _Plan, source: WeightFile) -> BackboneIdentity:
    mean, std = plan.pretrained_cfg.mean, plan.pretrained_cfg.std
    return BackboneIdentity(
        name=plan.name,
        architecture=plan.architecture,
        description=source.description,
        weights=source.kind,
        weights_sha256=source.sha256,
        layer=plan.layer,
        patch_size=plan.patch_size,
        embed_dim=plan.embed_dim,
        mean=(float(mean[0]), float(mean[1]), float(mean[2])),
        std=(float(std[0]), float(std[1]), float(std[2])),
        input_rule=INPUT_RULES[config.input_rule],
        max_size=config.max_size,
        precision=config.precision,
        model_args=dict(plan.model_args),
    )


def _create(plan: _Plan) -> nn.Module:
    arguments = {**plan.model_args, "num_classes": 0, "dynamic_img_size": True}
    model: nn.Module = timm.create_model(
        plan.architecture, pretrained=False, pretrained_cfg=plan.pretrained_cfg, **arguments
    )
    return model
