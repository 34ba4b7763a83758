"""The one pinhole camera: what a scene is rendered from, wherever the camera comes from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PinholeView:
    """A pinhole camera with the grid of patches that its image is looked at in."""

    world_to_camera: Tensor
    """[4, 4], from the Gaussians' frame to the camera's (OpenCV axes: x right, y down, z forward)."""
    K: Tensor
    """[3, 3] in pixels; the centre of the top-left pixel is at (0.5, 0.5)."""
    width: int
    height: int
    grid: tuple[int, int]
    """(h, w) of the patch grid, which spans the whole image; (height, width) where every pixel is its own patch."""
    mask: Tensor | None = None
    """[height, width], 1 = counts, 0 = left out; fractions are fine."""

    def to(self, device: torch.device | str) -> PinholeView:
        """The same view on another device."""
        pose, K = self.world_to_camera.to(device), self.K.to(device)
        mask = None if self.mask is None else self.mask.to(device)
        return PinholeView(pose, K, self.width, self.height, self.grid, mask)

    def resized(self, width: int, height: int) -> PinholeView:
        """The same field of view at another size, without the mask."""
        scaling = torch.tensor([width / self.width, height / self.height, 1.0], dtype=self.K.dtype).diag()
        return PinholeView(self.world_to_camera, scaling.to(self.K) @ self.K, width, height, self.grid)
