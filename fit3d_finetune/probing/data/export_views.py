"""An export as data to probe: its own images, with depth rendered from its Gaussians.

So multi-view consistency is measured where there are no labels and no depth sensor: on any capture that was trained.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from fit3d_finetune.probing.data.labelled_images import LabelledImage, LabelledImages
from fit3d_finetune.probing.data.views import Array, ConsistencyView
from fit3d_finetune.targets.export_files import ExportFiles, LocalExport
from fit3d_finetune.targets.views import load_pinhole_image, load_pinhole_mask
from fit3d_ns.scene.description import ViewInfo
from fit3d_ns.scene.gaussians import FeatureGaussians
from fit3d_ns.scene.render import render_depth
from fit3d_ns.scene.views import PinholeView

MAX_SIZE = 640
"""Longest side in pixels of the depth maps; larger views are rendered smaller."""


@dataclass(frozen=True, eq=False)
class ExportImage(LabelledImage):
    """A view of an export: the undistorted image, and the geometry that the Gaussians give it."""

    view: ViewInfo = field(kw_only=True)
    gaussians: FeatureGaussians = field(kw_only=True)
    source: ExportFiles = field(kw_only=True)

    @property
    def has_geometry(self) -> bool:
        return True

    def image(self) -> Array:
        height, width = self.size()
        pixels = load_pinhole_image(self.view, self.source.image(self.view), (height, width))
        return (pixels.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()

    def size(self) -> tuple[int, int]:
        pinhole = self.view.pinhole()
        return pinhole.height, pinhole.width

    @torch.no_grad()
    def consistency_view(self, scene: str) -> ConsistencyView:
        """Its geometry in the Gaussians' frame and unit; depth is unknown (0) under the mask and where alpha is low."""
        pinhole = _shrunk(self.view.pinhole(), MAX_SIZE)
        depth = render_depth(self.gaussians, pinhole)
        mask = load_pinhole_mask(self.view, self.source.mask(self.view))
        if mask is not None:
            # "area", so that a pixel counts only if nothing of it is masked.
            share = F.interpolate(mask[None, None].float(), (pinhole.height, pinhole.width), mode="area")[0, 0]
            depth = depth * (share == 1).to(depth)
        return ConsistencyView(depth.cpu().numpy(), pinhole.K.numpy(), np.linalg.inv(self.view.world_to_camera), scene)


def read_export(path: Path, images_root: Path | None = None) -> LabelledImages:
    """The views of an export (runs/<scene>), without labels.

    Args:
        path: the export.
        images_root: where its images are now, if they moved.

    Raises:
        InputError: a broken export, or its images are not where they were.
    """
    gaussians = FeatureGaussians.load(path, images_root=images_root)
    source = LocalExport(path, Path(gaussians.scene.images_root))
    images = [
        ExportImage(
            f"{path.name}/{Path(view.path).stem}", source.image(view), view=view, gaussians=gaussians, source=source
        )
        for view in gaussians.scene.views
    ]
    return LabelledImages(str(path), tuple(images))


def _shrunk(view: PinholeView, max_size: int) -> PinholeView:
    """The view with its longest side at most `max_size`."""
    factor = min(1.0, max_size / max(view.width, view.height))
    return view.resized(*(max(1, round(side * factor)) for side in (view.width, view.height)))
