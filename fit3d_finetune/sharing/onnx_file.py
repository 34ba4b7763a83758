"""A fine-tuned backbone as an ONNX file, for runtimes that know no torch."""

from __future__ import annotations

import json
import time
import warnings
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
from fit3d_ns.common.optional import require_package

LARGEST_FILE = 2**31 - 2**27
"""Bytes of weights: a protobuf message ends at 2 GiB, and the graph needs some of it."""
REQUIREMENTS = {"onnx": "onnx>=1.17", "onnxscript": "onnxscript>=0.5", "onnxruntime": "onnxruntime>=1.20"}


def write_onnx(
    folder: Path, output: Path, features: FeatureChoice = "both", original_weights: str | None = None
) -> Written:
    """Write one file with all weights in it, after onnxruntime gave torch's maps at two sizes.

    Its input is "images" [batch, 3, height, width], RGB in 0..1 with sides that are multiples of the patch size, its
    output "maps" [batch, C, rows, columns]. What it holds stands in its metadata under "fit3d", as JSON.

    Args:
        folder: that fit3d-finetune wrote.
        output: a name that ends in .onnx and is free.
        original_weights: where the original's weights are, if they moved.

    Raises:
        InputError: a package is missing, the place is not free, the folder is no fine-tuned one, it is too large for
            one file, or the maps differ; nothing is left behind.
    """
    onnx, _, runtime = (require_package(name, "fit3d-share onnx needs", pip) for name, pip in REQUIREMENTS.items())
    require_free_place(output, ".onnx")
    described = read_finetuned(folder)
    network = PatchFeatures(load_extractor(folder, features, "cpu", original_weights))
    if network.weight_bytes() > LARGEST_FILE:
        raise InputError(
            f"{folder}: {network.weight_bytes() / 1e9:.1f} GB of weights are more than one ONNX file holds (2 GB): "
            + ("give --features finetuned." if features == "both" else "share the folder itself.")
        )
    start = time.perf_counter()
    model = _translated(network, describe(network, features, described))
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(output) as temporary:
        onnx.save_model(model, str(temporary))
        onnx.checker.check_model(str(temporary))
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        session = runtime.InferenceSession(str(temporary), options, providers=["CPUExecutionProvider"])

        def compute(images: Tensor) -> Tensor:
            return torch.from_numpy(session.run(["maps"], {"images": images.numpy()})[0])

        agreement = require_agreement(network, compute, str(output))
    seconds = time.perf_counter() - start
    return Written(output, output.stat().st_size / 1e6, seconds, agreement)


def _translated(network: PatchFeatures, description: dict[str, Any]) -> Any:
    """The ONNX model, with names for its sizes and the description in its metadata."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        translated = torch.onnx.export(
            trace(network), input_names=["images"], output_names=["maps"], dynamo=True, verbose=False
        )
    assert translated is not None
    model = translated.model_proto
    # The exporter's own names of sizes (s77, 14*s53) say nothing, and those of inner values would not match ours.
    del model.graph.value_info[:]
    _name_sizes(model.graph.input[0], ("batch", None, "height", "width"))
    _name_sizes(model.graph.output[0], ("batch", None, "rows", "columns"))
    model.metadata_props.add(key="fit3d", value=json.dumps(description))
    return model


def _name_sizes(value: Any, names: tuple[str | None, ...]) -> None:
    for size, name in zip(value.type.tensor_type.shape.dim, names, strict=True):
        if name is not None:
            size.dim_param = name
