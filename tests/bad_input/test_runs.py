"""What fit3d-export, fit3d-lift, fit3d-capture and fit3d-doctor read: config.yml, checkpoints, .ply, COLMAP, photos."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.bad_input.catalogue import (
    NO_JSON,
    RUN,
    Case,
    Refused,
    Spoil,
    cut,
    edited,
    folder_instead,
    removed,
    together,
    written,
)
from tests.bad_input.test_captures import NO_PATHS, POSES

CONFIG = f"{RUN}/config.yml"
CHECKPOINT = f"{RUN}/nerfstudio_models/step-000000019.ckpt"
EXPORT = ("fit3d-export", "--load-config", CONFIG, "--output-dir", "made")
DOCTOR = ("fit3d-doctor", "--load-config", CONFIG)
TINY = ("--backbone.name", "test_vit", "--backbone.weights", "random")
PLY = ("fit3d-lift", "--ply", "runs/attic/splat.ply", "--data", "capture", "--output-dir", "made", *TINY)
COLMAP = ("fit3d-lift", "--ply", "runs/attic/splat.ply", "--data", "colmap", "--output-dir", "made", *TINY)
CAPTURE = ("fit3d-capture", "photos", "--output-dir", "made")
NO_POSE = "1 nan nan nan nan nan nan nan 1 a.png\n\n"
EVIL = '!!python/object/apply:os.system ["touch pwned"]\n'
LAUGHS = "a: &a [x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{chr(ord(name) - 1)}'] * 9)}]\n" for name in "bcdefghijk"
)


def at_home(here: Path) -> None:
    """Let the run's paths lead to where it is."""
    text = (here / CONFIG).read_text()
    (here / CONFIG).write_text(text.replace("- somewhere\n", "".join(f"- {part}\n" for part in here.parts[1:])))


def configs() -> Iterator[Case]:
    for kind, text in {
        "empty": "",
        "text": "no configuration",
        "number": "5",
        "list": "- a\n- b\n",
        "no run's": "a: 1\n",
        "tabs": "a:\n\t- b",
        "anchors without end": "&a [*a, *a]",
        "billion laughs": "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"{b}: &{b} [{','.join(f'*{a}' for _ in range(9))}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "os.system": EVIL,
        "eval": '!!python/object/apply:builtins.eval ["1+1"]\n',
        "subprocess": "!!python/object/new:subprocess.Popen [[touch, pwned]]\n",
        "module": "!!python/module:os\n",
        "name": "!!python/name:os.system\n",
        "unknown class": "!!python/object:no.such.Class {}\n",
        "a class of nerfstudio that is no run": "!!python/object:nerfstudio.configs.base_config.ViewerConfig {}\n",
        "deep": "[" * 3000,
        "binary": bytes(range(256)),
        "pickle": pickle.dumps({"a": 1}),
    }.items():
        for name, words in (("export", EXPORT), ("doctor", DOCTOR)):
            yield Case(f"{name}: config.yml {kind}", words, (r"config\.yml",), ("outputs",), written(CONFIG, text))
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        yield Case(f"export: config.yml cut at {share}", EXPORT, (r"config\.yml",), ("outputs",), cut(CONFIG, share))
    yield Case("export: config.yml missing", EXPORT, (r"config\.yml",), ("outputs",), removed(CONFIG))
    yield Case("export: config.yml a folder", EXPORT, (r"config\.yml",), ("outputs",), folder_instead(CONFIG))


def checkpoint(content: object) -> Spoil:
    def spoil(here: Path) -> None:
        (here / CHECKPOINT).unlink()
        torch.save(content, here / CHECKPOINT)

    return spoil


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        import os

        return os.system, ("touch pwned",)


def changed_checkpoint(name: str, change: object) -> Spoil:
    def spoil(here: Path) -> None:
        loaded = torch.load(here / CHECKPOINT, weights_only=True)
        if name == "step":
            loaded["step"] = change
        elif change is None:
            del loaded["pipeline"][name]
        else:
            loaded["pipeline"][name] = change(loaded["pipeline"][name])  # type: ignore[operator]
        checkpoint(loaded)(here)

    return spoil


def checkpoints() -> Iterator[Case]:
    means = "_model.gauss_params.means"
    for kind, spoil in {
        "empty": written(CHECKPOINT, b""),
        "text": written(CHECKPOINT, "no checkpoint"),
        "cut": cut(CHECKPOINT),
        "missing": removed(CHECKPOINT),
        "pickle": written(CHECKPOINT, pickle.dumps({"step": 1})),
        "evil": checkpoint({"step": 19, "pipeline": Evil()}),
        "a list": checkpoint([1, 2, 3]),
        "a number": checkpoint(5),
        "a tensor": checkpoint(torch.zeros(3)),
        "nothing in it": checkpoint({}),
        "no pipeline": checkpoint({"step": 19}),
        "a pipeline of numbers": checkpoint({"step": 19, "pipeline": {"a": 1}}),
        "no means": changed_checkpoint(means, None),
        "means of two columns": changed_checkpoint(means, lambda values: values[:, :2].clone()),
        "fewer means": changed_checkpoint(means, lambda values: values[:-5].clone()),
        "nan": changed_checkpoint(means, lambda values: values * torch.nan),
        "means of whole numbers": changed_checkpoint(means, lambda values: "abc"),
    }.items():
        needs = ("outputs", "capture")
        home = together(at_home, spoil)
        yield Case(f"export: checkpoint {kind}", EXPORT, ("step-|checkpoint|nerfstudio_models|means",), needs, home)


def header(*lines: str, kind: str = "binary_little_endian", count: int = 3) -> str:
    names = lines or tuple(f"property float {name}" for name in ("x", "y", "z"))
    return "\n".join(("ply", f"format {kind} 1.0", f"element vertex {count}", *names, "end_header", ""))


def plys() -> Iterator[Case]:
    file = "runs/attic/splat.ply"
    for kind, content in {
        "empty": "",
        "text": "no ply",
        "only its first word": "ply\n",
        "header without end": "ply\nformat binary_little_endian 1.0\nelement vertex 3\n",
        "no Gaussians": header(count=0),
        "points alone": header() + "\0" * 36,
        "a billion vertices": header(count=10**9),
        "more vertices than can be counted": header(count=10**30),
        "negative vertices": header(count=-1),
        "unknown type": header("property quaternion x"),
        "a list": header("property list uchar int vertex_indices"),
        "ascii": header(kind="ascii") + "0 0 0\n" * 3,
        "no format": header(kind="text"),
        "binary": bytes(range(256)) * 10,
        "pickle": pickle.dumps([1]),
        "zip": b"PK\x03\x04" + bytes(100),
    }.items():
        yield Case(f"lift: ply {kind}", PLY, (r"splat\.ply",), ("runs", "capture"), written(file, content))
    for share in (0.2, 0.5, 0.99):
        yield Case(f"lift: ply cut at {share}", PLY, (r"splat\.ply",), ("runs", "capture"), cut(file, share))
    yield Case("lift: ply missing", PLY, (r"splat\.ply",), ("runs", "capture"), removed(file))
    yield Case("lift: ply a folder", PLY, (r"splat\.ply",), ("runs", "capture"), folder_instead(file))

    def not_a_number(here: Path) -> None:
        content = bytearray((here / file).read_bytes())
        start = content.index(b"end_header\n") + len(b"end_header\n")
        content[start : start + 4] = np.float32(np.nan).tobytes()
        written(file, bytes(content))(here)

    yield Case("lift: ply nan", PLY, (r"splat\.ply",), ("runs", "capture"), not_a_number)
    words = (*PLY, "--dataparser-transforms", "t.json")
    for kind, value in {
        "missing": None,
        "empty": "",
        "list": "[]",
        "no transform": '{"scale": 1}',
        "no scale": json.dumps({"transform": np.eye(4)[:3].tolist()}),
        "zero scale": json.dumps({"transform": np.eye(4)[:3].tolist(), "scale": 0}),
        "infinite scale": '{"transform": [[1,0,0,0],[0,1,0,0],[0,0,1,0]], "scale": 1e400}',
        "square": json.dumps({"transform": np.eye(4).tolist(), "scale": 1}),
        "nan": '{"transform": [[NaN,0,0,0],[0,1,0,0],[0,0,1,0]], "scale": 1}',
        "huge": '{"transform": [[1,0,0,0],[0,1,0,0],[0,0,1,0]], "scale": 1' + "0" * 400 + "}",
    }.items():
        spoil = (lambda here: None) if value is None else written("t.json", value)
        yield Case(f"lift: transforms {kind}", words, (r"t\.json",), ("runs", "capture"), spoil)


def captures() -> Iterator[Case]:
    """transforms.json as ns-train and fit3d-lift read it."""
    file = "capture/transforms.json"
    needs = ("runs", "capture")

    def case(name: str, spoil: Spoil, *says: str) -> Case:
        return Case(f"capture: {name}", PLY, ("capture", *says), needs, spoil)

    for kind, value in NO_PATHS.items():
        yield case(f"file_path {kind}", edited(file, "frames.0.file_path", value))
        if kind not in ("folder", "device"):
            yield case(f"ply_file_path {kind}", edited(file, "ply_file_path", value), "ply_file_path|point cloud")
    for kind, value in POSES.items():
        yield case(f"pose {kind}", edited(file, "frames.0.transform_matrix", value), "transform_matrix")
    for key in ("w", "fl_x", "k1", "camera_model", "applied_scale", "applied_transform"):
        for kind, value in {"null": None, "text": "abc", "list": [], "object": {}}.items():
            yield case(f"{key} {kind}", edited(file, key, value), "distortion" if key == "k1" else key)
    yield case(
        "two frames",
        lambda here: edited(file, "frames", json.loads((here / file).read_text())["frames"][:2])(here),
        "2 views",
    )
    yield case("mask of another size", edited(file, "frames.0.mask_path", "images/none.png"), "mask")
    for kind, text in NO_JSON.items():
        yield case(f"file {kind}", written(file, text))


def colmap() -> Iterator[Case]:
    needs = ("runs", "colmap")
    for name in ("cameras", "images", "points3D"):
        file = f"colmap/sparse/0/{name}.txt"
        for kind, content in {
            "words": "no numbers here at all\n",
            "binary": bytes(range(256)),
            "cut line": "1 PINHOLE 112\n" if name == "cameras" else "1 0.5 0.5\n",
            "nan": "1 PINHOLE 112 84 nan nan nan nan\n" if name == "cameras" else NO_POSE,
        }.items():
            if name != "points3D":
                yield Case(f"colmap: {name} {kind}", COLMAP, ("colmap",), needs, written(file, content))
    yield Case("colmap: no images", COLMAP, ("colmap",), needs, written("colmap/sparse/0/images.txt", ""))
    yield Case("colmap: no model", COLMAP, ("colmap",), needs, removed("colmap/sparse"))
    yield Case("colmap: photos gone", COLMAP, ("colmap",), needs, removed("colmap/images"))
    binary = together(
        *(removed(f"colmap/sparse/0/{name}.txt") for name in ("cameras", "images", "points3D")),
        *(written(f"colmap/sparse/0/{name}.bin", b"\xff" * 64) for name in ("cameras", "images", "points3D")),
    )
    yield Case("colmap: binary of ones", COLMAP, ("colmap",), needs, binary)


def photos() -> Iterator[Case]:
    def bomb(here: Path) -> None:
        with zipfile.ZipFile(here / "photos" / "0.jpg", "w") as archive:
            archive.writestr("a", bytes(1000))

    all_photos = [f"photos/{index}.jpg" for index in range(4)]
    for kind, content in {"empty": b"", "text": b"words", "webpage": b"<html></html>"}.items():
        spoil = together(*(written(file, content) for file in all_photos))
        yield Case(f"photos: all {kind}", CAPTURE, ("photos",), ("photos",), spoil)
    yield Case("photos: one a zip", CAPTURE, (r"0\.jpg",), ("photos",), together(removed("photos/0.jpg"), bomb))
    yield Case("photos: one cut", CAPTURE, (r"0\.jpg",), ("photos",), cut("photos/0.jpg"))
    yield Case("photos: two", CAPTURE, ("photos",), ("photos",), together(*map(removed, all_photos[:2])))
    yield Case("photos: none", CAPTURE, ("photos",), ("photos",), together(*map(removed, all_photos)))
    video = ("fit3d-capture", "video.mp4", "--output-dir", "made")
    for kind, content in {"empty": b"", "text": b"words", "binary": bytes(range(256)) * 20}.items():
        yield Case(f"video: {kind}", video, (r"video\.mp4",), (), written("video.mp4", content))


ALL = [*configs(), *checkpoints(), *plys(), *captures(), *colmap(), *photos()]


@pytest.mark.parametrize("case", ALL, ids=str)
def test_it_is_refused_in_one_sentence(case: Case, refused: Refused) -> None:
    refused(case)
    assert not (Path.cwd() / "pwned").exists()
