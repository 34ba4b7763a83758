"""Feature maps of images in one call, whatever the images are and wherever the backbone lies."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fit3d_finetune.backbone.hub import (
    WEIGHTS_FILE,
    FeatureAssembly,
    load,
    read_finetuned,
    require_original,
    with_original,
)
from fit3d_finetune.backbone.precision import Precision
from fit3d_ns.capture.images import load_image, rgb_pixels
from fit3d_ns.common.choices import FeatureChoice
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.backbone import Backbone, load_backbone

Extractor = Backbone | FeatureAssembly
OneImage = str | os.PathLike[str] | Image.Image | np.ndarray[Any, np.dtype[Any]] | Tensor
Images = OneImage | Iterable[OneImage]


def extract_features(
    images: Images,
    model: str | os.PathLike[str] | Extractor,
    features: FeatureChoice | None = None,
    *,
    size: tuple[int, int] | None = None,
    batch_size: int = 8,
    device: torch.device | str | None = None,
    precision: Precision | None = None,
    original_weights: str | None = None,
) -> Tensor:
    """Feature maps of images; resizing to whole patches and normalisation are done here.

    Args:
        images: one image or any iterable of them, each
            - the path of a file (any format that Pillow or OpenCV reads; pixels as they are stored, so an EXIF
              orientation is not applied; what is transparent is put on white),
            - a PIL image of any mode,
            - an array [H, W, 3], [H, W, 1] or [H, W], uint8 in 0..255 or floating in 0..1,
            - a tensor [3, H, W] or [B, 3, H, W], uint8 in 0..255 or floating in 0..1, on any device.
        model: a folder that fit3d-finetune wrote, what `load` or `load_backbone` gave. Load once for many calls.
        features: "original", "finetuned" or "both" (the default) of a folder or assembly. Of a folder, "finetuned"
            needs no original weights, unless it holds an adapter alone. None for a single backbone, which has one kind.
        size: height and width in pixels to which every image is brought first. None: as they are, and then all must
            come to the same h and w.
        batch_size: images of one size that are encoded at once.
        device: where to compute. None: where the model is; a folder's on a GPU where there is one.
        precision: "fp32" or "bf16". None: as the model was loaded; a folder's in fp32.
        original_weights: of a folder, where the original's weights are if they moved (as `load`).

    Returns:
        [B, C, h, w], or [B, 2 C, h, w] of both, float32 on the CPU. h and w are the image's sides in patches, rounded
        to the nearest (`Backbone.grid_size`); sides of more than the backbone's `max_size` are scaled down before.

    Raises:
        InputError: an image cannot be read, or the folder is not a fine-tuned one.
        ValueError: shapes, ranges or arguments that do not fit; images of different sizes without `size`.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    if size is not None and min(size) < 1:
        raise ValueError(f"size must be a height and a width of at least one pixel, not {size}")
    extractor = _extractor(model, features, device, precision, original_weights)
    where = next(extractor.parameters()).device
    found: list[Tensor] = []
    for start, batch in _batches(_tensors(images, size), batch_size):
        with torch.no_grad():
            maps = extractor(batch.to(where)).cpu()
        if found and maps.shape[2:] != found[0].shape[2:]:
            (h, w), (first_h, first_w) = maps.shape[2:], found[0].shape[2:]
            raise ValueError(
                f"image {start} gives {h} x {w} patches, image 0 {first_h} x {first_w}: give size=(height, width) for "
                "all of them, or call once for each"
            )
        found.append(maps)
    if not found:
        raise ValueError("there are no images")
    return torch.cat(found)


def load_extractor(
    folder: str | os.PathLike[str],
    features: FeatureChoice = "both",
    device: torch.device | str = "cpu",
    original_weights: str | None = None,
) -> Extractor:
    """The network of a fine-tuned folder that gives these features, in eval mode and fp32.

    Only "finetuned" of a folder that holds weights does without the original's.

    Raises:
        InputError: not a fine-tuned folder, or the original weights are needed and cannot be had.
    """
    if features not in get_args(FeatureChoice):
        raise ValueError(f"features must be one of {', '.join(get_args(FeatureChoice))}, not {features!r}")
    path = Path(folder)
    if features == "both":
        return load(path, device, original_weights)
    described = read_finetuned(path)
    if features == "finetuned":
        if (path / WEIGHTS_FILE).is_file():
            return load_backbone(described.finetuned, device)
        return load(path, device, original_weights).finetuned
    if original_weights is not None:
        described = with_original(described, original_weights)
    require_original(described, path)
    return load_backbone(described.original, device)


def _extractor(
    model: str | os.PathLike[str] | Extractor,
    features: FeatureChoice | None,
    device: torch.device | str | None,
    precision: Precision | None,
    original_weights: str | None,
) -> Extractor:
    if isinstance(model, str | os.PathLike):
        where = device or ("cuda" if torch.cuda.is_available() else "cpu")
        extractor = load_extractor(model, features or "both", where, original_weights)
    else:
        if original_weights is not None:
            raise ValueError("original_weights are of a folder: what is loaded already has its weights")
        extractor = _part(model, features)
        if device is not None:
            extractor = extractor.to(device)
    return extractor if precision is None else _in_precision(extractor, precision)


def _part(model: Extractor, features: FeatureChoice | None) -> Extractor:
    if isinstance(model, Backbone):
        if features is not None:
            raise ValueError(f"features={features!r} is of a folder or an assembly: a single backbone has one kind")
        return model
    parts: dict[FeatureChoice | None, Extractor] = {
        None: model,
        "both": model,
        "original": model.original,
        "finetuned": model.finetuned,
    }
    if features not in parts:
        raise ValueError(f"features must be one of {', '.join(get_args(FeatureChoice))}, not {features!r}")
    return parts[features]


def _in_precision(extractor: Extractor, precision: Precision) -> Extractor:
    """The same network, its weights shared, that computes in another precision."""
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, not {precision!r}")
    if isinstance(extractor, Backbone):
        twin = copy.copy(extractor)
        twin.config = dataclasses.replace(extractor.config, precision=precision)
        return twin
    parts = [_in_precision(part, precision) for part in (extractor.original, extractor.finetuned)]
    original, finetuned = (part for part in parts if isinstance(part, Backbone))
    return FeatureAssembly(original, finetuned).train(extractor.training)


def _tensors(images: Images, size: tuple[int, int] | None) -> Iterator[Tensor]:
    """Each image as float32 [3, H, W] in 0..1."""
    several = isinstance(images, Iterable) and not isinstance(images, str | os.PathLike | np.ndarray | Tensor)
    count = 0
    for given in images if several else [images]:  # type: ignore[union-attr]
        for pixels in _pixels(given, count):
            count += 1
            if size is not None and pixels.shape[1:] != size:
                resized = F.interpolate(pixels[None], size, mode="bicubic", antialias=True)
                pixels = resized[0].clamp(0, 1)  # bicubic overshoots at edges
            yield pixels


def _pixels(given: Any, number: int) -> Iterable[Tensor]:
    """One thing that was given as the images that it holds, float32 [3, H, W] in 0..1."""
    name = f"image {number}"
    if isinstance(given, str | os.PathLike):
        path = Path(given)
        if path.is_dir():
            raise InputError(f"{path} is a folder, not an image: give its files, e.g. sorted(Path(folder).iterdir()).")
        given = load_image(path)
    elif isinstance(given, Image.Image):
        given = rgb_pixels(given, f"{number} of those given")
    if isinstance(given, np.ndarray):
        if given.ndim == 2:
            given = given[..., None]
        if given.ndim != 3 or given.shape[2] not in (1, 3):
            raise ValueError(f"{name}: an array must be [H, W], [H, W, 1] or [H, W, 3], not {list(given.shape)}")
        given = torch.from_numpy(np.array(given)).permute(2, 0, 1).expand(3, -1, -1)
    if not isinstance(given, Tensor):
        raise ValueError(f"{name} is a {type(given).__name__}: give paths, PIL images, arrays or tensors")
    if given.ndim not in (3, 4) or given.shape[-3] != 3 or 0 in given.shape[-2:]:
        raise ValueError(f"{name}: a tensor must be [3, H, W] or [B, 3, H, W], not {list(given.shape)}")
    if given.dtype == torch.uint8:
        values = given.float() / 255
    elif given.is_floating_point():
        values = given.float()
        # Comparing this way round also refuses NaN.
        if values.numel() and not (values.min() >= 0 and values.max() <= 1):
            raise ValueError(f"{name} has values outside 0..1: give it before any normalisation")
    else:
        raise ValueError(f"{name} is of {given.dtype}: give uint8 in 0..255 or floating numbers in 0..1")
    return values[None] if values.ndim == 3 else values


def _batches(images: Iterable[Tensor], batch_size: int) -> Iterator[tuple[int, Tensor]]:
    """Neighbours of one size [n, 3, H, W], and the number of the first of them."""
    start, waiting = 0, list[Tensor]()
    for image in images:
        if waiting and (len(waiting) == batch_size or image.shape != waiting[0].shape):
            yield start, torch.stack(waiting)
            start, waiting = start + len(waiting), []
        waiting.append(image)
    if waiting:
        yield start, torch.stack(waiting)
