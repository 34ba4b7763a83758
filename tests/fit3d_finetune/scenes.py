"""Small exports of a ViT that takes milliseconds, and what every test here needs around them."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fit3d_finetune.targets.files import TargetFolder
from fit3d_finetune.targets.finding import find_scenes
from fit3d_finetune.targets.scenes import Scene, backbone_config
from fit3d_finetune.targets.store import StoreKind, TargetStore
from fit3d_finetune.training.recipe import Recipe
from fit3d_finetune.training.run import Run
from fit3d_ns.features.backbone import BackboneConfig, backbone_fingerprint
from fit3d_ns.features.decoder import DecoderKind
from fit3d_ns.features.position import ViewDependence
from fit3d_ns.scene.description import BackboneInfo, DecoderResolution, SceneInfo, ViewInfo
from fit3d_ns.scene.gaussians import FeatureGaussians

BACKBONE = BackboneConfig(name="test_vit", weights="random", layer=3, max_size=None)
"""64 channels, 6 blocks, patches of 16 pixels; two blocks come after its feature layer."""
PATCH = 16
GRID = (3, 4)
WIDTH, HEIGHT = GRID[1] * PATCH, GRID[0] * PATCH


def backbone_info(config: BackboneConfig = BACKBONE) -> BackboneInfo:
    fingerprint = backbone_fingerprint(config)
    names = [field.name for field in dataclasses.fields(BackboneInfo)]
    return BackboneInfo(**{name: fingerprint[name] for name in names})


def make_view(root: Path, index: int, eval_views: int = 1, mask: np.ndarray | None = None) -> ViewInfo:
    """A pinhole view of the plane z = 0 from 3 units away; the first `eval_views` are held out.

    Args:
        mask: bool [HEIGHT, WIDTH], False where pixels are left out.
    """
    image, mask_file = root / f"images/{index}.png", root / f"masks/{index}.png"
    image.parent.mkdir(parents=True, exist_ok=True)
    if not image.is_file():
        coarse = np.random.default_rng(index).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(image)
    if mask is not None:
        mask_file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask.astype(np.uint8) * 255).save(mask_file)
    pose = np.eye(4)
    pose[:3, 3] = (0.2 * index - 0.5, 0.1 * (index % 2), 3.0)
    return ViewInfo(
        path=f"images/{index}.png",
        width=WIDTH,
        height=HEIGHT,
        K=np.array([[50.0, 0.0, WIDTH / 2], [0.0, 50.0, HEIGHT / 2], [0.0, 0.0, 1.0]]),
        distortion=np.zeros(6),
        camera_model="OPENCV",
        world_to_camera=pose,
        mask_path=None if mask is None else f"masks/{index}.png",
        split="train" if index >= eval_views else "eval",
        sha256=hashlib.sha256(image.read_bytes()).hexdigest(),
        grid=GRID,
    )


def make_gaussians(
    root: Path,
    views: int = 5,
    decoder: DecoderKind = "linear",
    resolution: DecoderResolution = "patch",
    backbone: BackboneInfo | None = None,
    mask: np.ndarray | None = None,
    opacity: float = 0.9,
    across: tuple[float, float] = (-4.0, 4.0),
    count: int = 400,
    feature_dim: int = 8,
    seed: int = 0,
    view_dependence: ViewDependence = "none",
) -> FeatureGaussians:
    """Gaussians on the plane z = 0, between two x; the views see -2.2 (the last one) to 2.4 (the first one)."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random)

    backbone = backbone or backbone_info()
    channels = backbone.embed_dim
    state = {"weight": normal(channels, feature_dim) * 0.3, "bias": normal(channels)}
    if decoder == "conv3x3":
        state = {"weight": normal(channels, feature_dim, 3, 3) * 0.1}
    scene = SceneInfo(
        scene="plane",
        backbone=backbone,
        decoder=decoder,
        decoder_resolution=resolution,
        num_gaussians=count,
        feature_dim=feature_dim,
        channels=channels,
        units="arbitrary",
        transform=np.eye(3, 4),
        scale=1.0,
        rasterize_mode="classic",
        images_root=str(root),
        views=tuple(make_view(root, i, mask=mask) for i in range(views)),
        feature_view_dependence=view_dependence,
    )
    places = torch.rand(count, 3, generator=random) * torch.tensor([across[1] - across[0], 8.0, 0.1])
    return FeatureGaussians(
        means=places + torch.tensor([across[0], -4.0, 0.0]),
        quats=torch.nn.functional.normalize(normal(count, 4), dim=-1),
        scales=torch.full((count, 3), 0.3),
        opacities=torch.full((count,), opacity),
        sh=normal(count, 4, 3) * 0.3,
        features=normal(count, feature_dim).half().float(),
        decoder=state,
        scene=scene,
        position=None if view_dependence == "none" else normal(3, 4, channels),
    )


def write_export(folder: Path, **options: Any) -> Path:
    """Write an export of `make_gaussians`; its images lie in captures/ beside the folder's parent."""
    root = folder.parent.parent / "captures" / folder.name
    make_gaussians(root, **options).save(folder)
    return folder


def scene_of(folder: Path, **options: Any) -> Scene:
    """The scene of one export, written to folder/runs/plane."""
    [scene] = find_scenes(write_export(folder / "runs" / "plane", **options))
    return scene


def store_of(folder: Path, *scenes: Scene, kind: StoreKind = "gaussians", limit_bytes: int = 1 << 30) -> TargetStore:
    """A prepared store whose files lie in folder/targets."""
    store = TargetStore(scenes, TargetFolder(folder / "targets", limit_bytes), "cpu", kind, BACKBONE)
    store.prepare()
    return store


def run_of(output_dir: Path, scenes: list[Scene], recipe: Recipe | None = None, **options: Any) -> Run:
    """A fine-tuning without logs."""
    return Run(
        train_scenes=scenes,
        val_scenes=options.pop("val_scenes", []),
        backbone=backbone_config(scenes, None),
        recipe=recipe or Recipe(lr=1e-3, clip_norm=1.0),
        output_dir=output_dir,
        tracker=options.pop("tracker", "none"),
        **options,
    )
