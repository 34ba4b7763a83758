"""Feature maps on disk: computed once, never wrong, never all in memory."""

from __future__ import annotations

import ctypes
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn

import fit3d_ns.features.cache as cache_module
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.output_place import default_cache_dir
from fit3d_ns.features.backbone import BackboneConfig, backbone_fingerprint, load_backbone
from fit3d_ns.features.cache import FeatureMaps, extract_feature_maps, feature_key
from tests.fit3d_ns.features.conftest import TINY

CONFIG = BackboneConfig(name=TINY, weights="random")


def pictures(count: int, height: int = 40, width: int = 56) -> list[np.ndarray]:
    return [np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8) for i in range(count)]


class FakeBackbone(nn.Module):
    """Counts its calls and answers at once: the cache is under test here, not the network."""

    description, layer = "fake", 11

    def __init__(self, value: float = 1.0, fail_at: int = -1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(value))
        self.calls = 0
        self.fail_at = fail_at

    def forward_with_class_token(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        self.calls += 1
        fingerprint = backbone_fingerprint(CONFIG)
        h, w = cache_module.grid_size(*images.shape[-2:], fingerprint["patch_size"], fingerprint["max_size"])
        value = self.weight * images.mean()
        return value * torch.ones(1, fingerprint["embed_dim"], h, w), value * torch.ones(1, fingerprint["embed_dim"])


def use(monkeypatch: pytest.MonkeyPatch, backbone: FakeBackbone) -> FakeBackbone:
    monkeypatch.setattr(cache_module, "load_backbone", lambda config, device: backbone)
    return backbone


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("the backbone was loaded")

    monkeypatch.setattr(cache_module, "load_backbone", fail)


# ---- what comes out


def test_the_maps_are_the_backbones_features_in_fp16() -> None:
    images = [*pictures(2), *pictures(1, 64, 33)]
    maps = extract_feature_maps(images, CONFIG)
    backbone = load_backbone(CONFIG)
    assert len(maps) == 3
    assert maps.channels == 192
    assert maps.grid_sizes == [(3, 4), (3, 4), (4, 2)]
    assert list((default_cache_dir() / "features").iterdir())
    for image, features in zip(images, maps, strict=True):
        with torch.inference_mode():
            expected = backbone(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)[0].permute(1, 2, 0)
        assert features.dtype == torch.float16
        torch.testing.assert_close(features.float(), expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(maps[-1], maps[2])
    assert maps[1:].grid_sizes == maps.grid_sizes[1:]


def test_a_warm_cache_does_not_load_the_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    first = extract_feature_maps(pictures(3), CONFIG)
    forbid(monkeypatch)
    second = extract_feature_maps(pictures(3), CONFIG)
    assert second.paths == first.paths
    with pytest.raises(AssertionError, match="was loaded"):
        extract_feature_maps(pictures(4), CONFIG)


def test_changing_a_map_in_memory_leaves_the_cache_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeBackbone())
    maps = extract_feature_maps(pictures(1), CONFIG)
    maps[0].fill_(7)
    assert maps[0].max() < 7
    forbid(monkeypatch)
    extract_feature_maps(pictures(1), CONFIG)


def test_equal_images_share_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = use(monkeypatch, FakeBackbone())
    maps = extract_feature_maps([pictures(1)[0]] * 3, CONFIG)
    assert backbone.calls == 1
    assert len(maps) == 3


# ---- the key


def test_the_key_changes_exactly_with_what_changes_the_features() -> None:
    image = pictures(1)[0]
    other = image.copy()
    other[-1, -1, -1] ^= 1

    def key(picture: np.ndarray = image, **options: Any) -> str:
        return feature_key(picture, backbone_fingerprint(replace(CONFIG, **options)))

    same = [key(), key(layer=11), key(layer=-1), key(name=f"{TINY}.augreg_in21k_ft_in1k"), key(max_size=None),
            key(max_size=100), key(np.asfortranarray(image))]  # fmt: skip
    assert len(set(same)) == 1
    different = [key(), key(other), key(layer=3), key(precision="bf16"), key(max_size=32), key(input_rule="floor"),
                 key(name="vit_tiny_patch16_384"), key(image.reshape(56, 40, 3)),
                 key(image.transpose(1, 0, 2))]  # fmt: skip
    assert len(set(different)) == len(different)


# ---- damage


def rewrite(path: Path, change: Any, keep_checksum: bool = False) -> None:
    with safe_open(path, framework="pt") as file:
        metadata, features = file.metadata(), file.get_tensor("features").clone()
    features = change(features)
    if not keep_checksum:
        metadata["sha256"] = cache_module._content_hash(features)
    safetensors.torch.save_file({"features": features}, path, metadata)


def with_nan(features: Tensor) -> Tensor:
    features[1, 1, 5] = float("nan")
    return features


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-7] ^= 4
    path.write_bytes(bytes(content))


DAMAGE = {
    "empty": (lambda p, q: p.write_bytes(b""), "cannot be read"),
    "truncated": (lambda p, q: p.write_bytes(p.read_bytes()[:-5]), "cannot be read"),
    "header only": (lambda p, q: p.write_bytes(p.read_bytes()[:40]), "cannot be read"),
    "garbage": (lambda p, q: p.write_bytes(os.urandom(3000)), "cannot be read"),
    "one bit": (lambda p, q: flip_a_bit(p), "checksum"),
    "nan": (lambda p, q: rewrite(p, with_nan), "NaN"),
    "shape": (lambda p, q: rewrite(p, lambda f: f[:-1].contiguous()), "instead of"),
    "dtype": (lambda p, q: rewrite(p, lambda f: f.float()), "instead of"),
    "values": (lambda p, q: rewrite(p, lambda f: f * 2, keep_checksum=True), "checksum"),
    "another's": (lambda p, q: p.write_bytes(q.read_bytes()), "belongs to another"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_entry_is_noticed_said_and_computed_again(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = use(monkeypatch, FakeBackbone())
    maps = extract_feature_maps(pictures(3), CONFIG)
    before = [features.clone() for features in maps]
    damage, said = DAMAGE[kind]
    damage(maps.paths[1], maps.paths[2])
    warnings: list[str] = []
    monkeypatch.setattr(cache_module.logger, "warning", lambda text, *values: warnings.append(text % values))
    again = extract_feature_maps(pictures(3), CONFIG, names=["a.jpg", "b.jpg", "c.jpg"])
    assert backbone.calls == 4
    assert all(torch.equal(x, y) for x, y in zip(before, again, strict=True))
    (warning,) = warnings
    assert "b.jpg" in warning
    assert said in warning


def test_an_entry_that_vanishes_while_in_use_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeBackbone())
    maps = extract_feature_maps(pictures(1), CONFIG)
    maps.paths[0].unlink()
    with pytest.raises(InputError, match="start again"):
        maps[0]


# ---- interruption


def test_an_interrupted_run_goes_on_where_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeBackbone(fail_at=3))
    with pytest.raises(KeyboardInterrupt):
        extract_feature_maps(pictures(5), CONFIG)
    backbone = use(monkeypatch, FakeBackbone())
    assert len(extract_feature_maps(pictures(5), CONFIG)) == 5
    assert backbone.calls == 2


KILLED_WHILE_WRITING = """
import os, signal
import safetensors.torch
import fit3d_ns.features.cache as cache
from tests.fit3d_ns.features.test_cache import CONFIG, FakeBackbone, pictures
cache.load_backbone = lambda config, device: FakeBackbone()
save, calls = safetensors.torch.save_file, []
def half(tensors, path, metadata):
    save(tensors, path, metadata)
    calls.append(path)
    if len(calls) == 3:
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
safetensors.torch.save_file = half
cache.extract_feature_maps(pictures(5), CONFIG)
"""


def test_a_run_killed_in_the_middle_of_a_write_leaves_only_whole_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING], capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    folder = default_cache_dir() / "features"
    assert len(list(folder.glob("*.safetensors"))) == 2
    (leftover,) = folder.glob(".*.tmp")
    backbone = use(monkeypatch, FakeBackbone())
    (folder / ".notes.tmp").write_text("a user's")
    os.utime(folder / ".notes.tmp", (0, 0))
    extract_feature_maps(pictures(5), CONFIG)
    assert backbone.calls == 3
    assert not leftover.exists()
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == [".notes.tmp"]


# ---- memory


def anonymous_mb() -> float:
    """Memory of this process that no file stands behind: mapped maps may stay as long as the system has room. Without
    what is free already, which the C library gives back when it likes.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1e3


class LazyImages(Sequence[np.ndarray]):
    """Images of 1080p, each made when asked for."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.full((1080, 1920, 3), index, dtype=np.uint8)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the process's memory from /proc")
def test_memory_does_not_grow_with_the_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeBackbone())

    def peak_mb(count: int) -> float:
        """While `count` images are encoded and their maps read, once the allocators have warmed up."""
        extracted = extract_feature_maps(LazyImages(count), CONFIG)
        peak = 0.0
        for features in extracted:
            assert features.float().mean().isfinite()
            peak = max(peak, anonymous_mb())
        return peak

    few = max(peak_mb(10), peak_mb(20))
    many = peak_mb(100)
    total = sum(map(math.prod, extract_feature_maps(LazyImages(100), CONFIG).shapes)) * 2 / 1e6
    assert total > 80
    assert many - few < 30


# ---- bad input


@pytest.mark.parametrize(
    ("shape", "kind"), [((4, 4), "uint8"), ((4, 4, 4), "uint8"), ((4, 4, 3), "float32"), ((0, 4, 3), "uint8")]
)
def test_an_image_of_another_kind_is_named(shape: tuple[int, ...], kind: str) -> None:
    image = np.zeros(shape, kind)
    with pytest.raises(InputError, match=r"photo\.png is .* takes uint8 RGB"):
        extract_feature_maps([image], CONFIG, names=["photo.png"])


def test_features_that_fp16_cannot_hold_are_an_error_not_infinity(monkeypatch: pytest.MonkeyPatch) -> None:
    bright = [np.full((32, 32, 3), 255, np.uint8)]
    use(monkeypatch, FakeBackbone(70_000.0))
    with pytest.raises(InputError, match=r"photo\.png is 7e\+04, more than fp16 can hold \(65504\)"):
        extract_feature_maps(bright, CONFIG, names=["photo.png"])
    for value in (float("nan"), float("inf")):
        use(monkeypatch, FakeBackbone(value))
        with pytest.raises(InputError, match=r"NaN or infinite features for photo\.png"):
            extract_feature_maps(bright, CONFIG, names=["photo.png"])
    use(monkeypatch, FakeBackbone(65504.0))
    assert extract_feature_maps(bright, CONFIG)[0].max() == 65504


def test_a_cache_folder_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="FIT3D_CACHE_DIR"):
        extract_feature_maps(pictures(1), CONFIG, cache_dir=tmp_path / "file")


def test_a_full_disk_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    use(monkeypatch, FakeBackbone())
    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(InputError, match="No space left on device"):
        extract_feature_maps(pictures(1), CONFIG)
    assert not list((default_cache_dir() / "features").iterdir())


def test_no_images_give_no_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    forbid(monkeypatch)
    maps = extract_feature_maps([], CONFIG)
    assert isinstance(maps, FeatureMaps)
    assert (len(maps), maps.channels) == (0, 192)
