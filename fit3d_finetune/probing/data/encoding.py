"""Windows of images and their cached features: each window is encoded once per backbone, whatever is probed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from fit3d_finetune.probing.data.labelled_images import LabelledImage
from fit3d_ns.features.backbone import BackboneConfig
from fit3d_ns.features.cache import FeatureMaps, extract_feature_maps

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Window:
    """A part of an image as the backbone sees it."""

    image: int
    """Index into the list of images."""
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    """Top, left, bottom, right as shares of the image's sides."""
    mirrored: bool = False
    short_side: int | None = None
    """Length to which the image's shorter side is brought before cutting; None: as it is."""

    def pixels(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of the box in a map of the image's pixels."""
        top, left, bottom, right = self.box
        return slice(round(top * height), round(bottom * height)), slice(round(left * width), round(right * width))

    def places(self, rows: Array, columns: Array, height: int, width: int) -> Array:
        """Where the centres of pixels (rows, columns) of the whole image lie in the window: [n, 2], x and y in 0..1."""
        top, left, bottom, right = self.box
        x = ((columns + 0.5) / width - left) / (right - left)
        y = ((rows + 0.5) / height - top) / (bottom - top)
        return np.stack([1 - x if self.mirrored else x, y], axis=-1)


def whole_images(count: int, mirrored: bool = False) -> list[Window]:
    return [Window(i, mirrored=mirrored) for i in range(count)]


def random_windows(images: Sequence[LabelledImage], crop: int, per_image: int, seed: int = 0) -> list[Window]:
    """`per_image` square windows per image at random places, each as it is and mirrored."""
    random = np.random.default_rng(seed)
    windows = []
    for index, image in enumerate(images):
        height, width = _shape_at(image, crop)
        for _ in range(per_image):
            top, left = random.integers(0, height - crop + 1), random.integers(0, width - crop + 1)
            windows += [_square(index, int(top), int(left), crop, height, width, flip) for flip in (False, True)]
    return windows


def sliding_windows(images: Sequence[LabelledImage], crop: int, stride: int) -> list[Window]:
    """Square windows that cover each image; the last of a row or column ends at the border."""
    windows = []
    for index, image in enumerate(images):
        height, width = _shape_at(image, crop)
        tops = [min(top, height - crop) for top in range(0, height - crop + stride, stride)]
        lefts = [min(left, width - crop) for left in range(0, width - crop + stride, stride)]
        for top in dict.fromkeys(tops):
            windows += [_square(index, top, left, crop, height, width, False) for left in dict.fromkeys(lefts)]
    return windows


class EncodedWindows:
    """Features of some windows under several backbones, read from the cache when asked for.

    Args:
        images: that the windows refer to.
        windows: what to encode.
        backbones: by name.
        device: where missing features are computed.
    """

    def __init__(
        self,
        images: Sequence[LabelledImage],
        windows: Sequence[Window],
        backbones: dict[str, BackboneConfig],
        device: torch.device | str = "cpu",
    ) -> None:
        self.images, self.windows = list(images), list(windows)
        pixels = _WindowPixels(self.images, self.windows)
        names = [self.images[window.image].name for window in self.windows]
        self.maps: dict[str, FeatureMaps] = {
            name: extract_feature_maps(pixels, config, device=device, names=names, parts=("features", "class_token"))
            for name, config in backbones.items()
        }

    def __len__(self) -> int:
        return len(self.windows)

    def features(self, backbone: str, index: int) -> Tensor:
        """[h, w, C] float32."""
        return self.maps[backbone][index].float()

    def class_token(self, backbone: str, index: int) -> Tensor:
        """[C] float32."""
        return self.maps[backbone].class_token(index).float()


def windows_by_image(encoded: EncodedWindows) -> dict[int, list[int]]:
    """Indices of the windows of each image."""
    found: dict[int, list[int]] = {}
    for index, window in enumerate(encoded.windows):
        found.setdefault(window.image, []).append(index)
    return found


@dataclass(frozen=True, eq=False)
class Standardization:
    """Mean and standard deviation [C] of a backbone's features over a set of windows."""

    mean: Tensor
    std: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.std


def standardizations(encoded: EncodedWindows) -> dict[str, Standardization]:
    """Of patch features, by backbone name, and of class tokens, by `name/class`."""
    found = {}
    for name in encoded.maps:
        for key, read in ((name, encoded.features), (f"{name}/class", encoded.class_token)):
            total = squares = torch.zeros(())
            count = 0
            for index in range(len(encoded)):
                rows = read(name, index).reshape(-1, encoded.maps[name].channels).double()
                total, squares, count = total + rows.sum(0), squares + rows.square().sum(0), count + len(rows)
            mean = total / count
            std = (squares / count - mean.square()).clamp_min(0).sqrt()
            # A channel that never varied in training (class tokens of one image) tells nothing: dividing by next to
            # nothing would only let it drown all others at test time.
            found[key] = Standardization(mean.float(), std.where(std > 1e-5, 1.0).float())
    return found


class StandardizedWindows:
    """Standardised features of windows, of which as many as fit stay in memory: training reads each many times.

    Args:
        encoded: the windows.
        statistics: `standardizations` of them, or of the windows that the probes were trained on.
        max_bytes: of memory.
    """

    def __init__(
        self, encoded: EncodedWindows, statistics: Mapping[str, Standardization], max_bytes: int = 1 << 30
    ) -> None:
        self.encoded, self.statistics = encoded, statistics
        self.backbones = list(encoded.maps)
        largest = max((encoded.features(name, 0).nbytes for name in self.backbones), default=1) if len(encoded) else 1
        self.features = lru_cache(max(len(self.backbones), max_bytes // largest))(self._features)
        self.class_token = lru_cache(len(self.backbones) * len(encoded))(self._class_token)

    def _features(self, backbone: str, index: int) -> Tensor:
        """[h, w, C]."""
        return self.statistics[backbone](self.encoded.features(backbone, index))

    def _class_token(self, backbone: str, index: int) -> Tensor:
        """[C]."""
        return self.statistics[f"{backbone}/class"](self.encoded.class_token(backbone, index))


class _WindowPixels(Sequence[Array]):
    """uint8 [H, W, 3] of every window, decoded when asked for."""

    def __init__(self, images: list[LabelledImage], windows: list[Window]) -> None:
        self.images, self.windows = images, windows
        # Windows of one image come one after the other: decode it once.
        self._decode = lru_cache(maxsize=2)(lambda index: images[index].image())

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: Any) -> Any:
        window = self.windows[index]
        pixels = self._decode(window.image)
        if window.short_side is not None:
            height, width = _scaled(pixels.shape[0], pixels.shape[1], window.short_side)
            shrinks = height < pixels.shape[0]
            pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
        rows, columns = window.pixels(*pixels.shape[:2])
        cut = pixels[rows, columns]
        return np.ascontiguousarray(cut[:, ::-1] if window.mirrored else cut)


def _square(image: int, top: int, left: int, crop: int, height: int, width: int, mirrored: bool) -> Window:
    box = (top / height, left / width, (top + crop) / height, (left + crop) / width)
    return Window(image, box, mirrored, crop)


def _shape_at(image: LabelledImage, short_side: int) -> tuple[int, int]:
    return _scaled(*image.size(), short_side)


def _scaled(height: int, width: int, short_side: int) -> tuple[int, int]:
    scale = short_side / min(height, width)
    return max(short_side, round(height * scale)), max(short_side, round(width * scale))
