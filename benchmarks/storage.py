"""An export on disk: size and load time of its features, and what is lost.

The reference keeps N x 64 features and a 3x3 decoder to C channels in fp32. Losses are 1 - cosine between rendered and
decoded features of held-out views and those of features that were solved just now and never stored.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import get_args

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.rows import Aim, Row, Setting, milliseconds
from benchmarks.timing import compare
from fit3d_finetune.targets.finding import find_scenes
from fit3d_finetune.targets.scenes import backbone_config
from fit3d_ns.features.decoder import FeatureDecoder
from fit3d_ns.features.patch_grid import pool_to_patch_grid
from fit3d_ns.lifting.scene import lift_scene, scene_from_export
from fit3d_ns.scene.gaussians import GAUSSIANS_FILE, FeatureGaussians
from fit3d_ns.scene.render import render_features
from fit3d_ns.scene.storage import FeatureStorage

DIM = 64
STORAGES: tuple[FeatureStorage, ...] = get_args(FeatureStorage)


@torch.no_grad()
def decoded_views(gaussians: FeatureGaussians, features: Tensor) -> Tensor:
    """[cells of all held-out views, C]: the Gaussians' renderings of `features`, pooled and decoded."""
    info = gaussians.scene
    decoder = FeatureDecoder(info.decoder, info.feature_dim, info.channels)
    decoder.load_state_dict(gaussians.decoder)
    moved = dataclasses.replace(gaussians, features=features)
    cells = []
    for view in info.views:
        if view.split == "eval":
            rendered, _ = render_features(moved, view.pinhole())
            pooled, _ = pool_to_patch_grid(rendered, view.grid)
            cells.append(decoder(pooled).flatten(0, 1))
    return torch.cat(cells)


def feature_bytes(export: Path) -> int:
    """Of features, scales and decoder."""
    tensors = load_file(export / GAUSSIANS_FILE)
    return sum(t.nbytes for name, t in tensors.items() if name.startswith(("features", "decoder.")))


def write_reference(gaussians: FeatureGaussians, path: Path) -> int:
    """The same scene with the reference's features and decoder in fp32; their bytes."""
    info = gaussians.scene
    features = {"features": gaussians.features, "decoder.weight": torch.zeros(info.channels, info.feature_dim, 3, 3)}
    geometry = {name: getattr(gaussians, name) for name in ("means", "quats", "scales", "opacities", "sh")}
    save_file({name: t.contiguous() for name, t in {**geometry, **features}.items()}, path)
    return sum(tensor.nbytes for tensor in features.values())


def measure(setting: Setting) -> list[Row]:
    export = setting.exports[0]
    scene, _ = scene_from_export(export)
    lifted, _ = lift_scene(scene, backbone_config(find_scenes(export), None), DIM)
    exact = decoded_views(lifted, lifted.features)
    rows, losses = [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        reference = folder / "reference.safetensors"
        reference_bytes = write_reference(lifted, reference)
        for storage in STORAGES:
            lifted.stored_as(storage).save(folder / storage)
            size = feature_bytes(folder / storage)
            aim = Aim("ratio", "at most", 0.25) if storage == "int8" else None
            against = "reference's, fp32"
            name = f"features and decoder, {storage}, {lifted.num_gaussians:,} Gaussians"
            rows.append(Row(name, "MB", size / 1e6, reference_bytes / 1e6, against, aim=aim))
            sizes = [path.stat().st_size / 1e6 for path in (folder / storage / GAUSSIANS_FILE, reference)]
            rows.append(Row(f"whole file, {storage}", "MB", *sizes, against))
            loaded = FeatureGaussians.load(folder / storage, check_images=False)
            loss = 100 * (1 - F.cosine_similarity(decoded_views(lifted, loaded.features), exact, dim=-1)).double()
            aim = Aim("ours", "at most", 0.5)
            losses.append(Row(f"cosine loss, {storage}, mean", "%", max(float(loss.mean()), 0.0), aim=aim))
            losses.append(Row(f"cosine loss, {storage}, worst patch", "%", float(loss.max())))

        def load(storage: FeatureStorage) -> None:
            FeatureGaussians.load(folder / storage, check_images=False)

        loads = [lambda s=storage: load(s) for storage in STORAGES]  # type: ignore[misc]

        def read() -> list[Tensor]:
            return [tensor.clone() for tensor in load_file(reference).values()]  # copied: loading alone maps the file

        *ours, theirs = compare([*loads, read], 2 * setting.repeats)
    for storage, spread in zip(STORAGES, ours, strict=True):
        rows.append(milliseconds(f"load and validate, {storage}", spread, theirs, "reference's, not validated"))
    return [*rows, *losses]
