"""Fine-tuned backbones the timm way: a `local-dir:` folder that anyone loads, and what fit3d adds to it.

    timm.create_model("local-dir:finetuned", pretrained=True, num_classes=0)   # anywhere, without fit3d
    fit3d_finetune.load("finetuned")                                           # original and fine-tuned, concatenated

Without `pretrained=True` timm builds the network with random weights, as it does for every name.
The folder holds `config.json` and `model.safetensors` (timm's own format), `fit3d.json` (which backbone it started
from, which layer was tuned, and how) and `README.md`, the model card. A folder of `--save adapter` holds `adapter/`
in place of model.safetensors: timm cannot load it, fit3d merges it into the original weights where it finds them.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import save_file
from timm.models._hub import save_config_for_hf
from torch import Tensor, nn

from fit3d_finetune.backbone.choices import SavedWeights
from fit3d_ns.common.atomic import atomic_file
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.json_input import parse_json
from fit3d_ns.common.json_object import JsonObject
from fit3d_ns.features.adapter import adapter_file, merge, read_adapter
from fit3d_ns.features.backbone import Backbone, BackboneConfig, backbone_fingerprint, load_backbone
from fit3d_ns.features.config import NAMED_WEIGHTS, InputRule
from fit3d_ns.features.weights import CONFIG_FILE, FINETUNED_FILE, read_folder_config

FORMAT_VERSION = 1
WEIGHTS_FILE = "model.safetensors"
INFO_FILE = FINETUNED_FILE
CARD_FILE = "README.md"
FINE_TUNE_AGAIN = "fine-tune again"


@dataclass(frozen=True)
class Finetuned:
    """What a fine-tuned folder says about itself."""

    original: BackboneConfig
    """The backbone that it started from."""
    original_sha256: str
    """Of the original's weights."""
    finetuned: BackboneConfig
    """The fine-tuned backbone: the same network, layer and sizes, with the folder's weights."""
    summary: dict[str, Any]
    """Scenes, recipe, losses and versions, as in fit3d.json."""


def save_finetuned(
    backbone: Backbone, folder: Path, summary: dict[str, Any], card: str, save: SavedWeights = "merged"
) -> None:
    """Write the folder's files, each atomically; fit3d.json, which makes the folder whole, comes last.

    Args:
        backbone: the fine-tuned network; its `identity` and `config` are still those of the original.
        folder: made if it is not there; other files in it are left alone.
        summary: anything JSON that is worth keeping about the training.
        card: the model card, Markdown.
        save: "adapter" leaves the weights out; the folder must hold the adapter already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INFO_FILE).unlink(missing_ok=True)
    if save == "adapter":
        (folder / WEIGHTS_FILE).unlink(missing_ok=True)  # of an earlier start, perhaps: they must not get out
    else:
        state = {name: value.detach().cpu().contiguous() for name, value in backbone.model.state_dict().items()}
        with atomic_file(folder / WEIGHTS_FILE) as temporary:
            save_file(state, temporary, metadata={"format": "pt"})
    with atomic_file(folder / CONFIG_FILE) as temporary:
        save_config_for_hf(
            backbone.model, str(temporary), model_args={**backbone.identity.model_args, "dynamic_img_size": True}
        )
    with atomic_file(folder / CARD_FILE) as temporary:
        temporary.write_text(card)
    identity = backbone.identity
    # The precision of the training (in the summary) need not be that of a later use.
    original = dataclasses.replace(
        backbone.config,
        name=identity.name,
        weights=findable(backbone.config.weights),
        layer=identity.layer,
        precision="fp32",
    )
    info = {
        "format_version": FORMAT_VERSION,
        "original": dataclasses.asdict(original),
        "original_sha256": identity.weights_sha256,
        "original_description": identity.description,
        "summary": summary,
    }
    with atomic_file(folder / INFO_FILE) as temporary:
        temporary.write_text(json.dumps(info, indent=1) + "\n")


def read_finetuned(folder: Path) -> Finetuned:
    """Read fit3d.json of a folder that `fit3d-finetune` wrote.

    Raises:
        InputError: it is not such a folder, or of another version.
    """
    folder = Path(folder)
    for name in (INFO_FILE, CONFIG_FILE, *([] if adapter_file(folder) else [WEIGHTS_FILE])):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder} is not a fine-tuned backbone (no {name}): give a folder that fit3d-finetune wrote."
            )
    try:
        data = parse_json((folder / INFO_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / INFO_FILE} is damaged ({error}): {FINE_TUNE_AGAIN}.") from error
    info = JsonObject(folder / INFO_FILE, "", data, FINE_TUNE_AGAIN)
    if (version := info.integer("format_version")) != FORMAT_VERSION:
        raise InputError(
            f"{folder / INFO_FILE} has version {version}, but this program reads version {FORMAT_VERSION}: "
            f"{FINE_TUNE_AGAIN}."
        )
    original = _read_original(info.child("original"))
    read_folder_config(folder)
    return Finetuned(
        original=original,
        original_sha256=info.hash("original_sha256"),
        finetuned=dataclasses.replace(original, weights=str(folder.absolute()), name=original.name.split(".")[0]),
        summary=dict(info.child("summary").data),
    )


def _read_original(written: JsonObject) -> BackboneConfig:
    known = [field.name for field in dataclasses.fields(BackboneConfig)]
    if unknown := sorted(written.data.keys() - known):
        raise written.fault(str(unknown[0])[:80], "is not known")
    return BackboneConfig(
        name=written.text("name"),
        weights=written.text("weights"),
        layer=written.whole("layer", None),
        max_size=written.whole("max_size"),
        precision=written.choice("precision", ("fp32", "bf16")),
        input_rule=written.choice("input_rule", get_args(InputRule)) if "input_rule" in written.data else "nearest",
    )


def findable(weights: str) -> str:
    """The same source of weights, from whatever folder it is looked for later."""
    if weights in NAMED_WEIGHTS:
        return weights
    return str(Path(weights.removeprefix("local-dir:")).expanduser().absolute())


def with_original(finetuned: Finetuned, weights: str) -> Finetuned:
    """The same with the original's weights somewhere else (`BackboneConfig.weights`)."""
    return dataclasses.replace(finetuned, original=dataclasses.replace(finetuned.original, weights=weights))


def require_original(finetuned: Finetuned, folder: Path) -> None:
    """Check that the original's weights are here and are those that the fine-tuning started from.

    Raises:
        InputError: they are not.
    """
    found = backbone_fingerprint(finetuned.original)["weights_sha256"]
    if found != finetuned.original_sha256:
        raise InputError(
            f"{folder} was fine-tuned from other weights of {finetuned.original.name} than "
            f"{finetuned.original.weights!r} gives here (their SHA-256 differ): restore those weights."
        )


class FeatureAssembly(nn.Module):
    """The original and the fine-tuned backbone side by side, their features concatenated (FiT3D, section 3.4).

    The concatenation keeps the generality of the original and adds the 3D-aware features.
    """

    def __init__(self, original: Backbone, finetuned: Backbone) -> None:
        super().__init__()
        self.original = original
        self.finetuned = finetuned
        self.patch_size = original.patch_size
        self.embed_dim = original.embed_dim + finetuned.embed_dim

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in 0..1 -> feature maps [B, 2C, h, w], the original's channels first."""
        return self.forward_with_class_token(images)[0]

    def forward_with_class_token(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Feature maps [B, 2C, h, w] and class tokens [B, 2C]."""
        pairs = [backbone.forward_with_class_token(images) for backbone in (self.original, self.finetuned)]
        return torch.cat([maps for maps, _ in pairs], dim=1), torch.cat([tokens for _, tokens in pairs], dim=1)


def load(
    folder: Path | str, device: torch.device | str = "cpu", original_weights: str | None = None
) -> FeatureAssembly:
    """The assembled extractor of a fine-tuned folder, in eval mode.

    Args:
        folder: written by fit3d-finetune.
        device: where to compute.
        original_weights: where the original's weights are now, if they were a file that moved, or are elsewhere than
            where an adapter was made.

    Raises:
        InputError: not a fine-tuned folder, or the original weights cannot be had.
    """
    folder = Path(folder)
    finetuned = read_finetuned(folder)
    if original_weights is not None:
        finetuned = with_original(finetuned, original_weights)
    require_original(finetuned, folder)
    original = load_backbone(finetuned.original, device)
    if (folder / WEIGHTS_FILE).is_file():
        return FeatureAssembly(original, load_backbone(finetuned.finetuned, device)).eval()
    adapted = load_backbone(finetuned.original, device)
    path = adapter_file(folder)
    assert path is not None
    merge(adapted.model, read_adapter(path), str(path))
    return FeatureAssembly(original, adapted).eval()
