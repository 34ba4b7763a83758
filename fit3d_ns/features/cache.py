"""Backbone feature maps of images, computed once and kept on disk.

One safetensors file per image, with the map [h, w, C] and the class token [C] in fp16, named by a hash of
everything that decides its content: the image's pixels, the backbone (architecture, weights, layer,
normalisation, precision) and the size at which it sees the image. Nothing is kept in memory: maps are mapped
from disk when asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fit3d_ns.common.atomic import atomic_file
from fit3d_ns.common.console import logger, progress
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.output_place import default_cache_dir, prepare_cache_folder
from fit3d_ns.features.backbone import (
    Backbone,
    BackboneConfig,
    backbone_fingerprint,
    grid_size,
    input_size,
    load_backbone,
    rule_of,
)

# Raised whenever the same backbone and image would give other numbers than before.
FORMAT_VERSION = 1
FP16_MAX = 65504.0
ENCODED_AT_ONCE = 8
"""Images on a GPU; a CPU gains nothing by more than one."""
# Parts of the fingerprint that name things but do not change the features. max_size acts through the
# input size of each image, which is in the key.
_NOT_IN_KEY = ("name", "description", "weights", "max_size")
# Where an entry's metadata keeps the checksum of each part.
_CHECKSUMS = {"features": "sha256", "class_token": "class_token_sha256"}

MapShape = tuple[int, int, int]
Part = Literal["features", "class_token"]
"""What an entry holds. Entries of older versions have no class token, which most uses do not need."""


class FeatureMaps(Sequence[Tensor]):
    """Feature maps on disk as a sequence: `maps[i]` is [h, w, C], fp16, mapped and not read until used."""

    def __init__(self, paths: Sequence[Path], shapes: Sequence[MapShape], fingerprint: dict[str, Any]) -> None:
        self.paths = list(paths)
        self.shapes = list(shapes)
        self.fingerprint = fingerprint

    @property
    def grid_sizes(self) -> list[tuple[int, int]]:
        """(h, w) of every map."""
        return [(h, w) for h, w, _ in self.shapes]

    @property
    def channels(self) -> int:
        """C, the same for all maps."""
        return int(self.fingerprint["embed_dim"])

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> FeatureMaps: ...
    def __getitem__(self, index: int | slice) -> Tensor | FeatureMaps:
        if isinstance(index, slice):
            return FeatureMaps(self.paths[index], self.shapes[index], self.fingerprint)
        return self._read(index, "features")

    def class_token(self, index: int) -> Tensor:
        """The class token [C] of an image, fp16; only of maps that were extracted with the part "class_token"."""
        return self._read(index, "class_token")

    def _read(self, index: int, part: Part) -> Tensor:
        path = self.paths[index]
        try:
            with safe_open(path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(part)
        except (OSError, SafetensorError) as error:
            raise InputError(f"The cached feature map {path} went away or broke: start again to renew it.") from error
        return tensor


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """One map of `FeatureMaps`, read when it is asked for: colour alone never asks."""

    maps: Sequence[Tensor]
    index: int

    def load(self) -> Tensor:
        """[h, w, C], fp16, on the patch grid."""
        return self.maps[self.index]


def extract_feature_maps(
    images: Sequence[np.ndarray],
    config: BackboneConfig,
    cache_dir: Path | None = None,
    device: torch.device | str = "cpu",
    names: Sequence[str] | None = None,
    parts: Sequence[Part] = ("features",),
) -> FeatureMaps:
    """The feature map of every image, from the cache where it is there and intact.

    The backbone is loaded only if a map is missing. Every map is on disk as soon as it is computed,
    so an interrupted run goes on where it stopped.

    Args:
        images: uint8 [H, W, 3] each. Asked for by index, one at a time, up to twice: may load lazily.
        config: the backbone.
        cache_dir: default `default_cache_dir()`; the maps go to its subfolder features/.
        device: where the backbone runs; the maps are on the CPU.
        names: what messages call the images.
        parts: what every entry must hold; one that lacks a part is computed again.
    """
    names = [f"image {i}" for i in range(len(images))] if names is None else list(names)
    if len(names) != len(images):
        raise ValueError(f"{len(names)} names for {len(images)} images")
    fingerprint = backbone_fingerprint(config)
    folder = (cache_dir or default_cache_dir()) / "features"
    prepare_cache_folder(folder)
    paths: list[Path] = []
    shapes: list[MapShape] = []
    missing: dict[Path, int] = {}
    # Two passes, so that the bar of the slow one knows how much there is to do.
    for i, name in enumerate(names):
        image = _checked_image(images[i], name)
        key = feature_key(image, fingerprint)
        shape = _map_shape(image, fingerprint)
        path = folder / f"{key}.safetensors"
        paths.append(path)
        shapes.append(shape)
        if path not in missing and (damage := find_damage(path, key, shape, parts)) is not None:
            missing[path] = i
            if damage:
                logger.warning("The cached feature map of %s %s: computing it again (%s)", name, damage, path)
    if missing:
        logger.info("Feature maps: %d of %d in %s", len(images) - len(missing), len(images), folder)
        backbone = load_backbone(config, device)
        with progress("images") as bar:
            task = bar.add_task("Backbone features", total=len(missing))
            size = 1 if torch.device(device).type == "cpu" else ENCODED_AT_ONCE
            for batch in _batches(images, names, missing, size):
                for path, entry in zip(batch, _encode(backbone, list(batch.values())), strict=True):
                    _write(path, *entry)
                bar.advance(task, len(batch))
    return FeatureMaps(paths, shapes, fingerprint)


def feature_key(image: np.ndarray, fingerprint: dict[str, Any]) -> str:
    """The cache key of an image's features: a sha256 over all that decides them."""
    what = {key: value for key, value in fingerprint.items() if key not in _NOT_IN_KEY}
    height, width = image.shape[:2]
    rule = rule_of(fingerprint["input_rule"])
    seen = input_size(height, width, fingerprint["patch_size"], fingerprint["max_size"], rule)
    head = {"version": FORMAT_VERSION, "backbone": what, "input_size": seen, "image": image.shape}
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class _Named:
    """An image and what messages call it."""

    name: str
    pixels: np.ndarray
    """uint8 [H, W, 3]."""


def _batches(
    images: Sequence[np.ndarray], names: Sequence[str], missing: Mapping[Path, int], size: int
) -> Iterator[dict[Path, _Named]]:
    """The images of missing entries, up to `size` neighbours of one shape at a time."""
    batch: dict[Path, _Named] = {}
    for path, i in missing.items():
        image = _Named(names[i], _checked_image(images[i], names[i]))
        if batch and next(iter(batch.values())).pixels.shape != image.pixels.shape:
            yield batch
            batch = {}
        batch[path] = image
        if len(batch) == size:  # not held while the next image is read
            yield batch
            batch = {}
    if batch:
        yield batch


@torch.inference_mode()
def _encode(backbone: Backbone, images: Sequence[_Named]) -> list[tuple[Tensor, Tensor]]:
    """Of every image, all of one shape, the feature map [h, w, C] and the class token [C], fp16 on the CPU."""
    device = next(backbone.parameters()).device
    pixels = torch.from_numpy(np.stack([image.pixels for image in images])).to(device).permute(0, 3, 1, 2) / 255
    maps, tokens = backbone.forward_with_class_token(pixels)
    extremes = torch.maximum(maps.abs().amax((1, 2, 3)), tokens.abs().amax(1))  # NaN stays NaN
    for image, largest in zip(images, extremes.tolist(), strict=True):
        if not np.isfinite(largest):
            raise InputError(
                f"The backbone ({backbone.description}, layer {backbone.layer}) gives NaN or infinite features for "
                f"{image.name}: its weights are broken, or backbone.precision is too low for it (try fp32)."
            )
        if largest > FP16_MAX:
            raise InputError(
                f"A feature of {image.name} is {largest:.3g}, more than fp16 can hold ({FP16_MAX:.0f}): choose another "
                f"backbone.layer than {backbone.layer} of {backbone.description}."
            )
    features = maps.permute(0, 2, 3, 1).to(torch.float16).cpu()
    kept = tokens.to(torch.float16).cpu()
    return [(features[i].contiguous(), kept[i].clone()) for i in range(len(images))]


def find_damage(path: Path, key: str, shape: MapShape, parts: Sequence[Part] = ("features",)) -> str | None:
    """None if the entry is whole; "" if there is none or it lacks one of the parts; else what is wrong with it."""
    if not path.is_file():
        return ""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if "class_token" in parts and "class_token" not in file.keys():  # noqa: SIM118 (not a dict)
                return ""
            tensors = {part: file.get_tensor(part) for part in parts}
    except (OSError, SafetensorError, ValueError) as error:
        return f"cannot be read ({error})"
    if metadata.get("key") != key:
        return "belongs to another image or backbone"
    for part, tensor in tensors.items():
        wanted = shape if part == "features" else shape[2:]
        if tensor.dtype != torch.float16 or tuple(tensor.shape) != wanted:
            return f"is {tensor.dtype} {list(tensor.shape)} instead of fp16 {list(wanted)}"
        if metadata.get(_CHECKSUMS[part]) != _content_hash(tensor):
            return "is damaged (its checksum is wrong)"
        if not tensor.isfinite().all():
            return "holds NaN or infinite values"
    return None


def _write(path: Path, features: Tensor, class_token: Tensor) -> None:
    tensors = {"features": features, "class_token": class_token}
    metadata = {"key": path.stem, "version": str(FORMAT_VERSION)}
    metadata |= {_CHECKSUMS[part]: _content_hash(tensor) for part, tensor in tensors.items()}
    try:
        with atomic_file(path) as temporary:
            safetensors.torch.save_file(tensors, temporary, metadata)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"The feature map {path} cannot be written ({error}): free some space, or set "
            "FIT3D_CACHE_DIR to another place."
        ) from error


def _content_hash(features: Tensor) -> str:
    return hashlib.sha256(features.contiguous().view(torch.uint8).numpy().data).hexdigest()


def _checked_image(image: Any, name: str) -> np.ndarray:
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise InputError(f"{name} is {array.dtype} {list(array.shape)}; the backbone takes uint8 RGB [H, W, 3].")
    return array


def _map_shape(image: np.ndarray, fingerprint: dict[str, Any]) -> MapShape:
    height, width = image.shape[:2]
    rule = rule_of(fingerprint["input_rule"])
    grid = grid_size(height, width, fingerprint["patch_size"], fingerprint["max_size"], rule)
    return (*grid, int(fingerprint["embed_dim"]))
