"""A fine-tuned backbone as a program of torch.export (.pt2): torch alone runs it, without timm or fit3d.

Such a file is a zip. torch keeps weights in it as plain bytes, but would pickle the traced example beside them, and
pickles what is no plain tensor. Ours holds no pickle: the example is left out, and the file is looked through before
it gets its name. (`torch.export.load` unpickles whatever a file says: load those that you trust.)
"""

from __future__ import annotations

import json
import time
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fit3d_finetune.backbone.extract import load_extractor
from fit3d_finetune.backbone.hub import read_finetuned
from fit3d_finetune.sharing.checking import require_agreement
from fit3d_finetune.sharing.network import PatchFeatures, describe, trace
from fit3d_finetune.sharing.outputs import Written, require_free_place
from fit3d_ns.common.atomic import atomic_file
from fit3d_ns.common.choices import FeatureChoice
from fit3d_ns.common.errors import InputError


def write_program(
    folder: Path, output: Path, features: FeatureChoice = "both", original_weights: str | None = None
) -> Written:
    """Write the program, after torch read it back and gave the same maps at two sizes.

    Args:
        folder: that fit3d-finetune wrote.
        output: a name that ends in .pt2 and is free.
        original_weights: where the original's weights are, if they moved.

    Raises:
        InputError: the place is not free, the folder is no fine-tuned one, the maps differ, or this torch would write a
            pickle; nothing is left behind.
    """
    require_free_place(output, ".pt2")
    described = read_finetuned(folder)
    network = PatchFeatures(load_extractor(folder, features, "cpu", original_weights))
    start = time.perf_counter()
    program = trace(network)
    program.example_inputs = None
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(output) as temporary:
        about = json.dumps(describe(network, features, described))
        with open(temporary, "wb") as file:
            torch.export.save(program, file, extra_files={"fit3d.json": about})
        pickles = pickled_entries(temporary)
        if pickles:
            raise InputError(
                f"torch {torch.__version__} would write a pickle into {output} ({pickles[0]}): give it another torch, "
                "or use fit3d-share onnx."
            )
        with open(temporary, "rb") as written:
            read: Any = torch.export.load(written).module()

        def compute(images: Tensor) -> Tensor:
            maps: Tensor = read(images)
            return maps

        agreement = require_agreement(network, compute, str(output))
    return Written(output, output.stat().st_size / 1e6, time.perf_counter() - start, agreement)


def pickled_entries(path: Path) -> list[str]:
    """The entries of a .pt2 file that are, or may be, pickles."""
    found = []
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            name = entry.filename.partition("/")[2]
            if name.endswith(".json"):
                text = archive.read(entry).decode()
                found += [f"{name}: {key}" for key in _said_to_be_pickled(json.loads(text))]
            elif name.startswith("data/sample_inputs/"):
                found += [name] if entry.file_size else []
            elif not name.startswith(("data/weights/weight_", "data/constants/tensor_", "extra/", ".data/")) and (
                name not in ("archive_format", "archive_version", "byteorder", "version")
            ):
                found.append(name)
    return found


def _said_to_be_pickled(config: Any) -> list[str]:
    """Names in a payload config whose content is a pickle."""
    entries = config.get("config", {}) if isinstance(config, dict) else {}
    return [key for key, value in entries.items() if isinstance(value, dict) and value.get("use_pickle")]
