"""transforms.json, classes.json, labels and depth of scenes that fit3d-probe and fit3d-data are given."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.bad_input.catalogue import (
    DEEP,
    MISSING,
    Case,
    Raw,
    Refused,
    Spoil,
    cut,
    edited,
    folder_instead,
    removed,
    together,
    written,
)

PROBE = (
    *("fit3d-probe", "--test-data", "room", "--train-data", "other_room", "--output-dir", "probe", "--seeds", "0"),
    *("--backbone.name", "test_vit", "--backbone.weights", "random", "--backbone.layer", "3", "--iterations", "2"),
)
NEEDS = ("room", "other_room")
FILE = "room/transforms.json"
HUGE = Raw("1" + "0" * 400)
INFINITE, NAN = Raw("1e400"), Raw("NaN")
SURROGATE = Raw('"\\ud800"')
NO_NUMBERS: dict[str, Any] = {"null": None, "text": "abc", "nan": NAN, "infinite": INFINITE, "list": [], "object": {}}
NO_LENGTHS = {**NO_NUMBERS, "zero": 0, "negative": -1, "missing": MISSING}
NO_PATHS: dict[str, Any] = {
    "number": 5,
    "empty": "",
    "list": ["a.png"],
    "long": "x" * 5000,
    "zero-byte": "images/\0.png",
    "absent": "images/none.png",
    "folder": "images",
    "device": "/dev/zero",
}


def pose(**changes: Any) -> list[list[Any]]:
    matrix: list[list[Any]] = np.eye(4).tolist()
    for place, value in changes.items():
        matrix[int(place[1])][int(place[2])] = value
    return matrix


POSES: dict[str, Any] = {
    "null": None,
    "number": 5,
    "text": "abc",
    "empty": [],
    "two-by-two": [[1, 0], [0, 1]],
    "two-rows": pose()[:2],
    "ragged": [*pose()[:3], [0, 0, 1]],
    "texts": [["a"] * 4] * 4,
    "scaled": pose(m00=2, m11=2, m22=2),
    "sheared": pose(m01=0.5),
    "mirrored": pose(m00=-1),
    "zeros": [[0] * 4] * 4,
    "far": pose(m03=1e300),
}


def transforms() -> Iterator[Case]:
    def case(name: str, spoil: Spoil, *says: str) -> Case:
        return Case(f"transforms: {name}", PROBE, ("room/transforms.json", *says), NEEDS, spoil)

    for key in ("w", "h", "fl_x", "fl_y"):
        for kind, value in NO_LENGTHS.items():
            if (key, kind) != ("fl_x", "missing"):  # no camera is fine: consistency is left out
                yield case(f"{key} {kind}", edited(FILE, key, value), key)
    for key in ("cx", "cy"):
        for kind, value in {**NO_NUMBERS, "huge": 1e9}.items():
            yield case(f"{key} {kind}", edited(FILE, key, value), key)
    yield case("w a fraction", edited(FILE, "w", 64.5), "w", "whole number")
    yield case("fl_x of 400 digits", edited(FILE, "fl_x", HUGE), "fl_x")
    for kind, value in {**NO_NUMBERS, "zero": 0, "negative": -0.001, "400-digits": HUGE}.items():
        yield case(f"scale {kind}", edited(FILE, "depth_unit_scale_factor", value), "depth_unit_scale_factor")
    for key in ("k1", "p2"):
        for kind, value in NO_NUMBERS.items():
            yield case(f"{key} {kind}", edited(FILE, key, value), "distortion")
    yield case("k4 of no fisheye", edited(FILE, "k4", 0.1), "k4")
    for kind, value in {"null": None, "object": {}, "number": 5, "text": "a", "numbers": [5], "lists": [[]]}.items():
        yield case(f"frames {kind}", edited(FILE, "frames", value), "frames")
    yield case("no frames", edited(FILE, "frames", MISSING), "frames")
    yield case("a frame without a file", edited(FILE, "frames.0.file_path", MISSING), "file_path")
    yield case("a frame's file null", edited(FILE, "frames.0.file_path", None), "file_path")
    for key in ("file_path", "depth_file_path", "semantic_file_path"):
        yield case(f"{key} a surrogate", edited(FILE, f"frames.0.{key}", SURROGATE), "not valid JSON|no text")
        for kind, value in NO_PATHS.items():
            where = r"room: 1 of \d+ files are missing" if kind in ("absent", "folder", "device") else FILE
            yield Case(f"transforms: {key} {kind}", PROBE, (where,), NEEDS, edited(FILE, f"frames.0.{key}", value))
    for kind, value in POSES.items():
        says = ("transform_matrix of frame images/frame_000.png",)
        yield case(f"pose {kind}", edited(FILE, "frames.0.transform_matrix", value), *says)
    yield case("pose nan", edited(FILE, "frames.0.transform_matrix.0.0", NAN), "transform_matrix of frame")
    for kind, text in {
        "empty": "",
        "cut": '{"frames": [',
        "deep": DEEP,
        "list": "[]",
        "number": "5",
        "null": "null",
        "text": '"frames"',
        "latin": b'{"a": "\xff"}',
        "pickle": pickle.dumps({"frames": []}),
        "binary": bytes(range(256)),
    }.items():
        yield case(f"file {kind}", written(FILE, text))


def classes() -> Iterator[Case]:
    file = "room/classes.json"
    for kind, value in {
        "empty": "",
        "null": "null",
        "object": "{}",
        "no names": "[]",
        "numbers": "[1, 2, 3]",
        "nested": '[["wall"], "picture", "window"]',
        "too many": str([f"class {index}" for index in range(300)]).replace("'", '"'),
        "deep": DEEP,
        "surrogate": '["\\ud800", "b", "c"]',
        "binary": bytes(range(256)),
    }.items():
        yield Case(f"classes: {kind}", PROBE, (file,), NEEDS, written(file, value))
    yield Case("classes: others than the training data's", PROBE, ("class lists",), NEEDS, written(file, '["a"]'))
    yield Case("classes: missing", PROBE, ("classes.json",), NEEDS, removed(file))
    yield Case("classes: a folder", PROBE, ("classes.json",), NEEDS, folder_instead(file))


def png(values: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG", **options)
    return buffer.getvalue()


def images() -> Iterator[Case]:
    flat = np.zeros((48, 64), np.uint8)
    for folder, kind in (("images", "photo"), ("semantic", "label"), ("depth", "depth")):
        file = f"room/{folder}/frame_000.png"
        for name, spoil in {
            "empty": written(file, b""),
            "cut": cut(file),
            "text": written(file, "no image"),
            "pickle": written(file, pickle.dumps(flat)),
            "webpage": written(file, "<html><body>404</body></html>"),
        }.items():
            yield Case(f"images: {kind} {name}", PROBE, (r"frame_000\.png",), NEEDS, spoil)
    for kind, values in {
        "label of another shape": np.zeros((30, 32), np.uint8),
        "label in colour": np.zeros((48, 64, 3), np.uint8),
        "label beyond the classes": np.full((48, 64), 17, np.uint8),
    }.items():
        file = "room/semantic/frame_000.png"
        yield Case(f"images: {kind}", PROBE, (r"frame_000\.png",), NEEDS, written(file, png(values)))
    for kind, values in {
        "depth of another shape": np.full((30, 32), 2000, np.uint16),
        "depth in colour": np.zeros((48, 64, 3), np.uint8),
    }.items():
        file = "room/depth/frame_000.png"
        yield Case(f"images: {kind}", PROBE, (r"frame_000\.png",), NEEDS, written(file, png(values)))
    yield Case(
        "images: no depth at all",
        (*PROBE, "--tasks", "depth"),
        ("depth",),
        NEEDS,
        together(*(written(f"room/depth/frame_00{i}.png", png(np.zeros((48, 64), np.uint16))) for i in range(6))),
    )


ALL = [*transforms(), *classes(), *images()]


@pytest.mark.parametrize("case", ALL, ids=str)
def test_it_is_refused_in_one_sentence(case: Case, refused: Refused) -> None:
    refused(case)
