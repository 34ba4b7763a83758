"""One rasteriser, two backends: `rasterization(...)` with gsplat 1.4.0's arguments, outputs and info keys.

CUDA tensors go to gsplat itself, CPU tensors to Numba kernels (`cpu.py`). Importing this package compiles
nothing; the first CPU call compiles the kernels (about a minute) into Numba's on-disk cache.

What "the same result" means (both backends, gsplat 1.4.0's constants):
  - culled: depth outside [near_plane, far_plane], a 3-sigma radius <= radius_clip, or a square of that radius
    that misses the image. `radii`, `means2d`, `depths` are as gsplat gives them (zeros where culled).
  - a Gaussian reaches every pixel of the 16x16 tiles that the square of its 3-sigma radius touches, where its
    alpha = min(0.999, opacity exp(-sigma)) is at least 1/255;
  - blending is front to back by depth (ties by index) and ends before a pixel's transmittance would become
    1e-4 or less.
The CPU backend leaves out only what contributes nothing under these rules.
"""

from __future__ import annotations

import inspect
import math
import sys
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

from fit3d_ns.common.choices import RasterizeMode
from fit3d_ns.rasterization.backend import on_gsplat

TILE_SIZE = 16
FAR_PLANE = 1e10
EPS2D = 0.3
"""Pixels squared, added to the diagonal of projected covariances: the low-pass filter of 3DGS."""
WIDEST_PASS = 33
"""Channels that gsplat blends in one pass here. It has compiled passes of 8, 16, 32 and more, and of one more than each
of them, for depth beside colours."""
RenderMode = Literal["RGB", "D", "ED", "RGB+D", "RGB+ED"]
RENDER_MODES = ("RGB", "D", "ED", "RGB+D", "RGB+ED")


def rasterization(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    near_plane: float = 0.01,
    far_plane: float = FAR_PLANE,
    radius_clip: float = 0.0,
    eps2d: float = EPS2D,
    sh_degree: int | None = None,
    packed: bool = False,
    tile_size: int = TILE_SIZE,
    backgrounds: Tensor | None = None,
    render_mode: RenderMode = "RGB",
    sparse_grad: bool = False,
    absgrad: bool = False,
    rasterize_mode: RasterizeMode = "classic",
    channel_chunk: int | None = None,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Render N Gaussians into C pinhole images. Differentiable in all tensors but `Ks`.

    Args:
        means: centres in world units. [N, 3]
        quats: rotations, wxyz, any length but zero. [N, 4]
        scales: standard deviations along the axes, world units. [N, 3]
        opacities: in 0..1. [N]
        colors: values of any width D, [N, D] or [C, N, D]; or, with `sh_degree`, spherical-harmonics
            coefficients [N, K, 3] or [C, N, K, 3]. Up to 4 channels (depth included) are fastest on the CPU.
        viewmats: world-to-camera, OpenCV axes. [C, 4, 4]
        Ks: intrinsics in pixels. [C, 3, 3]
        width: image width in pixels.
        height: image height in pixels.
        near_plane: nearest depth that is drawn.
        far_plane: farthest depth that is drawn.
        radius_clip: Gaussians of this 3-sigma radius (pixels) or less are left out.
        eps2d: added to the projected covariance's diagonal (pixels squared).
        sh_degree: 0..3, how many bands of the coefficients to use; None when `colors` are values.
        packed: only False (the layout [C, N, ...] of `info`) is supported.
        tile_size: only 16.
        backgrounds: colour behind everything. [C, D]
        render_mode: colours (RGB), accumulated depth (D), expected depth (ED), or both, depth last.
        sparse_grad: only False, as it needs `packed`.
        absgrad: set `info["means2d"].absgrad` [C, N, 2] in the backward pass (AbsGS).
        rasterize_mode: "antialiased" scales opacities by sqrt(det / det with eps2d) (Mip-Splatting).
        channel_chunk: channels per pass on CUDA, None: `channels_per_pass`; the CPU backend takes all at once.

    Returns:
        images [C, H, W, D (+1)], alphas [C, H, W, 1], and `info` with camera_ids and gaussian_ids (None, as
        gsplat gives without `packed`), radii, means2d, depths, conics, opacities, tile_width, tile_height,
        tile_size, width, height, n_cameras.

    Raises:
        ValueError, TypeError: for shapes, types and options that cannot be rendered.
    """
    _check(means, quats, scales, opacities, colors, viewmats, Ks, width, height, sh_degree, packed, tile_size,
           backgrounds, render_mode, sparse_grad, rasterize_mode)  # fmt: skip
    if on_gsplat(means.device):
        from gsplat.rendering import rasterization as gsplat_rasterization

        blended = (3 if sh_degree is not None else colors.shape[-1]) + (render_mode in ("RGB+D", "RGB+ED"))
        return gsplat_rasterization(
            means, quats, scales, opacities, colors, viewmats, Ks, width, height, near_plane=near_plane,
            far_plane=far_plane, radius_clip=radius_clip, eps2d=eps2d, sh_degree=sh_degree, packed=False,
            tile_size=tile_size, backgrounds=backgrounds, render_mode=render_mode, absgrad=absgrad,
            rasterize_mode=rasterize_mode,
            channel_chunk=channel_chunk or channels_per_pass(blended))  # fmt: skip
    if means.device.type != "cpu":
        raise ValueError(f"rasterization runs on CPU and CUDA tensors, not on {means.device}.")
    return _rasterize_on_cpu(
        means, quats, scales, opacities, colors, viewmats, Ks, width, height, near_plane, far_plane, radius_clip, eps2d,
        sh_degree, backgrounds, render_mode, absgrad, rasterize_mode)  # fmt: skip


def channels_per_pass(channels: int) -> int:
    """How many channels gsplat best takes at once: as few passes as it can with `WIDEST_PASS`, of like width.

    Its own default of 32 renders 64 channels and one more in three passes; of 33 and 32, which it has compiled, two do.
    """
    passes = -(-channels // WIDEST_PASS)
    return -(-channels // max(1, passes))


def _rasterize_on_cpu(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    near_plane: float,
    far_plane: float,
    radius_clip: float,
    eps2d: float,
    sh_degree: int | None,
    backgrounds: Tensor | None,
    render_mode: str,
    absgrad: bool,
    rasterize_mode: str,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    from fit3d_ns.rasterization.cpu import Blend, Project, SHColors

    n_cameras, n = viewmats.shape[0], means.shape[0]
    means2d, depths, ldl, compensations, conics, radii = Project.apply(
        means, quats, scales, viewmats, Ks, width, height, eps2d, near_plane, far_plane, radius_clip
    )
    seen_opacities = opacities[None].expand(n_cameras, n)
    if rasterize_mode == "antialiased":
        seen_opacities = seen_opacities * compensations
    info = {
        "camera_ids": None,
        "gaussian_ids": None,
        "radii": radii,
        "means2d": means2d,
        "depths": depths,
        "conics": conics,
        "opacities": seen_opacities,
        "tile_width": math.ceil(width / TILE_SIZE),
        "tile_height": math.ceil(height / TILE_SIZE),
        "tile_size": TILE_SIZE,
        "width": width,
        "height": height,
        "n_cameras": n_cameras,
    }
    if render_mode in ("D", "ED"):
        values = depths[..., None]
        backgrounds = None
    else:
        if sh_degree is not None:
            coefficients = colors if colors.dim() == 4 else colors[None]
            centers = torch.inverse(viewmats)[:, :3, 3]
            values = SHColors.apply(means, centers, coefficients, radii, sh_degree)
        else:
            values = colors if colors.dim() == 3 else colors[None]
        if render_mode != "RGB":
            values = torch.cat((values.expand(n_cameras, -1, -1), depths[..., None]), dim=-1)
            if backgrounds is not None:
                backgrounds = torch.cat((backgrounds, backgrounds.new_zeros(n_cameras, 1)), dim=-1)
    image, alphas = Blend.apply(
        means2d, ldl, seen_opacities, values, backgrounds, depths, radii, width, height, absgrad
    )
    if render_mode in ("ED", "RGB+ED"):
        image = torch.cat((image[..., :-1], image[..., -1:] / alphas.clamp(min=1e-10)), dim=-1)
    return image, alphas, info


def _check(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    sh_degree: int | None,
    packed: bool,
    tile_size: int,
    backgrounds: Tensor | None,
    render_mode: str,
    sparse_grad: bool,
    rasterize_mode: str,
) -> None:
    n, n_cameras = means.shape[0], viewmats.shape[0]
    expected: dict[str, tuple[Tensor, tuple[int, ...]]] = {
        "means": (means, (n, 3)),
        "quats": (quats, (n, 4)),
        "scales": (scales, (n, 3)),
        "opacities": (opacities, (n,)),
        "viewmats": (viewmats, (n_cameras, 4, 4)),
        "Ks": (Ks, (n_cameras, 3, 3)),
    }
    if sh_degree is None:
        depth = colors.shape[-1] if colors.dim() else 0
        expected["colors"] = (colors, (n, depth) if colors.dim() == 2 else (n_cameras, n, depth))
        channels = depth
    else:
        if sh_degree not in (0, 1, 2, 3):
            raise ValueError(f"sh_degree must be 0, 1, 2 or 3, not {sh_degree}.")
        bands = colors.shape[-2] if colors.dim() >= 2 else 0
        expected["colors"] = (colors, (n, bands, 3) if colors.dim() == 3 else (n_cameras, n, bands, 3))
        if bands < (sh_degree + 1) ** 2:
            raise ValueError(f"sh_degree {sh_degree} needs {(sh_degree + 1) ** 2} coefficients, colors has {bands}.")
        channels = 3
    if backgrounds is not None:
        expected["backgrounds"] = (
            backgrounds,
            (n_cameras, channels if render_mode not in ("D", "ED") else backgrounds.shape[-1]),
        )
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {list(tensor.shape)}, expected {list(shape)}.")
        if tensor.dtype != torch.float32:
            raise TypeError(f"{name} is {tensor.dtype}, the rasteriser takes float32.")
        if tensor.device != means.device:
            raise ValueError(f"{name} is on {tensor.device}, means are on {means.device}.")
    if width < 1 or height < 1:
        raise ValueError(f"the image is {width}x{height} pixels, both must be at least 1.")
    if render_mode not in RENDER_MODES:
        raise ValueError(f"render_mode '{render_mode}' is not one of {', '.join(RENDER_MODES)}.")
    if rasterize_mode not in ("classic", "antialiased"):
        raise ValueError(f"rasterize_mode '{rasterize_mode}' is neither classic nor antialiased.")
    if packed or sparse_grad:
        raise ValueError("packed=True and sparse_grad=True are not supported: pass False for both.")
    if tile_size != TILE_SIZE:
        raise ValueError(f"tile_size must be {TILE_SIZE}, not {tile_size}.")


class _CallablePackage(ModuleType):
    """Lets `from fit3d_ns import rasterization` be called: the package and the function in it share one name."""

    __call__ = staticmethod(rasterization)


sys.modules[__name__].__class__ = _CallablePackage
__signature__ = inspect.signature(rasterization)
