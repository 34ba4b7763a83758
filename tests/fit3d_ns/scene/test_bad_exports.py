"""A damaged export is refused with its own sentence, never half-read."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from fit3d_ns.common.errors import InputError
from fit3d_ns.scene.gaussians import FeatureGaussians
from fit3d_ns.scene.storage import FeatureStorage
from tests.fit3d_ns.scene.scenes import make_gaussians

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def export(tmp_path: Path) -> Path:
    make_gaussians(tmp_path / "capture").save(tmp_path / "room")
    return tmp_path / "room"


def read(export: Path) -> tuple[Tensors, dict[str, str], Any]:
    with safe_open(export / "gaussians.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    return tensors, metadata, json.loads((export / "scene.json").read_text())


def write(export: Path, tensors: Tensors, metadata: dict[str, str], scene: Any) -> None:
    """Write a consistent export (the hash fits) whatever its content."""
    text = json.dumps(scene)
    (export / "scene.json").write_text(text)
    metadata = metadata | {"scene_sha256": hashlib.sha256(text.encode()).hexdigest()}
    save_file(tensors, export / "gaussians.safetensors", metadata=metadata)


def refused(export: Path, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        FeatureGaussians.load(export)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert ";" in message


@pytest.mark.parametrize("name", ["scene.json", "gaussians.safetensors"])
def test_a_missing_file_is_named(export: Path, name: str) -> None:
    (export / name).unlink()
    refused(export, rf"room has no {name}; give a folder written by fit3d-export")


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", r"nowhere has no scene\.json; give a folder")


def test_viewers_splat_ply_is_not_needed(export: Path) -> None:
    (export / "splat.ply").unlink()
    FeatureGaussians.load(export)


@pytest.mark.parametrize("kept", [0, 5, 200, 5000, -1])
def test_truncated_tensors_are_named(export: Path, kept: int) -> None:
    path = export / "gaussians.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    refused(export, r"gaussians\.safetensors is truncated or damaged \(.*\); export the scene again")


@pytest.mark.parametrize("version", [0, 4, "1", 1.0, True, None, [1]])
def test_another_version_is_named(export: Path, version: object) -> None:
    tensors, metadata, scene = read(export)
    write(export, tensors, metadata, scene | {"format_version": version})
    refused(export, r"scene\.json has export format version .*, but this program reads versions 1, 2 and 3; export")


def test_files_of_two_versions_are_refused(export: Path) -> None:
    tensors, metadata, scene = read(export)
    write(export, tensors, metadata | {"format_version": "7"}, scene)
    refused(export, r"gaussians\.safetensors has export format version 7, but scene\.json beside it has 1 .*; export")


def test_a_file_of_other_tensors_is_refused(export: Path) -> None:
    save_file({"a": torch.zeros(1)}, export / "gaussians.safetensors")
    refused(export, r"gaussians\.safetensors has export format version None, but")


def test_an_edited_scene_is_noticed(export: Path) -> None:
    path = export / "scene.json"
    path.write_text(path.read_text().replace('"metres"', '"inches"'))
    refused(export, r"scene\.json was changed after the export .*; export the scene again .* --images-root")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_a_scene_that_is_no_json_is_named(export: Path, text: str) -> None:
    (export / "scene.json").write_text(text)
    refused(export, r"scene\.json is not valid JSON .*; export the scene again")


def test_a_scene_in_another_encoding_is_named(export: Path) -> None:
    (export / "scene.json").write_bytes(b"\xff\xfe{}")
    refused(export, r"scene\.json is not valid JSON .*; export the scene again")


def fill(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[7] = value
        return tensor

    return change


TENSOR_FAULTS: list[tuple[str, Callable[[torch.Tensor], torch.Tensor | None], str]] = [
    *((name, fill(float("nan")), f"'{name}' has NaN") for name in ("means", "quats", "scales", "opacities", "sh")),
    *(
        (name, fill(float("inf")), f"'{name}' has NaN or inf")
        for name in ("features", "decoder.weight", "decoder.bias")
    ),
    ("sh", fill(float("-inf")), "'sh' has NaN or infinite values"),
    ("means", lambda t: None, "tensor 'means' is missing"),
    ("decoder.weight", lambda t: None, "tensor 'decoder.weight' is missing"),
    ("means", lambda t: t[:-1], r"'means' has shape \[49, 3\] where scene.json implies \[50, 3\]"),
    ("features", lambda t: t[:, :-1], r"'features' has shape \[50, 7\] where scene.json implies \[50, 8\]"),
    ("opacities", lambda t: t[:, None], r"'opacities' has shape \[50, 1\] where scene.json implies \[50\]"),
    ("sh", lambda t: t[:, :5], "the number of SH coefficients is not 1, 4, 9 or 16"),
    ("sh", lambda t: t[:, 0], r"'sh' has shape \[50, 3\] where scene.json implies \[50, K, 3\]"),
    ("decoder.bias", lambda t: t[:3], r"'decoder.bias' has shape \[3\] where scene.json implies \[12\]"),
    ("features", lambda t: t.float(), "'features' is torch.float32, not torch.float16"),
    ("means", lambda t: t.double(), "'means' is torch.float64, not torch.float32"),
    ("opacities", fill(1.5), r"opacities lie in .*\.\.1.5 instead of 0..1"),
    ("opacities", fill(-0.5), r"opacities lie in -0.5\.\..* instead of 0..1"),
    ("scales", fill(0.0), "some scales are not positive"),
    ("scales", fill(-1.0), "some scales are not positive"),
    ("quats", lambda t: t * 0, "some quaternions are not of unit length"),
    ("quats", lambda t: t * 1.01, "some quaternions are not of unit length"),
]


@pytest.mark.parametrize(
    ("name", "change", "complaint"), TENSOR_FAULTS, ids=[f"{fault[0]}-{i}" for i, fault in enumerate(TENSOR_FAULTS)]
)
def test_a_bad_tensor_is_named(
    export: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor | None], complaint: str
) -> None:
    tensors, metadata, scene = read(export)
    changed = change(tensors.pop(name))
    if changed is not None:
        tensors[name] = changed.contiguous()
    write(export, tensors, metadata, scene)
    refused(export, rf"gaussians\.safetensors: .*{complaint}.*; export the scene again")


def test_a_tensor_too_many_is_named(export: Path) -> None:
    tensors, metadata, scene = read(export)
    write(export, tensors | {"decoder.gain": torch.ones(1)}, metadata, scene)
    refused(export, r"decoder\.gain.* is not part of the format for a 'linear' decoder, fp16 features .*; export")


SCENE_FAULTS: list[tuple[str, Any, str]] = [
    ("scene", 3, r"'scene' is 3, not a text"),
    ("num_gaussians", 51, r"'means' has shape \[50, 3\] where scene.json implies \[51, 3\]"),
    ("num_gaussians", 0, r"'num_gaussians' is 0, not an integer of at least 1"),
    ("num_gaussians", 50.5, r"'num_gaussians' is 50.5, not an integer of at least 1"),
    ("feature_dim", True, r"'feature_dim' is True, not an integer of at least 1"),
    ("channels", 11, r"'channels' is 11, but the backbone has 12"),
    ("decoder", "mlp", r"'decoder' is 'mlp', not one of linear, conv3x3"),
    ("decoder", "conv3x3", r"'decoder.weight' has shape \[12, 8\] where scene.json implies \[12, 8, 3, 3\]"),
    ("transform", [[1, 0, 0]], r"'transform' is not 3x4 finite numbers"),
    ("transform", [[0.0] * 4] * 3, r"'transform' cannot be inverted"),
    ("transform", [[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1e-9, 0]], r"'transform' cannot be inverted"),
    ("transform", [[1, 0, 0, 1e300], [0, 1, 0, 0], [0, 0, 1, 0]], r"'transform' has NaN or infinite values"),
    ("scale", 1e300, r"'scale' is 1e\+300, too large a number"),
    ("scale", 0, r"'scale' is 0, not a positive number"),
    ("scale", float("nan"), r"'scale' is nan, not a positive number"),
    ("rasterize_mode", "fast", r"'rasterize_mode' is 'fast', not one of classic, antialiased"),
    ("views", [], r"'views' is empty"),
    ("views", {}, r"'views' is not a list"),
    ("views", [3], r"'views\[0\]' is not an object"),
    ("backbone", None, r"'backbone' is not an object"),
]


@pytest.mark.parametrize(("key", "value", "complaint"), SCENE_FAULTS)
def test_a_bad_field_of_the_scene_is_named(export: Path, key: str, value: Any, complaint: str) -> None:
    tensors, metadata, scene = read(export)
    write(export, tensors, metadata, scene | {key: value})
    refused(export, rf"room/(scene\.json|gaussians\.safetensors): .*{complaint}; export the scene again")


VIEW_FAULTS: list[tuple[str, Any, str]] = [
    ("K", [[1, 0], [0, 1]], "is not 3x3 finite numbers"),
    ("K", [[-1, 0, 1], [0, 1, 1], [0, 0, 1]], "is not a camera matrix"),
    ("width", 0, "is 0, not an integer of at least 1"),
    ("distortion", [0.1] * 4, "is not 6 finite numbers"),
    ("camera_model", "VR180_L", "is 'VR180_L', not one of SIMPLE_PINHOLE"),
    ("K", [[1e300, 0, 1], [0, 50, 1], [0, 0, 1]], r"is 1e\+300, which no lens has for images of"),
    ("K", [[50, 0, 1], [0, 1e-9, 1], [0, 0, 1]], "is 1e-09, which no lens has for images of"),
    ("K", [[50, 0, 1e9], [0, 50, 1], [0, 0, 1]], r"is 1e\+09, far outside images of"),
    ("distortion", [0, 0, 1e300, 0, 0, 0], r"has a coefficient of 1e\+300, which no lens has"),
    ("width", 112.7, "is 112.7, not an integer"),
    ("world_to_camera", [[1, 0, 0, 1e300], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], "has NaN or infinite values"),
    ("world_to_camera", [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]], "mirrors the scene"),
    ("world_to_camera", [[float("nan")] * 4] * 4, "is not 4x4 finite numbers"),
    ("world_to_camera", [[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]], "is not rigid"),
    ("world_to_camera", [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]], "does not end in the row 0 0 0 1"),
    ("mask_path", 3, "is 3, not the path of a file"),
    ("split", "test", "is 'test', not one of train, eval"),
    ("sha256", "abc", "is not a SHA-256 in hexadecimal"),
    ("grid", [0, 3], "is not two positive integers"),
    ("grid", [2.5, 3], "is not two positive integers"),
]


@pytest.mark.parametrize(("key", "value", "complaint"), VIEW_FAULTS)
def test_a_bad_field_of_a_view_is_named(export: Path, key: str, value: Any, complaint: str) -> None:
    tensors, metadata, scene = read(export)
    scene["views"][1][key] = value
    write(export, tensors, metadata, scene)
    refused(export, rf"room/scene\.json: 'views\[1\]\.{key}' {complaint}.*; export the scene again")


def every_key(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(data, dict):
        return [p for key, value in data.items() for p in [(*path, key), *every_key(value, (*path, key))]]
    if isinstance(data, list) and data and isinstance(data[0], dict):
        return every_key(data[0], (*path, 0))
    return []


@pytest.mark.parametrize("storage", ["fp16", "int8"])
def test_every_missing_field_is_named(tmp_path: Path, storage: FeatureStorage) -> None:
    export = tmp_path / "room"
    make_gaussians(tmp_path / "capture").stored_as(storage).save(export)
    tensors, metadata, scene = read(export)
    keys = [path for path in every_key(scene) if path[-1] not in ("format_version", "mask_path")]
    assert len(keys) > 30
    for path in keys:
        spoiled = json.loads(json.dumps(scene))
        holder = spoiled
        for step in path[:-1]:
            holder = holder[step]
        del holder[path[-1]]
        write(export, tensors, metadata, spoiled)
        refused(export, rf"room/scene\.json: '[\w.\[\]]*{path[-1]}' is missing; export the scene again")


JSON = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.integers(), max_size=3)
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_value_in_the_scene_leads_to_anything_but_an_input_error(export: Path, data: st.DataObject) -> None:
    original = (export / "scene.json").read_text(), (export / "gaussians.safetensors").read_bytes()
    tensors, metadata, scene = read(export)
    path = data.draw(st.sampled_from(every_key(scene)))
    holder = scene
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = data.draw(JSON)
    write(export, tensors, metadata, scene)
    try:
        with contextlib.suppress(InputError):
            FeatureGaussians.load(export)
    finally:
        (export / "scene.json").write_text(original[0])
        (export / "gaussians.safetensors").write_bytes(original[1])


def test_missing_images_are_counted_and_named(export: Path) -> None:
    (export.parent / "capture/images/1.png").unlink()
    refused(export, r"1 of 6 images and masks of .*room are missing, the first is .*images/1\.png; .* --images-root")


def test_missing_masks_are_named(export: Path) -> None:
    (export.parent / "capture/masks/2.png").unlink()
    refused(export, r"1 of 6 images and masks of .*room are missing, the first is .*masks/2\.png; .* --images-root")


def test_changed_images_are_counted_and_named(export: Path) -> None:
    with open(export.parent / "capture/images/1.png", "ab") as file:
        file.write(b"!")
    refused(export, r"1 of 3 images of .*room changed since the export, the first is .*images/1\.png; restore them")


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("means", float("nan"), "'means' has NaN or infinite values"),
        ("quats", float("nan"), "'quats' has NaN or infinite values"),
        ("features", 1e6, "'features' has NaN or infinite values"),
        ("scales", 0.0, "some scales are not positive"),
    ],
)
def test_a_diverged_training_is_not_exported(tmp_path: Path, name: str, value: float, complaint: str) -> None:
    gaussians = make_gaussians(tmp_path)
    getattr(gaussians, name).view(-1)[0] = value
    with pytest.raises(InputError, match=rf"cannot export to .*room: .*{complaint}; .* train again"):
        gaussians.save(tmp_path / "room")
    assert not (tmp_path / "room").exists()


def test_a_zero_quaternion_is_not_exported(tmp_path: Path) -> None:
    gaussians = make_gaussians(tmp_path)
    gaussians.quats[3] = 0
    with pytest.raises(InputError, match="quaternions are not of unit length"):
        gaussians.save(tmp_path / "room")


def test_a_diverged_camera_is_not_exported(tmp_path: Path) -> None:
    gaussians = make_gaussians(tmp_path)
    gaussians.scene.views[1].world_to_camera[0, 3] = float("nan")
    with pytest.raises(InputError, match=r"'views\[1\].world_to_camera' is not 4x4 finite numbers; .* train again"):
        gaussians.save(tmp_path / "room")


def test_a_wrong_count_is_not_exported(tmp_path: Path) -> None:
    gaussians = make_gaussians(tmp_path)
    wrong = dataclasses.replace(gaussians, scene=dataclasses.replace(gaussians.scene, num_gaussians=49))
    with pytest.raises(InputError, match=r"'means' has shape \[50, 3\] where scene.json implies \[49, 3\]"):
        wrong.save(tmp_path / "room")
