"""A view's geometry, prepared once for many renderings of other channels by gsplat's kernels.

`rasterization` projects, bins and sorts all Gaussians each time. Where geometry and camera stay the same, as in every
product of the solver of lifting, that need not be done again: only blending is left, forward and back, and only the
Gaussians that the view shows take part in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_ns.rasterization import EPS2D, FAR_PLANE, TILE_SIZE, RasterizeMode, channels_per_pass


@dataclass(frozen=True, eq=False)
class PreparedView:
    """M of N Gaussians, projected into one view, and which tiles they reach."""

    index: Tensor
    """[M] int64: of those that are seen."""
    means2d: Tensor
    """[1, M, 2]."""
    conics: Tensor
    """[1, M, 3]."""
    opacities: Tensor
    """[1, M], as the view sees them."""
    offsets: Tensor
    """[1, tile rows, tile columns] int32: where each tile's part of `owners` begins."""
    owners: Tensor
    """int32, by tile and depth: positions in `index`."""
    width: int
    height: int

    @staticmethod
    @torch.no_grad()
    def of(
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        viewmat: Tensor,
        K: Tensor,
        width: int,
        height: int,
        near_plane: float,
        rasterize_mode: RasterizeMode = "classic",
    ) -> PreparedView:
        """Project and sort, as `rasterization` of the same arguments does.

        Args:
            means, quats, scales, opacities: [N, 3], [N, 4], [N, 3], [N], on a device of gsplat's.
            viewmat: world to camera [4, 4].
            K: intrinsics [3, 3].
        """
        from gsplat.cuda._wrapper import fully_fused_projection, isect_offset_encode, isect_tiles

        antialiased = rasterize_mode == "antialiased"
        radii, means2d, depths, conics, compensations = fully_fused_projection(
            means, None, quats, scales, viewmat[None], K[None], width, height, eps2d=EPS2D, near_plane=near_plane,
            far_plane=FAR_PLANE, calc_compensations=antialiased,
        )  # fmt: skip
        seen_opacities = opacities * compensations[0] if antialiased else opacities
        index = torch.nonzero(radii[0] > 0)[:, 0]
        radii, means2d, depths, conics = (values[:, index] for values in (radii, means2d, depths, conics))
        tiles_x, tiles_y = math.ceil(width / TILE_SIZE), math.ceil(height / TILE_SIZE)
        _, ids, owners = isect_tiles(means2d, radii, depths, TILE_SIZE, tiles_x, tiles_y)
        offsets = isect_offset_encode(ids, 1, tiles_x, tiles_y)
        return PreparedView(index, means2d, conics, seen_opacities[index][None], offsets, owners, width, height)

    @property
    def num_bytes(self) -> int:
        """That it keeps on its device."""
        tensors = (self.index, self.means2d, self.conics, self.opacities, self.offsets, self.owners)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def render(self, channels: Tensor) -> Tensor:
        """Blend channels [N, D] to an image [H, W, D]; differentiable in them alone."""
        from gsplat.cuda._wrapper import rasterize_to_pixels

        if len(self.index) == 0:
            return channels.new_zeros(self.height, self.width, channels.shape[1]) + 0.0 * channels.sum()
        seen = channels[self.index][None]
        parts = [
            rasterize_to_pixels(
                self.means2d, self.conics, part, self.opacities, self.width, self.height, TILE_SIZE, self.offsets,
                self.owners,
            )[0][0]
            for part in seen.split(channels_per_pass(channels.shape[1]), dim=-1)
        ]  # fmt: skip
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
