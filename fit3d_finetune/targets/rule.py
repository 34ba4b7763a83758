"""How a view becomes a target: on which patches, how it is brought to them, and which of them count."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fit3d_finetune.targets.choices import PatchGrid, Resampling, Uncovered
from fit3d_finetune.targets.scenes import Scene
from fit3d_ns.features.patch_grid import COUNTED_SHARE, counted, pool_to_patch_grid
from fit3d_ns.scene.views import PinholeView


@dataclass(frozen=True)
class TargetRule:
    """Part of a recipe (`fit3d_finetune.training.recipe.Recipe`, which says what each choice means)."""

    patch_grid: PatchGrid = "export"
    resampling: Resampling = "area"
    uncovered: Uncovered = "ignore"

    def on_grid(self, scene: Scene) -> Scene:
        """The scene with the patch grids that its views get."""
        if self.patch_grid == "export":
            return scene

        def whole_patches(grid: tuple[int, int], pinhole: PinholeView) -> tuple[int, int]:
            # An export may have fewer: `BackboneConfig.max_size` shrank its images.
            whole = [max(1, side // scene.backbone.patch_size) for side in (pinhole.height, pinhole.width)]
            return min(grid[0], whole[0]), min(grid[1], whole[1])

        views = tuple(dataclasses.replace(view, grid=whole_patches(view.grid, view.pinhole())) for view in scene.views)
        novel = tuple(dataclasses.replace(view, grid=whole_patches(view.grid, view)) for view in scene.novel_views)
        return dataclasses.replace(scene, views=views, novel_views=novel)

    def resample(self, map: Tensor, grid: tuple[int, int], mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """A pixel map on the patch grid.

        Args:
            map: [H, W, C].
            grid: (h, w).
            mask: [H, W, 1], 1 where pixels count.

        Returns:
            [h, w, C] ("area": the mean of each patch's unmasked pixels; "bilinear": the value at its centre, masked
            or not), and the unmasked share [h, w] of each patch.
        """
        if self.resampling == "area":
            return pool_to_patch_grid(map, grid, mask)
        share = map.new_ones(grid) if mask is None else _at_centres(mask.to(map.dtype), grid)[..., 0]
        return _at_centres(map, grid), share

    def weights(self, share: Tensor, cover: Tensor | None = None) -> Tensor:
        """How much each patch [h, w] counts, of its unmasked share and, if given, the alpha that covers it."""
        if self.uncovered == "count":
            return share
        weights = counted(share)
        return weights if cover is None else torch.where(cover >= COUNTED_SHARE, weights, 0.0)


def _at_centres(map: Tensor, grid: tuple[int, int]) -> Tensor:
    """[H, W, C] to [*grid, C], bilinearly and without smoothing."""
    return F.interpolate(map.permute(2, 0, 1)[None], grid, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
