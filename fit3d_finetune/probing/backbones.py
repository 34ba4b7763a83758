"""Which backbones a probing compares, as the command line names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fit3d_finetune.backbone.hub import INFO_FILE, read_finetuned, require_original
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.backbone import BackboneConfig, backbone_fingerprint
from fit3d_ns.features.weights import FILE_SUFFIXES


def chosen_backbones(
    backbone: BackboneConfig, finetuned_folder: Path | None, control_folder: Path | None, arms: Sequence[str]
) -> dict[str, BackboneConfig]:
    """By name: original, fine-tuned, 2D control, as far as they are given, and what `arms` add.

    Args:
        backbone: the original where no fine-tuned folder is given.
        finetuned_folder: of fit3d-finetune.
        control_folder: of fit3d-finetune --targets mirror, from the same original.
        arms: each as NAME=WEIGHTS.

    Raises:
        InputError: folders that cannot be read or are no pair, and arms that cannot be had.
    """
    if finetuned_folder is None:
        if control_folder is not None:
            raise InputError("--control needs --finetuned: give the folder of the fine-tuned backbone too.")
        return _with_further({"original": backbone}, arms)
    finetuned = read_finetuned(finetuned_folder)
    require_original(finetuned, finetuned_folder)
    backbones = {"original": finetuned.original, "fine-tuned": finetuned.finetuned}
    if control_folder is not None:
        control = read_finetuned(control_folder)
        if control.original_sha256 != finetuned.original_sha256 or control.original.layer != finetuned.original.layer:
            raise InputError(f"--control {control_folder} started from another backbone than --finetuned: give a pair.")
        run = control.summary.get("run")
        targets = run.get("targets") if isinstance(run, dict) else None
        if targets != "mirror":
            raise InputError(
                f"--control {control_folder} is not of fit3d-finetune --targets mirror (its targets: {targets}): "
                f"give one that is, or compare it as --arm NAME={control_folder}."
            )
        backbones["2D control"] = control.finetuned
    return _with_further(backbones, arms)


def _with_further(backbones: dict[str, BackboneConfig], arms: Sequence[str]) -> dict[str, BackboneConfig]:
    """The backbones and those of --arm NAME=WEIGHTS; their weights are looked for before anything is encoded."""
    found = dict(backbones)
    for words in arms:
        name, separator, weights = (part.strip() for part in words.partition("="))
        if not (separator and name and weights) or "+" in name or "/" in name:
            raise InputError(f"--arm {words} is not NAME=WEIGHTS (a name has neither + nor /).")
        if name in found:
            raise InputError(f"--arm {words}: there is an arm “{name}” already; give another name.")
        config = _backbone_of(weights, backbones["original"])
        backbone_fingerprint(config)
        found[name] = config
    return found


def _backbone_of(weights: str, original: BackboneConfig) -> BackboneConfig:
    """What --arm names after the =."""
    path = Path(weights.removeprefix("local-dir:")).expanduser()
    if (path / INFO_FILE).is_file():
        return read_finetuned(path).finetuned
    if path.is_dir():
        return replace(original, weights=weights, name=BackboneConfig().name)
    if path.is_file():
        return replace(original, weights=weights)
    if path.suffix in FILE_SUFFIXES or len(path.parts) > 1:
        raise InputError(f"--arm …={weights}: there is no such file or folder.")
    return BackboneConfig(name=weights, weights="hub")
