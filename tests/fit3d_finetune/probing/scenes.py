"""Tiny labelled data, and features that need no backbone."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fit3d_finetune.backbone.hub import save_finetuned
from fit3d_finetune.probing.protocol import FAST, FastProtocol
from fit3d_ns.features.backbone import BackboneConfig, load_backbone

WIDTH, HEIGHT, FOCAL = 64, 48, 60.0
CLASSES = ["wall", "picture", "window"]
BACKBONE = BackboneConfig(name="test_vit", weights="random", layer=3)
"""64 channels, patches of 16 pixels, milliseconds per image."""

TINY = replace(
    FAST,
    segmentation_iterations=30,
    segmentation_warmup=3,
    segmentation_images=3,
    pixels_per_image=32,
    depth_iterations=30,
    depth_warmup=3,
    depth_images=2,
    depth_bins=16,
)


def write_scene(folder: Path, views: int = 6, size: tuple[int, int] = (WIDTH, HEIGHT), seed: int = 0) -> Path:
    """A nerfstudio scene: a painted wall at z = 0, seen from 3 m by cameras turned by 14 degrees from one to the next.

    Depth files are in millimetres; the middle of the wall is a picture, its right a window.
    """
    width, height = size
    for name in ("images", "depth", "semantic"):
        (folder / name).mkdir(parents=True)
    colours = np.random.default_rng(seed).integers(0, 256, (3, 3))
    frames = []
    for index in range(views):
        pose = _pose(np.radians(14 * (index - (views - 1) / 2)))
        x, y, depth = _see_wall(pose, width, height)
        labels = np.where(x > 0.6, 2, np.where(np.abs(x) + np.abs(y) < 0.5, 1, 0)).astype(np.uint8)
        stripes = 25 * np.sin(9 * x + 1)[..., None] * np.cos(8 * y)[..., None]
        paths = {name: f"{name}/frame_{index:03d}.png" for name in ("images", "depth", "semantic")}
        Image.fromarray((colours[labels] + stripes).clip(0, 255).astype(np.uint8)).save(folder / paths["images"])
        Image.fromarray(np.rint(depth * 1000).astype(np.uint16)).save(folder / paths["depth"])
        Image.fromarray(labels).save(folder / paths["semantic"])
        frames.append(
            {
                "file_path": paths["images"],
                "depth_file_path": paths["depth"],
                "semantic_file_path": paths["semantic"],
                "transform_matrix": pose.tolist(),
            }
        )
    meta = {"camera_model": "OPENCV", "w": width, "h": height, "fl_x": FOCAL, "fl_y": FOCAL}
    meta |= {"cx": width / 2, "cy": height / 2, "depth_unit_scale_factor": 0.001}
    (folder / "transforms.json").write_text(json.dumps({**meta, "frames": frames}))
    (folder / "classes.json").write_text(json.dumps(CLASSES))
    return folder


def change_transforms(scene: Path, frame: dict[str, Any] | None = None, drop: Sequence[str] = (), **meta: Any) -> None:
    """Change transforms.json: `meta` at its top, `frame` and what to `drop` in every frame."""
    path = scene / "transforms.json"
    transforms = {**json.loads(path.read_text()), **meta}
    transforms["frames"] = [
        {key: value for key, value in {**old, **(frame or {})}.items() if key not in drop}
        for old in transforms["frames"]
    ]
    path.write_text(json.dumps(transforms))


def write_finetuned(
    folder: Path, noise: float, backbone: BackboneConfig = BACKBONE, targets: str = "gaussians"
) -> Path:
    """A folder like fit3d-finetune's, with weights that are the original's and some noise."""
    network = load_backbone(backbone)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in network.parameters():
            value += noise * torch.randn(value.shape, generator=random)
    save_finetuned(network, folder, summary={"run": {"targets": targets}}, card="A test.")
    return folder


@dataclass
class FakeImage:
    """As much of a LabelledImage as the probes ask for."""

    classes: np.ndarray | None = None
    metres: np.ndarray | None = None
    name: str = "fake"
    directions: np.ndarray | None = None

    def size(self) -> tuple[int, int]:
        known = next((map for map in (self.classes, self.metres, self.directions) if map is not None), None)
        assert known is not None
        return known.shape[0], known.shape[1]

    def labels(self, num_classes: int) -> np.ndarray:
        assert self.classes is not None
        return self.classes

    def depth(self) -> np.ndarray:
        assert self.metres is not None
        return self.metres

    def normals(self, max_depth: float = math.inf) -> np.ndarray:
        assert self.directions is not None
        return self.directions


@dataclass
class _Maps:
    channels: int


class FakeEncoded:
    """Features by backbone that are given instead of computed; stands in for EncodedImages."""

    def __init__(
        self,
        images: Sequence[FakeImage],
        features: dict[str, list[Tensor]],
        tokens: dict[str, list[Tensor]] | None = None,
    ) -> None:
        self.images = list(images)
        self.maps = {name: _Maps(maps[0].shape[-1]) for name, maps in features.items()}
        self._features, self._tokens = features, tokens

    def __len__(self) -> int:
        return len(self.images)

    def features(self, backbone: str, index: int) -> Tensor:
        return self._features[backbone][index]

    def class_token(self, backbone: str, index: int) -> Tensor:
        if self._tokens is None:
            return self.features(backbone, index).mean(dim=(0, 1))
        return self._tokens[backbone][index]


def tiny(**changes: Any) -> FastProtocol:
    return replace(TINY, **changes)


def _pose(angle: float) -> np.ndarray:
    """Camera to world, nerfstudio's axes: turned about the y axis through the wall's middle."""
    z = np.array([np.sin(angle), 0.0, np.cos(angle)])
    y = np.array([0.0, 1.0, 0.0])
    pose = np.eye(4)
    pose[:3, :3] = np.stack([np.cross(y, z), y, z], axis=1)
    pose[:3, 3] = 3 * z
    return pose


def _see_wall(pose: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where on the wall each pixel looks (x, y) and its depth along the camera's axis: [H, W] each."""
    v, u = np.mgrid[:height, :width] + 0.5
    rays = np.stack([(u - width / 2) / FOCAL, -(v - height / 2) / FOCAL, -np.ones_like(u)], axis=-1)
    directions = rays @ pose[:3, :3].T
    depth = -pose[2, 3] / directions[..., 2]
    points = pose[:3, 3] + depth[..., None] * directions
    return points[..., 0], points[..., 1], depth
