"""The CPU backend: Numba kernels as autograd functions.

Project (and SHColors) turn Gaussians into ellipses and colours, one graph node per info entry that training
reads; Blend turns those into images. Blend keeps the output, the final transmittance and the tile lists;
weights are found again in the backward pass.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fit3d_ns.rasterization.binning import TileLists, bin_gaussians
from fit3d_ns.rasterization.buffers import empty, zeros
from fit3d_ns.rasterization.kernels import kernels
from fit3d_ns.rasterization.threads import kernel_launch, thread_count

# Up to this many channels are blended in registers, more go through a matrix product per tile.
NARROW = 4


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _zeros(*shape: int) -> Tensor:
    """Zeros without torch, whose threads would go on spinning beside the kernels' after filling them."""
    return torch.from_numpy(zeros(*shape))


def _padded(colors: np.ndarray) -> np.ndarray:
    """colors [..., D] with zeros up to the fewest channels that the wide kernels take."""
    missing = kernels().wide.FEWEST_CHANNELS - colors.shape[-1]
    return np.pad(colors, [(0, 0)] * (colors.ndim - 1) + [(0, missing)]) if missing > 0 else colors


class Project(torch.autograd.Function):
    """means, quats, scales, viewmats -> means2d, depths, ldl, compensations; conics and radii without gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        viewmats: Tensor,
        Ks: Tensor,
        width: int,
        height: int,
        eps2d: float,
        near_plane: float,
        far_plane: float,
        radius_clip: float,
    ) -> tuple[Tensor, ...]:
        n_cameras, n = viewmats.shape[0], means.shape[0]
        means2d = torch.empty(n_cameras, n, 2)
        depths = torch.empty(n_cameras, n)
        ldl = torch.empty(n_cameras, n, 3)
        conics = torch.empty(n_cameras, n, 3)
        compensations = torch.empty(n_cameras, n)
        radii = torch.empty(n_cameras, n, dtype=torch.int32)
        arrays = [_array(t) for t in (means, quats, scales, viewmats, Ks)]
        size = (float(width), float(height))
        limits = (float(near_plane), float(far_plane), float(radius_clip))
        outputs = [t.numpy() for t in (means2d, depths, ldl, conics, compensations, radii)]
        project = kernels().projection.project
        with kernel_launch():
            project(thread_count(), *arrays, size, limits, float(eps2d), *outputs)
        ctx.save_for_backward(means, quats, scales, viewmats, Ks, radii)
        ctx.size, ctx.eps2d = size, float(eps2d)
        ctx.mark_non_differentiable(conics, radii)
        ctx.set_materialize_grads(False)
        return means2d, depths, ldl, compensations, conics, radii

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        means, quats, scales, viewmats, Ks, radii = ctx.saved_tensors
        n_cameras, n = radii.shape
        shapes = ((n_cameras, n, 2), (n_cameras, n), (n_cameras, n, 3), (n_cameras, n))
        incoming = [
            np.zeros(shape, np.float32) if g is None else _array(g) for g, shape in zip(grads[:4], shapes, strict=True)
        ]
        g_means, g_quats, g_scales = (_zeros(*t.shape) for t in (means, quats, scales))
        parts = thread_count()
        g_views = np.zeros((parts, n_cameras, 4, 4))
        arrays = [_array(t) for t in (means, quats, scales, viewmats, Ks)]
        backward = kernels().projection.project_backward
        with kernel_launch():
            backward(parts, *arrays, ctx.size, ctx.eps2d, radii.numpy(), *incoming, g_means.numpy(), g_quats.numpy(),
                     g_scales.numpy(), g_views)  # fmt: skip
        g_viewmats = torch.from_numpy(g_views.sum(0).astype(np.float32))
        return g_means, g_quats, g_scales, g_viewmats, None, None, None, None, None, None, None


class SHColors(torch.autograd.Function):
    """means [N, 3], camera centres [C, 3], coefficients [1 or C, N, K, 3] -> colours [C, N, 3]."""

    @staticmethod
    def forward(ctx: Any, means: Tensor, centers: Tensor, coefficients: Tensor, radii: Tensor, degree: int) -> Tensor:
        n_cameras, n = radii.shape
        colors = torch.empty(n_cameras, n, 3)
        sh_colors = kernels().sh.sh_colors
        with kernel_launch():
            sh_colors(thread_count(), degree, _array(means), _array(centers), _array(coefficients), radii.numpy(),
                      colors.numpy())  # fmt: skip
        ctx.save_for_backward(means, centers, coefficients, radii, colors)
        ctx.degree = degree
        return colors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_colors: Tensor) -> tuple[Tensor | None, ...]:
        means, centers, coefficients, radii, colors = ctx.saved_tensors
        parts = thread_count()
        g_coefficients, g_means = _zeros(*coefficients.shape), _zeros(*means.shape)
        g_centers = np.zeros((parts, centers.shape[0], 3))
        backward = kernels().sh.sh_colors_backward
        with kernel_launch():
            backward(parts, ctx.degree, _array(means), _array(centers), _array(coefficients), radii.numpy(),
                     colors.numpy(), _array(g_colors), g_coefficients.numpy(), g_means.numpy(), g_centers)  # fmt: skip
        return g_means, torch.from_numpy(g_centers.sum(0).astype(np.float32)), g_coefficients, None, None


class Blend(torch.autograd.Function):
    """means2d, ldl, opacities, colors [1 or C, N, D], backgrounds -> images [C, H, W, D], alphas [C, H, W, 1]."""

    @staticmethod
    def forward(
        ctx: Any,
        means2d: Tensor,
        ldl: Tensor,
        opacities: Tensor,
        colors: Tensor,
        backgrounds: Tensor | None,
        depths: Tensor,
        radii: Tensor,
        width: int,
        height: int,
        absgrad: bool,
    ) -> tuple[Tensor, Tensor]:
        n_cameras, channels = means2d.shape[0], colors.shape[-1]
        image = torch.from_numpy(empty(n_cameras, height, width, channels))
        final_t = np.empty((n_cameras, height, width), np.float32)
        back = np.zeros((n_cameras, channels), np.float32) if backgrounds is None else _array(backgrounds)
        geometry = [_array(t) for t in (means2d, ldl, opacities, depths, radii)]
        palette, canvas = _array(colors), image.numpy()
        size, tile_w = (width, height), math.ceil(width / 16)
        if geometry[2].size and geometry[2].max() > 1.0 + 1e-6:
            raise ValueError(f"opacities must be at most 1, the largest is {geometry[2].max():g}.")
        tiles: list[TileLists] = []
        narrow = channels <= NARROW
        if not narrow:
            palette = _padded(palette)
        with kernel_launch():
            for c in range(n_cameras):
                m, e, o, z, r = (a[c] for a in geometry)
                t = bin_gaussians(m, e, o, z, r, width, height)
                tiles.append(t)
                colors_c = palette[c if palette.shape[0] > 1 else 0]
                if narrow:
                    kernels().blend.pack_colors(thread_count(), t.ids, colors_c, t.packed)
                    kernels().blend.blend(t.bounds, t.offsets, t.lists, t.packed, size, tile_w, back[c], canvas[c],
                                          final_t[c])  # fmt: skip
                else:
                    kernels().wide.wide_blend(t.bounds, t.offsets, t.lists, t.ids, t.packed, size, tile_w, colors_c,
                                              back[c], canvas[c], final_t[c])  # fmt: skip
        ctx.save_for_backward(means2d, colors, image)
        ctx.tiles, ctx.final_t, ctx.size, ctx.absgrad = tiles, final_t, size, absgrad
        ctx.set_materialize_grads(False)
        return image, torch.from_numpy(1.0 - final_t)[..., None]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_image: Tensor | None, g_alpha: Tensor | None) -> tuple[Tensor | None, ...]:
        means2d, colors, image = ctx.saved_tensors
        n_cameras, n = means2d.shape[:2]
        (width, height), channels = ctx.size, colors.shape[-1]
        wants_geometry = any(ctx.needs_input_grad[:3])
        g_back = None
        if ctx.needs_input_grad[4]:
            g_back = torch.zeros(n_cameras, channels)
            if g_image is not None:
                g_back = torch.einsum("chw,chwd->cd", torch.from_numpy(ctx.final_t), g_image)
        g_canvas = zeros(*image.shape) if g_image is None else _array(g_image)
        g_cover = np.zeros((n_cameras, height, width), np.float32) if g_alpha is None else _array(g_alpha[..., 0])
        g_means2d, g_abs = _zeros(n_cameras, n, 2), _zeros(n_cameras, n, 2)
        g_ldl, g_opacities = _zeros(n_cameras, n, 3), _zeros(n_cameras, n)
        g_colors = _zeros(n_cameras, n, channels if channels <= NARROW else 0)
        wide_gradients: list[Tensor] = []
        geometry = [t.numpy() for t in (g_means2d, g_abs, g_ldl, g_opacities)]
        palette, canvas = _array(colors), image.detach().numpy()
        narrow = channels <= NARROW
        if not narrow:
            palette = _padded(palette)
        tile_w = math.ceil(width / 16)
        blend, wide, parting = kernels().blend, kernels().wide, kernels().part
        with kernel_launch():
            for c in range(n_cameras):
                t: TileLists = ctx.tiles[c]
                parts, seen = t.bounds.size - 1, t.ids.size
                slots, used = parting.part_slots(t.bounds, t.offsets, t.lists, seen)
                grads = zeros(used * blend.GRADS if narrow or wants_geometry else 0)
                common = (ctx.size, tile_w)
                maps = (canvas[c], ctx.final_t[c], g_canvas[c], g_cover[c])
                g_colors_c = np.empty((n, 0), np.float32)
                if narrow:
                    g_colors_c = g_colors[c].numpy()
                    blend.blend_backward(t.bounds, t.offsets, t.lists, t.packed, *common, *maps, slots, grads)
                else:
                    colors_c = palette[c if palette.shape[0] > 1 else 0]
                    g_features = zeros(n + used - seen, colors_c.shape[1])
                    wide.wide_blend_backward(t.bounds, t.offsets, t.lists, t.ids, t.packed, *common, colors_c, *maps,
                                             slots, g_features, grads, wants_geometry)  # fmt: skip
                    wide.add_slots(parts, t.ids, slots, g_features, n)
                    wide_gradients.append(torch.from_numpy(g_features[:n, :channels]))
                if narrow or wants_geometry:
                    blend.scatter_gradients(parts, t.ids, t.packed, slots, grads, *(a[c] for a in geometry),
                                            g_colors_c)  # fmt: skip
        if not narrow:
            # The usual case, one camera, needs no copy.
            g_colors = wide_gradients[0][None] if n_cameras == 1 else torch.stack(wide_gradients)
        if ctx.absgrad and ctx.needs_input_grad[0]:
            means2d.absgrad = g_abs
        if colors.shape[0] == 1 and n_cameras > 1:
            g_colors = g_colors.sum(0, keepdim=True)
        needs = ctx.needs_input_grad
        return (
            g_means2d if needs[0] else None,
            g_ldl if needs[1] else None,
            g_opacities if needs[2] else None,
            g_colors if needs[3] else None,
            g_back,
            None,
            None,
            None,
            None,
            None,
        )
