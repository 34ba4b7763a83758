"""Where an export goes: a free place, or one of our own exports, and never anything that fit3d did not write."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fit3d_ns.common.atomic import require_no_obstacle
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.json_input import parse_json
from fit3d_ns.common.output_place import require_writable

SCENE_FILE = "scene.json"
GAUSSIANS_FILE = "gaussians.safetensors"
SPLAT_FILE = "splat.ply"

EXPORT_FILES = frozenset({SCENE_FILE, GAUSSIANS_FILE, SPLAT_FILE, "previews.png", "lifting.json"})
"""All that fit3d's commands write into an export's folder."""

_OUR_FIELDS = {"format_version", "scene", "backbone", "decoder", "num_gaussians", "feature_dim", "views"}


def not_an_export(path: Path, extra_files: Collection[str] = ()) -> str | None:
    """Why what stands at `path` may not be replaced by an export (an `Obstacle`); None: nothing, or an export of ours.

    A folder is ours if its scene.json is, and if it holds nothing but files that exports consist of, or `extra_files`.
    """
    if not os.path.lexists(path):
        return None
    if path.is_symlink():
        return "is a symbolic link, which an export never replaces"
    if not path.is_dir():
        return "is a file, which an export never replaces"
    if not _is_our_scene_file(path / SCENE_FILE):
        return f"is a folder that fit3d did not write (it has no {SCENE_FILE} of an export)"
    foreign = sorted(
        entry.name
        for entry in os.scandir(path)
        if entry.name not in EXPORT_FILES.union(extra_files) or not entry.is_file(follow_symlinks=False)
    )
    return f"holds {foreign[0]!r}, which fit3d did not write" if foreign else None


def require_export_place(output_dir: Path, scene: str) -> Path:
    """The folder `output_dir/scene`, after trying whether an export can be written there.

    Raises:
        InputError: it cannot, or something stands there that must stay.
    """
    require_writable(output_dir, name=scene)
    directory = output_dir / scene
    require_no_obstacle(directory, directory, not_an_export)
    return directory


def require_same_export(directory: Path, scene_text: bytes, tensors: Mapping[str, Tensor]) -> None:
    """Check that an export in `directory`, if there is one, holds the same scene.json and tensors.

    Raises:
        InputError: it holds others.
    """
    if not os.path.lexists(directory):
        return
    try:
        old = load_file(directory / GAUSSIANS_FILE)
        same = (directory / SCENE_FILE).read_bytes() == scene_text
    except (OSError, SafetensorError, ValueError):
        old, same = {}, False
    if same and old.keys() == tensors.keys() and all(torch.equal(old[name], tensors[name]) for name in old):
        return
    raise InputError(
        f"{directory} holds another export already: give --overwrite to replace it, or another --output-dir or --name."
    )


def _is_our_scene_file(path: Path) -> bool:
    try:
        data = parse_json(path.read_bytes()) if path.is_file() and not path.is_symlink() else None
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and data.keys() >= _OUR_FIELDS
