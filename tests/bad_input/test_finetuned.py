"""Folders of fit3d-finetune that others may have written: fit3d.json, config.json, weights, heads."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from tests.bad_input.catalogue import (
    DEEP,
    MISSING,
    NO_JSON,
    Case,
    Raw,
    Refused,
    Spoil,
    cut,
    edited,
    folder_instead,
    removed,
    written,
)

PROBE = (
    *("fit3d-probe", "--finetuned", "finetuned", "--test-data", "room", "--train-data", "other_room"),
    *("--output-dir", "probe", "--seeds", "0", "--iterations", "2", "--tasks", "consistency"),
)
NEEDS = ("finetuned", "room", "other_room")
INFO, CONFIG, WEIGHTS = "finetuned/fit3d.json", "finetuned/config.json", "finetuned/model.safetensors"
NO_TEXTS: dict[str, Any] = {"missing": MISSING, "null": None, "number": 5, "list": [], "object": {}, "true": True}
NO_INTEGERS: dict[str, Any] = {"missing": MISSING, "text": "a", "fraction": 0.5, "list": [], "object": {}, "true": True}
NO_OBJECTS: dict[str, Any] = {"missing": MISSING, "null": None, "number": 5, "list": [], "text": "a"}


def header(text: str, data: bytes = b"") -> bytes:
    """A safetensors file with this header."""
    return struct.pack("<Q", len(text)) + text.encode() + data


FILES: dict[str, str | bytes] = {
    "empty": "",
    "short": "abc",
    "text": "no weights at all, but some words",
    "pickle": pickle.dumps({"a": 1}),
    "header longer than the file": struct.pack("<Q", 1 << 40) + b"{}",
    "header of all ones": b"\xff" * 64,
    "header no json": header("{"),
    "header deep": header(DEEP),
    "no tensors": header("{}"),
    "lying offsets": header('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,800]}}', b"\0" * 8),
    "lying shape": header('{"a":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,8]}}', b"\0" * 8),
    "overflowing shape": header(
        '{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,8]}}', b"\0" * 8
    ),
    "unknown type": header('{"a":{"dtype":"X9","shape":[2],"data_offsets":[0,8]}}', b"\0" * 8),
    "another network": header('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', b"\0" * 8),
}


def descriptions() -> Iterator[Case]:
    def case(name: str, key: str, value: Any) -> Case:
        last = key.rpartition(".")[2]
        return Case(
            f"fit3d.json: {name}",
            PROBE,
            (r"fit3d\.json", "version" if last == "format_version" else last),
            NEEDS,
            edited(INFO, key, value),
        )

    for kind, value in {**NO_INTEGERS, "null": None, "of the future": 99, "negative": -1}.items():
        yield case(f"version {kind}", "format_version", value)
    for key in ("original", "summary"):
        for kind, value in NO_OBJECTS.items():
            yield case(f"{key} {kind}", key, value)
    for key in ("name", "weights"):
        for kind, value in NO_TEXTS.items():
            yield case(f"{key} {kind}", f"original.{key}", value)
    for kind, value in NO_INTEGERS.items():
        yield case(f"layer {kind}", "original.layer", value)
    for kind, value in {**NO_INTEGERS, "zero": 0, "negative": -5}.items():
        yield case(f"max_size {kind}", "original.max_size", value)
    for key in ("precision", "input_rule"):
        for kind, value in {"null": None, "unknown": "fp4", "number": 5, "list": []}.items():
            yield case(f"{key} {kind}", f"original.{key}", value)
    yield case("unknown option", "original.shell", "rm")
    for kind, value in {**NO_TEXTS, "short": "ab", "no hexadecimal": "z" * 64}.items():
        yield case(f"sha256 {kind}", "original_sha256", value)
    for kind, says, key, value in (
        ("layer that the network lacks", "layer", "original.layer", 99),
        ("network that timm lacks", "no_such_vit", "original.name", "no_such_vit"),
        ("weights that are not there", "nowhere", "original.weights", "/nowhere/at/all.pth"),
        ("layer of 400 digits", "layer", "original.layer", Raw("1" + "0" * 400)),
        ("another original", "other weights", "original_sha256", "ab" * 32),
    ):
        yield Case(f"fit3d.json: {kind}", PROBE, (says,), NEEDS, edited(INFO, key, value))


def networks() -> Iterator[Case]:
    def case(name: str, spoil: Spoil, *says: str) -> Case:
        return Case(f"config.json: {name}", PROBE, (r"config\.json|finetuned", *says), NEEDS, spoil)

    for kind, value in {**NO_TEXTS, "unknown": "no_such_vit", "long": "x" * 5000}.items():
        yield case(f"architecture {kind}", edited(CONFIG, "architecture", value))
    for kind, value in {"number": 5, "list": [5], "text": "abc"}.items():
        yield case(f"model_args {kind}", edited(CONFIG, "model_args", value))
        yield case(f"pretrained_cfg {kind}", edited(CONFIG, "pretrained_cfg", value))
    for key, values in {
        "depth": (-1, "a", 1e9, 10**9),
        "embed_dim": (0, -64, "a", 63),
        "num_heads": (0, -1, "a", 7),
        "patch_size": (0, -1, "a", 1e9),
        "no_such_argument": (1,),
    }.items():
        for value in values:
            yield case(f"{key} {value}", edited(CONFIG, f"model_args.{key}", value))


def files() -> Iterator[Case]:
    for kind, content in NO_JSON.items():
        for file in (INFO, CONFIG):
            name = file.rpartition("/")[2]
            yield Case(f"{name}: file {kind}", PROBE, (name.replace(".", r"\."),), NEEDS, written(file, content))
    for kind, content in FILES.items():
        yield Case(f"weights: {kind}", PROBE, ("model.safetensors|finetuned",), NEEDS, written(WEIGHTS, content))
    yield Case("weights: cut", PROBE, ("model.safetensors",), NEEDS, cut(WEIGHTS))
    for file in (INFO, CONFIG, WEIGHTS):
        name = file.rpartition("/")[2]
        yield Case(f"{name}: missing", PROBE, ("finetuned", name), NEEDS, removed(file))
        yield Case(f"{name}: a folder", PROBE, ("finetuned", name), NEEDS, folder_instead(file))


def others() -> Iterator[Case]:
    """The same folder, given to the other commands."""
    for words in (
        ("fit3d-demo", "--finetuned", "finetuned", "--port", "0"),
        ("fit3d-share", "onnx", "finetuned", "--output", "out.onnx"),
        ("fit3d-share", "program", "finetuned", "--output", "out.pt2"),
        ("fit3d-share", "merge", "finetuned", "--output-dir", "merged"),
        ("fit3d-share", "publish", "finetuned", "--repo-id", "somebody/model"),
    ):
        name = " ".join(words[:2]) if words[0] == "fit3d-share" else words[0]
        yield Case(f"{name}: no folder", words, ("finetuned",))
        for kind, spoil in {
            "description cut": cut(INFO),
            "description missing": removed(INFO),
            "configuration cut": cut(CONFIG),
            "weights cut": cut(WEIGHTS),
            "weights text": written(WEIGHTS, "words"),
        }.items():
            yield Case(f"{name}: {kind}", words, ("finetuned",), ("finetuned",), spoil)


ALL = [*descriptions(), *networks(), *files(), *others()]


@pytest.mark.parametrize("case", ALL, ids=str)
def test_it_is_refused_in_one_sentence(case: Case, refused: Refused) -> None:
    refused(case)
