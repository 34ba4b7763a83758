"""Exports that others may have written: scene.json and gaussians.safetensors, for fit3d-lift and fit3d-finetune."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.bad_input.catalogue import (
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
    together,
    written,
)
from tests.bad_input.test_finetuned import FILES, NO_INTEGERS, NO_OBJECTS, NO_TEXTS

LIFT = (
    *("fit3d-lift", "--export", "runs/attic", "--output-dir", "lifted"),
    *("--backbone.name", "test_vit", "--backbone.weights", "random"),
)
FINETUNE = ("fit3d-finetune", "--exports", "runs", "--output-dir", "out", "--tracker", "none", "--epochs", "1")
NEEDS = ("runs",)
SCENE, GAUSSIANS = "runs/attic/scene.json", "runs/attic/gaussians.safetensors"
HUGE, NAN, INFINITE = Raw("1" + "0" * 400), Raw("NaN"), Raw("1e400")
NO_NUMBERS: dict[str, Any] = {
    **{"missing": MISSING, "null": None, "text": "a", "list": [], "true": True, "zero": 0, "negative": -1},
    **{"nan": NAN, "infinite": INFINITE, "400 digits": HUGE},
}


def both(name: str, spoil: Spoil, *says: str) -> Iterator[Case]:
    """The same for both commands that read exports."""
    yield Case(f"lift: {name}", LIFT, ("attic", *says), NEEDS, spoil)
    yield Case(f"finetune: {name}", FINETUNE, ("attic", *says), NEEDS, spoil)


def descriptions() -> Iterator[Case]:
    def case(key: str, kind: str, value: Any) -> Case:
        last = key.rpartition(".")[2]
        return Case(f"{key} {kind}", LIFT, (r"scene\.json", last), NEEDS, edited(SCENE, key, value))

    for key in ("scene", "units", "images_root", "backbone.name", "backbone.weights", "views.0.path"):
        for kind, value in NO_TEXTS.items():
            yield case(key, kind, value)
    for key in ("num_gaussians", "feature_dim", "channels", "backbone.patch_size", "views.0.width", "views.0.height"):
        for kind, value in {**NO_INTEGERS, "zero": 0, "negative": -1}.items():
            yield case(key, kind, value)
    for kind, value in NO_NUMBERS.items():
        yield case("scale", kind, value)
    for key in ("backbone", "views"):
        for kind, value in {**NO_OBJECTS, **({"empty": [], "numbers": [1]} if key == "views" else {})}.items():
            if (key, kind) != ("views", "list"):
                yield case(key, kind, value)
    for key in ("decoder", "decoder_resolution", "rasterize_mode", "views.0.split"):
        for kind, value in {**NO_TEXTS, "unknown": "other"}.items():
            yield case(key, kind, value)
    for key in ("transform", "views.0.K", "views.0.world_to_camera", "views.0.distortion", "backbone.mean"):
        for kind, value in {"null": None, "number": 5, "empty": [], "text": "a", "400 digits": HUGE}.items():
            yield case(key, kind, value)
        yield case(key, "nan", [[float("nan")] * 4] * 4)
    for key in ("views.0.sha256", "backbone.weights_sha256"):
        for kind, value in {**NO_TEXTS, "short": "ab", "no hexadecimal": "z" * 64}.items():
            yield case(key, kind, value)
    for kind, value in {"null": None, "short": [1], "zero": [0, 0], "negative": [-1, 4], "texts": ["a", "b"]}.items():
        yield case("views.0.grid", kind, value)
    for kind, value in {"null": None, "text": "1", "future": 99, "zero": 0, "true": True, "missing": MISSING}.items():
        yield Case(
            f"format_version {kind}", LIFT, (r"scene\.json", "version"), NEEDS, edited(SCENE, "format_version", value)
        )
    for kind, name in {
        "empty": "",
        "dot": ".",
        "up": "../victim",
        "absolute": "/etc",
        "hidden": ".git",
        "long": "x" * 300,
        "slash": "a/b",
        "zero byte": "a\0b",
        "line": "a\nb",
        "html": "<script>alert(1)</script>",
    }.items():
        yield from both(f"scene's name {kind}", edited(SCENE, "scene", name), "scene")


def tensors(change: Callable[[dict[str, torch.Tensor]], object] = lambda values: None) -> Spoil:
    """Change the tensors of the Gaussians and keep the file whole, also beside a changed scene.json."""

    def spoil(here: Path) -> None:
        values = load_file(here / GAUSSIANS)
        with safe_open(here / GAUSSIANS, framework="pt") as file:
            metadata = file.metadata()
        change(values)
        (here / GAUSSIANS).unlink()
        digest = hashlib.sha256((here / SCENE).read_bytes()).hexdigest()
        save_file(values, here / GAUSSIANS, {**metadata, "scene_sha256": digest})

    return spoil


def stamped(key: str, value: Any) -> Spoil:
    """A changed scene.json that the Gaussians' file belongs to."""
    return together(edited(SCENE, key, value), tensors())


def put(name: str, value: float, place: Any = 0) -> Spoil:
    def change(values: dict[str, torch.Tensor]) -> None:
        values[name].view(-1)[place] = value

    return tensors(change)


def drop(name: str) -> Spoil:
    return tensors(lambda values: values.pop(name))


def shorten(name: str) -> Spoil:
    return tensors(lambda values: values.__setitem__(name, values[name][:-1].clone()))


def files() -> Iterator[Case]:
    for kind, content in FILES.items():
        yield from both(f"gaussians {kind}", written(GAUSSIANS, content))
    yield from both("gaussians cut", cut(GAUSSIANS, 0.9))
    yield from both("gaussians missing", removed(GAUSSIANS))
    yield from both("gaussians a folder", folder_instead(GAUSSIANS))
    for kind, text in NO_JSON.items():
        yield from both(f"scene.json {kind}", written(SCENE, text))
    for name in ("means", "quats", "scales", "opacities", "features"):
        yield from both(f"{name} nan", put(name, float("nan")), name)
        yield from both(f"{name} infinite", put(name, float("inf")), name)
        yield from both(f"{name} missing", drop(name), name)
        yield from both(f"{name} too short", shorten(name), name)


def scenes() -> Iterator[Case]:
    yield Case("lift: no folder", LIFT, ("runs/attic",))
    yield Case("finetune: no folder", FINETUNE, ("runs",))
    yield Case("finetune: no exports in it", FINETUNE, ("runs",), NEEDS, together(removed(SCENE), removed("runs/barn")))
    yield Case("finetune: a file", ("fit3d-finetune", "--exports", "runs/attic/scene.json"), ("scene.json",), NEEDS)
    name = stamped("backbone.name", "vit_tiny_patch16_224")
    yield Case("finetune: two backbones", FINETUNE, ("barn|attic", "backbone"), NEEDS, name)
    yield from both("photos moved", stamped("images_root", "/nowhere/photos"), "--images-root")
    yield from both("a photo changed since", stamped("views.1.sha256", "ab" * 32), r"1\.png", "another|changed|differ")
    yield from both("no such photo", stamped("views.1.path", "none.png"), r"none\.png")
    yield from both("a photo of another size", stamped("views.1.width", 66), r"1\.png")
    yield from both("a photo much wider than its camera's", stamped("views.1.width", 9999), r"views\[1\]\.K")
    yield from both("more Gaussians than there are", stamped("num_gaussians", 10**6), "1000000|num_gaussians|means")
    yield from both("a grid that is not the image's", stamped("views.1.grid", [1000, 1000]), "grid")
    yield from both("a camera with infinite focal length", stamped("views.1.K.0.0", 1e300), "K")
    html = together(removed("runs/barn"), stamped("backbone.name", "<b>x</b>"))
    yield Case("finetune: html as the backbone's name", FINETUNE, ("no model",), NEEDS, html)
    patches = together(removed("runs/barn"), stamped("backbone.patch_size", 8))
    yield Case("finetune: patches that are not the backbone's", FINETUNE, ("attic", "patch_size"), NEEDS, patches)
    yield Case(
        "finetune: two sizes of patches", FINETUNE, ("attic|barn", "backbone"), NEEDS, stamped("backbone.patch_size", 8)
    )


ALL = [*descriptions(), *files(), *scenes()]


@pytest.mark.parametrize("case", ALL, ids=str)
def test_it_is_refused_in_one_sentence(case: Case, refused: Refused) -> None:
    refused(case)
