"""Low-rank adapters (LoRA, Hu et al., ICLR 2022): what a fine-tuning adds to a backbone, without the backbone.

An adapter gives some linear layers W [out, in] an update B A of rank r, with A [r, in] and B [out, r]. Its folder holds
the two files of the library peft, which reads it too; here nothing but safetensors is needed.

    adapted W = W + B A    in float32, with factors of which B A is exact (`exact_factors`)

An exact product does not depend on the order of its sums: whoever merges gets the same bits, we, peft, any CPU or GPU.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fit3d_ns.common.errors import InputError
from fit3d_ns.common.json_input import parse_json

ADAPTER_FOLDER = "adapter"
ADAPTER_FILE = "adapter_model.safetensors"
FORMAT_VERSION = 1
PEFT_PREFIX = "base_model.model."
"""What peft puts before the name of a layer."""
MANTISSA = 24
"""Bits of a float32: integers up to 2^24 and their sums are exact."""
MAX_RANK = 256
"""So that each factor keeps eight bits."""


@dataclass(frozen=True)
class Base:
    """The weights that an adapter was made for."""

    name: str
    """timm's name."""
    weights: str
    """Where they were found, as `BackboneConfig.weights`."""
    layers_sha256: str
    """Of the layers that the adapter changes (`layers_sha256`), whatever file they came in."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """A low-rank update of some linear layers of a timm model."""

    factors: dict[str, tuple[Tensor, Tensor]]
    """By the layer's name ("blocks.0.attn.qkv"): A [r, in] and B [out, r], float32."""
    base: Base


def exact_factors(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """The factors rounded, each to whole multiples of a power of two, so that float32 gives B A without rounding.

    A product of multiples of s and of t is a multiple of st; a sum of r of them stays within 2^24 st if both factors
    share the bits that the rank leaves, 24 - log2(r). With rank 8 an entry of A moves by at most 1/1024 of A's largest,
    one of B by half of that.

    Args:
        A: [r, in]. B: [out, r].
    """
    bits = MANTISSA - math.ceil(math.log2(A.shape[0]))
    return _rounded(A, bits // 2), _rounded(B, bits - bits // 2)


def _rounded(values: Tensor, bits: int) -> Tensor:
    """The nearest multiples of a power of two that is such that none exceeds 2^bits of it."""
    largest = float(values.abs().max())
    if largest == 0:
        return values.clone()
    # Bounded, so that a product of two steps is no denormal number, which some devices take for zero.
    step = 2.0 ** max(math.ceil(math.log2(largest)) - bits, -60)
    return (values.double() / step).round().mul(step).float()


@torch.no_grad()
def merge(model: nn.Module, adapter: Adapter, source: str = "the adapter") -> None:
    """Add the update to the layers of a timm model, in place; float32 gives the same bits everywhere.

    Args:
        model: with the weights that the adapter was made for.
        adapter: with exact factors.
        source: what to call the adapter in an error.

    Raises:
        InputError: the model is another, or has other weights; it stays as it was.
    """
    layers = dict(model.named_modules())
    for name, (A, B) in adapter.factors.items():
        weight = getattr(layers.get(name), "weight", None)
        if weight is None or weight.shape != (B.shape[0], A.shape[1]):
            found = "no such layer" if weight is None else f"{list(weight.shape)}"
            raise InputError(
                f"{source} changes {name} [{B.shape[0]}, {A.shape[1]}] of {adapter.base.name}, but this model has "
                f"{found} there: give a {adapter.base.name}."
            )
    if layers_sha256(model, adapter.factors) != adapter.base.layers_sha256:
        raise InputError(
            f"{source} was made for other weights of {adapter.base.name} than this model has: give the original "
            f"weights in float32 (they were {adapter.base.weights!r})."
        )
    for name, (A, B) in adapter.factors.items():
        weight = layers[name].weight
        assert isinstance(weight, Tensor)
        # In float64 it is exact as well, also where float32 products are allowed to be less than that.
        weight.add_((B.double() @ A.double()).float().to(weight.device))


def layers_sha256(model: nn.Module, names: Iterable[str]) -> str:
    """SHA-256 of the weights of these layers, in the order of their names."""
    layers = dict(model.named_modules())
    digest = hashlib.sha256()
    for name in sorted(names):
        weight = layers[name].weight
        assert isinstance(weight, Tensor)
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def adapter_file(folder: Path) -> Path | None:
    """The adapter's weights in a fine-tuned folder, or in the adapter's own; None if there are none."""
    for path in (folder / ADAPTER_FOLDER / ADAPTER_FILE, folder / ADAPTER_FILE):
        if path.is_file():
            return path
    return None


def tensors_of(adapter: Adapter) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of the adapter's safetensors file, by peft's names."""
    tensors = {}
    for name, (A, B) in adapter.factors.items():
        tensors[f"{PEFT_PREFIX}{name}.lora_A.weight"] = A.detach().cpu().contiguous()
        tensors[f"{PEFT_PREFIX}{name}.lora_B.weight"] = B.detach().cpu().contiguous()
    # One entry: safetensors writes several in random order, and the same adapter shall be the same file.
    return tensors, {"fit3d": json.dumps({"format_version": FORMAT_VERSION, **adapter.base.__dict__})}


def read_adapter(path: Path) -> Adapter:
    """Read the safetensors file of an adapter that fit3d-finetune wrote.

    Raises:
        InputError: it is damaged, of another version, or another program's.
    """
    base = read_base(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        return Adapter(_factors(tensors), base)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise _damaged(path, error) from error


def read_base(path: Path) -> Base:
    """What weights the adapter in this safetensors file was made for; `InputError` as `read_adapter`."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if "fit3d" not in metadata:
            raise InputError(f"{path} does not say which weights it was made for: give one that fit3d-finetune wrote.")
        info = parse_json(metadata["fit3d"])
        found = info.pop("format_version")
        if found != FORMAT_VERSION:
            raise InputError(f"{path} has version {found}, but this program reads version {FORMAT_VERSION}.")
        return Base(**{key: str(value) for key, value in info.items()})
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error


def _factors(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    factors = {}
    left = dict(tensors)
    for key in sorted(tensors):
        if key.endswith(".lora_A.weight"):
            name = key.removesuffix(".lora_A.weight")
            A, B = left.pop(key), left.pop(f"{name}.lora_B.weight")
            if A.ndim != 2 or B.ndim != 2 or A.shape[0] != B.shape[1] or A.shape[0] < 1:
                raise ValueError(f"{name} has factors of {list(A.shape)} and {list(B.shape)}")
            if not (A.dtype == B.dtype == torch.float32 and A.isfinite().all() and B.isfinite().all()):
                raise ValueError(f"{name} has factors that are not finite float32")
            factors[name.removeprefix(PEFT_PREFIX)] = (A, B)
    if left or not factors:
        raise ValueError(f"it holds {', '.join(left) or 'nothing'}")
    return factors


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is damaged ({' '.join(str(error).split())}): fine-tune again, or fetch it anew.")
