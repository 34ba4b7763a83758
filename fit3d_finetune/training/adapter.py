"""Low-rank adapters in training: put into a backbone by peft, and taken out again as an update of its weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from fit3d_finetune.backbone.adapter import lora_config, require_peft
from fit3d_finetune.backbone.choices import SavedWeights
from fit3d_finetune.backbone.hub import findable
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.randomness import preserved_random_state, seed_everything
from fit3d_ns.features.adapter import MAX_RANK, Adapter, Base, exact_factors, layers_sha256
from fit3d_ns.features.backbone import Backbone

# The attention's linear layers, fused or not, as in the paper of LoRA. Those of the MLP would nearly triple the size
# (ViT-S/14 with rank 8: 2.4 MB instead of 0.9).
_ATTENTION = re.compile(r"blocks\.(\d+)\.(?:.+\.)?attn\.(?:qkv|q_proj|k_proj|v_proj|proj)")


@dataclass(frozen=True)
class LoRA:
    """What is trained in place of the weights, and what of the result is written."""

    rank: int = 8
    save: SavedWeights = "merged"

    def check(self) -> None:
        """Raise `InputError` if it cannot be had."""
        if not 1 <= self.rank <= MAX_RANK:
            raise InputError(f"--rank must lie in 1..{MAX_RANK}, not {self.rank}.")
        require_peft()

    def identity(self) -> dict[str, Any]:
        """What of it decides a run's result."""
        return {"adapter": "lora", "rank": self.rank, **({"save": "adapter"} if self.save == "adapter" else {})}


class InsertedLoRA:
    """The low-rank layers inside a backbone, which computes as before until they are trained.

    Args:
        backbone: changed in place; its weights get no gradients any more.
        rank: of every update.
        seed: of the factors A; the factors B are zero.

    Raises:
        InputError: no peft, or no layer that an adapter fits.
    """

    def __init__(self, backbone: Backbone, rank: int, seed: int) -> None:
        require_peft()
        from peft import get_peft_model

        self.backbone = backbone
        self.layers = adapted_layers(backbone)
        self.base = Base(
            name=backbone.identity.name,
            weights=findable(backbone.config.weights),
            layers_sha256=layers_sha256(backbone.model, self.layers),
        )
        self._separate: list[Any] = [
            module for module in backbone.model.modules() if hasattr(module, "qkv_bias_separate")
        ]
        self._bypassed = [module.qkv_bias_separate for module in self._separate]
        for module in self._separate:
            module.qkv_bias_separate = True  # else timm multiplies by the weight itself, past the adapter
        with preserved_random_state():
            seed_everything(seed)
            self._peft: Any = get_peft_model(backbone.model, lora_config(self.layers, rank))  # type: ignore[arg-type]

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The factors, by timm's name of the layer and peft's of the factor."""
        return {name: value for name, value in self.backbone.model.named_parameters() if ".lora_" in name}

    def remove(self, share: float = 1.0) -> Adapter:
        """Take the layers out, so that the backbone is the original again, and return what they have learned.

        Args:
            share: of the update (alpha of WiSE-FT: W + share B A is that share of the fine-tuned weights and the rest
                of the original's).
        """
        factors = {}
        for name in self.layers:
            layer = self.backbone.model.get_submodule(name)
            A, B = (getattr(layer, side)["default"].weight.detach().cpu() for side in ("lora_A", "lora_B"))
            factors[name] = exact_factors(A, B * share)
        self._peft.unload()
        for module, bypassed in zip(self._separate, self._bypassed, strict=True):
            module.qkv_bias_separate = bypassed
        return Adapter(factors, self.base)


def adapted_layers(backbone: Backbone) -> list[str]:
    """Names of the linear layers of attention up to the backbone's feature layer.

    Raises:
        InputError: it has none.
    """
    found = []
    for name, module in backbone.model.named_modules():
        match = _ATTENTION.fullmatch(name)
        if match is not None and int(match[1]) <= backbone.layer and isinstance(module, nn.Linear):
            found.append(name)
    if not found:
        raise InputError(
            f"--adapter lora: the attention of {backbone.identity.name} has no linear layers of its own; leave the "
            "option out."
        )
    return found
