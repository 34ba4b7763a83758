"""How long a backbone takes for an image here and now, and how many images it has still to see."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fit3d_ns.common.estimate import Room, Step, spread
from fit3d_ns.common.output_place import default_cache_dir
from fit3d_ns.features.backbone import BackboneConfig, backbone_fingerprint, grid_size, load_backbone, rule_of
from fit3d_ns.features.cache import feature_key

MOST_LOOKED_AT = 200
"""Images that are read to find out whether their features are in the cache; of more, so many are taken evenly."""


@dataclass(frozen=True)
class Encoding:
    """What the features of some images would take."""

    images: int
    """That are not in the cache."""
    all_images: int
    looked_at: int
    load_seconds: float
    seconds_each: float
    bytes_each: float
    """Of an entry of the cache."""
    channels: int
    """Of the features."""

    def step(self, what: str = "") -> Step:
        """As a part of an estimate; `what` names the backbone where there are several."""
        sampled = f", by {self.looked_at} that were looked at" if self.looked_at < self.all_images else ""
        return Step(
            f"features of {self.images} images{what}, {self.all_images - self.images} are in the cache{sampled}",
            self.load_seconds + self.images * self.seconds_each if self.images else 0.0,
            f"{self.seconds_each:.2f} s an image, measured now" if self.images else "nothing to do",
        )

    def room(self, cache_dir: Path | None, what: str = "") -> Room:
        """Of the new entries of the cache."""
        return Room(f"features{what}", cache_dir or default_cache_dir(), self.images * self.bytes_each)


def measure_encoding(
    images: Sequence[np.ndarray], config: BackboneConfig, device: str, cache_dir: Path | None = None
) -> Encoding:
    """Look which images the cache lacks, and encode one of them twice, of which the second time counts.

    Args:
        images: uint8 [H, W, 3]; those that are looked at are read.
        config: the backbone.
        device: where it runs.
        cache_dir: as of `extract_feature_maps`.
    """
    fingerprint = backbone_fingerprint(config)
    channels = int(fingerprint["embed_dim"])
    folder = (cache_dir or default_cache_dir()) / "features"
    looked = spread(len(images), MOST_LOOKED_AT)
    missing: dict[str, int] = {}
    sizes = []
    for index in looked:
        image = images[index]
        height, width = image.shape[:2]
        h, w = grid_size(
            height, width, fingerprint["patch_size"], fingerprint["max_size"], rule_of(fingerprint["input_rule"])
        )
        sizes.append(2 * (h * w + 1) * channels)
        key = feature_key(image, fingerprint)
        if not (folder / f"{key}.safetensors").is_file():
            missing[key] = index
    share = len(missing) / max(1, len(looked))
    counts = (round(share * len(images)), len(images), len(looked))
    size = sum(sizes) / max(1, len(sizes))
    if not missing:
        return Encoding(*counts, 0.0, 0.0, size, channels)
    start = time.perf_counter()
    backbone = load_backbone(config, device)
    loaded = time.perf_counter() - start
    seconds = 0.0
    for _ in range(2):  # the first time also sets up
        start = time.perf_counter()
        pixels = images[next(iter(missing.values()))]
        with torch.inference_mode():
            batch = torch.from_numpy(pixels[None]).to(device).permute(0, 3, 1, 2) / 255
            backbone.forward_with_class_token(batch)[0].to(torch.float16).cpu()
        seconds = time.perf_counter() - start
    return Encoding(*counts, loaded, seconds, size, channels)
