"""Adapters of fine-tuned folders: what may be given away where the weights that it changes may not.

    fit3d_finetune.apply_adapter(model, "finetuned")       # changes a timm model with the original weights
    fit3d_finetune.merge_adapter("finetuned", "merged")    # writes a folder that timm loads

Both do without the library peft, which reads the folder's adapter/ as well; only writing one takes peft.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from safetensors.torch import save_file
from torch import nn

from fit3d_finetune.backbone.card import model_card
from fit3d_finetune.backbone.geometry import HEADS_FILE
from fit3d_finetune.backbone.hub import read_finetuned, require_original, save_finetuned, with_original
from fit3d_ns.common.atomic import atomic_file
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.output_place import require_writable
from fit3d_ns.features.adapter import (
    ADAPTER_FILE,
    ADAPTER_FOLDER,
    Adapter,
    adapter_file,
    merge,
    read_adapter,
    tensors_of,
)
from fit3d_ns.features.backbone import Backbone, load_backbone
from fit3d_ns.scene.description import BackboneInfo

if TYPE_CHECKING:
    from peft import LoraConfig

ADAPTER_CONFIG_FILE = "adapter_config.json"
Model = TypeVar("Model", bound=nn.Module)


def apply_adapter(model: Model, folder: Path | str) -> Model:
    """Merge an adapter into the original weights, in place, to the bits of the fine-tuned ones; returns the model.

    Args:
        model: of timm, with the original weights in float32, on any device. (A `Backbone` is one, too.)
        folder: of fit3d-finetune --adapter lora, or its adapter/ alone.

    Raises:
        InputError: no such folder, or another model or weights than the adapter was made for.
    """
    path = _require_adapter(Path(folder))
    network = model.model if isinstance(model, Backbone) else model
    merge(network, read_adapter(path), str(path))
    return model


def merge_adapter(folder: Path | str, output_dir: Path | str, original_weights: str | None = None) -> Path:
    """Write the folder that fit3d-finetune would have written with --save merged; returns it.

    Args:
        folder: of fit3d-finetune --adapter lora.
        output_dir: a folder that is not there yet, or empty.
        original_weights: where the original's weights are here (as `BackboneConfig.weights`), if elsewhere.

    Raises:
        InputError: no such folder, the original weights cannot be had, or the output is in the way.
    """
    folder, output_dir = Path(folder), Path(output_dir)
    described = read_finetuned(folder)
    _require_adapter(folder)
    if original_weights is not None:
        described = with_original(described, original_weights)
    require_original(described, folder)
    if output_dir.exists() and not (output_dir.is_dir() and not any(output_dir.iterdir())):
        raise InputError(f"{output_dir} is there already: give a folder that is not, for the merged backbone.")
    require_writable(output_dir)
    backbone = apply_adapter(load_backbone(described.original), folder)
    run = {key: value for key, value in described.summary["run"].items() if key != "save"}
    summary = {**described.summary, "run": run}
    info = BackboneInfo(**{field.name: getattr(backbone.identity, field.name) for field in fields(BackboneInfo)})
    if (folder / HEADS_FILE).is_file():
        output_dir.mkdir(parents=True, exist_ok=True)
        with atomic_file(output_dir / HEADS_FILE) as temporary:
            shutil.copyfile(folder / HEADS_FILE, temporary)
    save_finetuned(backbone, output_dir, summary, model_card(info, summary))
    return output_dir


def save_adapter(adapter: Adapter, folder: Path) -> None:
    """Write `folder`/adapter/ in peft's format, each file atomically."""
    ranks = {A.shape[0] for A, _ in adapter.factors.values()}
    config = lora_config(adapter.factors, max(ranks)).to_dict()
    config |= {"inference_mode": True, "base_model_name_or_path": adapter.base.name}
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    place = folder / ADAPTER_FOLDER
    place.mkdir(parents=True, exist_ok=True)
    with atomic_file(place / ADAPTER_CONFIG_FILE) as temporary:
        temporary.write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n")
    tensors, metadata = tensors_of(adapter)
    with atomic_file(place / ADAPTER_FILE) as temporary:
        save_file(tensors, temporary, metadata)


def lora_config(layers: Iterable[str], rank: int) -> LoraConfig:
    """peft's description of our adapters: B A itself is added (alpha = rank), no dropout, no biases."""
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=rank, target_modules=sorted(layers), lora_dropout=0.0, bias="none")


def require_peft() -> None:
    """Raise `InputError` if peft is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise InputError('--adapter lora needs the library peft: pip install "peft>=0.21", or leave the option out.')


def _require_adapter(folder: Path) -> Path:
    path = adapter_file(folder)
    if path is None:
        raise InputError(f"{folder} holds no adapter: give a folder of fit3d-finetune --adapter lora.")
    return path
