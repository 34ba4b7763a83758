"""Cached features of whole images: each image is encoded once per backbone, whatever is probed (fast protocol)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fit3d_finetune.probing.data.labelled_images import LabelledImage
from fit3d_ns.features.backbone import BackboneConfig
from fit3d_ns.features.cache import FeatureMaps, extract_feature_maps

Array = np.ndarray[Any, np.dtype[Any]]


class EncodedImages:
    """Features of whole images under several backbones, read from the cache when asked for.

    Args:
        images: what to encode.
        backbones: by name.
        device: where missing features are computed.
        cache_dir: as of `extract_feature_maps`.
    """

    def __init__(
        self,
        images: Sequence[LabelledImage],
        backbones: dict[str, BackboneConfig],
        device: torch.device | str = "cpu",
        cache_dir: Path | None = None,
    ) -> None:
        self.images = list(images)
        pixels = Pixels(self.images)
        names = [image.name for image in self.images]
        self.maps: dict[str, FeatureMaps] = {
            name: extract_feature_maps(pixels, config, cache_dir, device, names, ("features", "class_token"))
            for name, config in backbones.items()
        }

    def __len__(self) -> int:
        return len(self.images)

    def features(self, backbone: str, index: int) -> Tensor:
        """[h, w, C] float32."""
        return self.maps[backbone][index].float()

    def class_token(self, backbone: str, index: int) -> Tensor:
        """[C] float32."""
        return self.maps[backbone].class_token(index).float()


@dataclass(frozen=True, eq=False)
class Standardization:
    """Mean and standard deviation [C] of a backbone's features over a set of images."""

    mean: Tensor
    std: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.std


def standardizations(encoded: EncodedImages) -> dict[str, Standardization]:
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


class StandardizedImages:
    """Standardised features of images, of which as many as fit stay in memory: training reads each many times.

    Args:
        encoded: the images.
        statistics: `standardizations` of them, or of the images that the probes were trained on.
        max_bytes: of memory.
        device: where they are given, and kept.
    """

    def __init__(
        self,
        encoded: EncodedImages,
        statistics: Mapping[str, Standardization],
        max_bytes: int = 1 << 30,
        device: torch.device | str = "cpu",
    ) -> None:
        self.encoded, self.statistics, self.device = encoded, statistics, device
        self.backbones = list(encoded.maps)
        largest = max((encoded.features(name, 0).nbytes for name in self.backbones), default=1) if len(encoded) else 1
        self.features = lru_cache(max(len(self.backbones), max_bytes // largest))(self._features)
        self.class_token = lru_cache(len(self.backbones) * len(encoded))(self._class_token)

    def _features(self, backbone: str, index: int) -> Tensor:
        """[h, w, C]."""
        return self.statistics[backbone](self.encoded.features(backbone, index)).to(self.device)

    def _class_token(self, backbone: str, index: int) -> Tensor:
        """[C]."""
        return self.statistics[f"{backbone}/class"](self.encoded.class_token(backbone, index)).to(self.device)


class Pixels(Sequence[Array]):
    """uint8 [H, W, 3] of every image, decoded when asked for."""

    def __init__(self, images: Sequence[LabelledImage]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> Any:
        return np.ascontiguousarray(self.images[index].image())
