"""Many small scenes made from one export, and what fine-tuning does with them before and beside the network."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from fit3d_finetune.targets.files import TargetFolder
from fit3d_finetune.targets.finding import find_scenes
from fit3d_finetune.targets.scenes import backbone_config, view_refs
from fit3d_finetune.targets.store import TargetStore
from fit3d_finetune.training.recipe import PRESETS
from fit3d_finetune.training.samples import Loader, Samples
from fit3d_ns.scene.gaussians import FeatureGaussians

GAUSSIANS, VIEWS = 5_000, 2
"""Per scene: enough that keeping all of 200 in memory (600 MB) would show."""


def write_scenes(export: Path, folder: Path, count: int) -> None:
    """`count` exports with other features each, on some of the Gaussians and training views of `export`."""
    whole = FeatureGaussians.load(export)
    kept = torch.linspace(0, whole.num_gaussians - 1, min(GAUSSIANS, whole.num_gaussians)).long()
    tensors = {name: getattr(whole, name)[kept] for name in ("means", "quats", "scales", "opacities", "sh", "features")}
    views = tuple(view for view in whole.scene.views if view.split == "train")[:VIEWS]
    random = torch.Generator().manual_seed(0)
    for index in range(count):
        name = f"scene_{index:03d}"
        info = dataclasses.replace(whole.scene, scene=name, num_gaussians=len(kept), views=views)
        features = tensors["features"] + 0.1 * torch.randn(tensors["features"].shape, generator=random)
        small = dataclasses.replace(whole, **{**tensors, "features": features}, scene=info)
        small.save(folder / name)


@dataclass(frozen=True)
class TargetJob:
    """The data side of a fine-tuning on the first `count` exports of a folder."""

    folder: Path
    count: int

    def prepare(self, batches: int = 0) -> None:
        """Find the exports, make all targets anew, and load some batches."""
        with tempfile.TemporaryDirectory() as temporary:
            runs = Path(temporary) / "runs"
            runs.mkdir()
            for export in sorted(self.folder.iterdir())[: self.count]:
                (runs / export.name).symlink_to(export.resolve())
            scenes = find_scenes(runs)
            targets = TargetFolder(Path(temporary) / "targets", 20_000_000_000)
            store = TargetStore(scenes, targets, "cpu", "gaussians", backbone_config(scenes, None))
            store.prepare()
            samples = Samples(view_refs(scenes, "train"), store)
            for _ in Loader(samples, PRESETS["recommended"], 0, 0, batches):
                pass
