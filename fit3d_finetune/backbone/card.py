"""The model card of a fine-tuned backbone."""

from __future__ import annotations

import json
from typing import Any

from fit3d_finetune.backbone.origin import origin_of
from fit3d_ns.scene.description import BackboneInfo


def model_card(backbone: BackboneInfo, summary: dict[str, Any]) -> str:
    """README.md of the folder: what the weights are, how to load them, and what they were made from and how.

    Args:
        backbone: that the fine-tuning started from.
        summary: as in fit3d.json.
    """
    run = summary["run"]
    recipe = "\n".join(f"| {name} | {value} |" for name, value in run["recipe"].items())
    figures = [name for name in summary["history"][0] if name != "step"] if summary["history"] else []
    header = "| step | " + " | ".join(figures) + " |\n|---|" + "---|" * len(figures)
    rows = "\n".join(
        f"| {int(entry['step'])} | " + " | ".join(f"{entry[name]:.4f}" for name in figures) + " |"
        for entry in summary["history"]
    )
    if summary["mixed"] is not None:
        share = f"{100 * run['recipe']['weight_mix']:g} % of the fine-tuned weights, the rest the original's"
        rows += f"\n| {share} | " + " | ".join(f"{summary['mixed'][name]:.4f}" for name in figures) + " |"
    versions = ", ".join(f"{name} {value}" for name, value in summary["versions"].items())
    novel = f" ({run['novel_views']} of them rendered between photographs)" if run["novel_views"] else ""
    kind = "features re-rendered from 3D Gaussians" if run["targets"] == "gaussians" else "a control without 3D"
    return f"""{_front_matter(backbone, run)}
# {backbone.description}, fine-tuned by fit3d

{backbone.name} whose patch tokens of block {backbone.layer} (from 0, after the final norm) were fine-tuned towards
{kind} (method: FiT3D, Yue et al., ECCV 2024). Later blocks are those of the original.

{_adapter_text(backbone, run)}```python
{_loading(backbone, run)}
# images [B, 3, H, W], sides multiples of {backbone.patch_size}, normalised by mean {backbone.mean}, std {backbone.std}
[maps] = model.forward_intermediates(images, indices=[{backbone.layer}], norm=True, intermediates_only=True)

import fit3d_finetune
assembly = fit3d_finetune.load("PATH_OF_THIS_FOLDER")    # original and fine-tuned features, concatenated
maps = assembly(images)    # images [B, 3, H, W] in 0..1 -> [B, {2 * backbone.embed_dim}, h, w]
```

## Data

{summary["training_views"]} training views{novel} of {len(run["scenes"])} scenes: {", ".join(run["scenes"])}.
Held-out scenes: {", ".join(run["val_scenes"]) or "none"}.

## Recipe

{summary["steps"]} steps in {summary["seconds"]:.0f} s on {summary["device"]} ({summary["processor"]}),
{run["backbone"]["precision"]}, seed {run["seed"]}.

| option | value |
|---|---|
{recipe}

## Validation

{header if figures else "None."}
{rows if figures else ""}

## Versions

{versions}. Original weights: {run["backbone"]["weights"]}, SHA-256 {run["backbone"]["weights_sha256"]}.
"""


def _front_matter(backbone: BackboneInfo, run: dict[str, Any]) -> str:
    """What the hub reads: YAML, of which JSON is a part."""
    fields = origin_of(backbone.name, run["backbone"]["weights"]).metadata() | {
        "library_name": "timm",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["timm", "fit3d", "3d-aware"],
    }
    if "base_model" in fields:
        fields["base_model_relation"] = "adapter" if run.get("save") == "adapter" else "finetune"
    return "\n".join(["---", *(f"{name}: {json.dumps(value)}" for name, value in fields.items()), "---"])


def _loading(backbone: BackboneInfo, run: dict[str, Any]) -> str:
    """How to get the timm model."""
    if run.get("save") != "adapter":
        return """import timm    # without pretrained=True the weights would be random; published: "hf-hub:USER/NAME"
model = timm.create_model("local-dir:PATH_OF_THIS_FOLDER", pretrained=True, num_classes=0).eval()"""
    return f"""import timm, fit3d_finetune
model = timm.create_model("{backbone.name}", pretrained=True, num_classes=0, dynamic_img_size=True).eval()
fit3d_finetune.apply_adapter(model, "PATH_OF_THIS_FOLDER")    # the original weights become the fine-tuned ones"""


def _adapter_text(backbone: BackboneInfo, run: dict[str, Any]) -> str:
    if "adapter" not in run:
        return ""
    held = "This folder holds the adapter alone" if run.get("save") == "adapter" else "The adapter alone is adapter/"
    return f"""Trained as a low-rank adapter (LoRA, rank {run["rank"]}) of the attention; all other weights are the
original's. {held}: peft reads it, and merged into the original weights of
{backbone.name} it gives these weights bit for bit.

"""
