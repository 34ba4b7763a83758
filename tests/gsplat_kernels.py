"""gsplat 1.4.0's CUDA kernels on the CPU, by contract: all of gsplat's own Python runs, and its compiled part is this.

What the kernels ask of their inputs is checked (one device, contiguous, float32, counts of channels that were
compiled), what they give has their layout (radii int32, one column; intersections sorted by camera, tile and depth,
packed into 64 bits), and every rendering of more channels than a pass takes overwrites `absgrad`, as there. Values come
from the torch twin, so that a branch of ours which is for GPUs can be held to the CPU's.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from fit3d_ns.method.mcmc import compute_relocation
from fit3d_ns.rasterization.torch_reference import project, quats_to_rotations, sh_bases

COMPILED_CHANNELS = (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 64, 65, 128, 129, 256, 257, 512, 513)
MAX_ALPHA, MIN_ALPHA, MIN_TRANSMITTANCE = 0.999, 1 / 255, 1e-4


class Kernels:
    """What `_make_lazy_cuda_func(name)` finds; counts its calls."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.channels: list[int] = []
        """Of every forward rendering."""

    def find(self, name: str) -> Callable[..., Any]:
        kernel: Callable[..., Any] | None = getattr(self, name, None)
        if kernel is None:
            raise AttributeError(f"gsplat 1.4.0's kernel {name} has no stand-in")

        def called(*arguments: Any) -> Any:
            self.calls[name] += 1
            assert kernel is not None
            return kernel(*arguments)

        return called

    # ---- projection

    def fully_fused_projection_fwd(
        self, means: Tensor, covars: Tensor | None, quats: Tensor, scales: Tensor, viewmats: Tensor, Ks: Tensor,
        width: int, height: int, eps2d: float, near: float, far: float, clip: float, compensate: bool, camera: str,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        require(means, quats, scales, viewmats, Ks)
        assert covars is None
        assert camera == "PINHOLE"
        found = [
            _projected(means, quats, scales, viewmat, K, width, height, eps2d, near, far, clip)
            for viewmat, K in zip(viewmats, Ks, strict=True)
        ]
        radii, means2d, depths, conics, compensations = (torch.stack(part) for part in zip(*found, strict=True))
        seen = radii > 0
        zeroed = [torch.where(seen.reshape(*seen.shape, *[1] * (part.dim() - 2)), part, torch.zeros_like(part))
                  for part in (means2d, depths, conics, compensations)]  # fmt: skip
        return radii.int(), *zeroed[:3], zeroed[3] if compensate else torch.empty(0)

    def fully_fused_projection_bwd(
        self, means: Tensor, covars: Tensor | None, quats: Tensor, scales: Tensor, viewmats: Tensor, Ks: Tensor,
        width: int, height: int, eps2d: float, camera: str, radii: Tensor, conics: Tensor,
        compensations: Tensor | None, v_means2d: Tensor, v_depths: Tensor, v_conics: Tensor,
        v_compensations: Tensor | None, of_viewmats: bool,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        require(means, quats, scales, viewmats, Ks, conics, v_means2d, v_depths, v_conics)
        require(radii, dtype=torch.int32)
        inputs = [tensor.detach().clone().requires_grad_() for tensor in (means, quats, scales, viewmats)]
        total = torch.zeros(())
        with torch.enable_grad():
            for index, K in enumerate(Ks):
                _, means2d, depths, own_conics, own = _projected(
                    *inputs[:3], inputs[3][index], K, width, height, eps2d, -math.inf, math.inf, 0.0
                )
                seen = radii[index] > 0
                total = total + (means2d * v_means2d[index])[seen].sum() + (depths * v_depths[index])[seen].sum()
                total = total + (own_conics * v_conics[index])[seen].sum()
                if v_compensations is not None:
                    total = total + (own * v_compensations[index])[seen].sum()
        v_means, v_quats, v_scales, v_viewmats = torch.autograd.grad(total, inputs)
        return v_means, torch.empty(0), v_quats, v_scales, v_viewmats if of_viewmats else torch.empty(0)

    # ---- spherical harmonics

    def compute_sh_fwd(self, degree: int, dirs: Tensor, coeffs: Tensor, masks: Tensor | None) -> Tensor:
        require(dirs, coeffs)
        colors = _harmonics(degree, dirs, coeffs)
        return colors if masks is None else torch.where(masks[..., None], colors, torch.zeros_like(colors))

    def compute_sh_bwd(
        self, bases: int, degree: int, dirs: Tensor, coeffs: Tensor, masks: Tensor | None, v_colors: Tensor,
        of_dirs: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        require(dirs, coeffs, v_colors)
        assert bases == coeffs.shape[-2]
        inputs = [tensor.detach().clone().requires_grad_() for tensor in (coeffs, dirs)]
        with torch.enable_grad():
            colors = _harmonics(degree, inputs[1], inputs[0])
            if masks is not None:
                v_colors = torch.where(masks[..., None], v_colors, torch.zeros_like(v_colors))
            v_coeffs, v_dirs = torch.autograd.grad(colors, inputs, v_colors, allow_unused=True)
        return v_coeffs, v_dirs if of_dirs else torch.empty(0)

    # ---- tiles

    def isect_tiles(
        self, means2d: Tensor, radii: Tensor, depths: Tensor, camera_ids: None, gaussian_ids: None, cameras: int,
        tile: int, tiles_x: int, tiles_y: int, sort: bool, double_buffer: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        require(means2d, depths)
        require(radii, dtype=torch.int32)
        assert radii.shape == means2d.shape[:-1], "gsplat 1.4.0 has one radius a Gaussian; 1.5 has two"
        size = torch.tensor([tiles_x, tiles_y])
        reach = (radii / tile)[..., None]
        low = torch.floor(means2d / tile - reach).clamp(min=0).minimum(size).long()
        high = torch.ceil(means2d / tile + reach).clamp(min=0).minimum(size).long()
        sides = torch.where(radii[..., None] > 0, (high - low).clamp(min=0), 0).flatten(0, 1)
        counts = sides.prod(-1)
        owners = torch.repeat_interleave(torch.arange(len(counts)), counts)
        # Position of every intersection among those of its Gaussian.
        place = torch.arange(len(owners)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        start = low.flatten(0, 1)[owners]
        tx, ty = start[:, 0] + place % sides[owners, 0], start[:, 1] + place // sides[owners, 0]
        tile_bits = (tiles_x * tiles_y).bit_length()
        camera = owners // radii.shape[1]
        depth = depths.flatten().view(torch.int32)[owners].long()
        ids = ((camera << tile_bits | (ty * tiles_x + tx)) << 32) | depth
        order = torch.argsort(ids, stable=True) if sort else torch.arange(len(ids))
        return counts.reshape(radii.shape).int(), ids[order], owners[order].int()

    def isect_offset_encode(self, ids: Tensor, cameras: int, tiles_x: int, tiles_y: int) -> Tensor:
        require(ids, dtype=torch.int64)
        tile_bits = (tiles_x * tiles_y).bit_length()
        high = ids >> 32
        numbers = (high >> tile_bits) * (tiles_x * tiles_y) + (high & ((1 << tile_bits) - 1))
        starts = torch.searchsorted(numbers, torch.arange(cameras * tiles_x * tiles_y))
        return starts.int().reshape(cameras, tiles_y, tiles_x)

    # ---- blending

    def rasterize_to_pixels_fwd(
        self, means2d: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, backgrounds: Tensor | None,
        masks: Tensor | None, width: int, height: int, tile: int, offsets: Tensor, owners: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        self._check_blend(means2d, conics, colors, opacities, offsets, owners)
        self.channels.append(colors.shape[-1])
        with torch.no_grad():
            image, alpha = _blended(means2d, conics, colors, opacities, width, height, tile, offsets, owners)
        if backgrounds is not None:
            image = image + (1 - alpha) * backgrounds[:, None, None]
        return image, alpha, torch.zeros(alpha.shape[:3], dtype=torch.int32)

    def rasterize_to_pixels_bwd(
        self, means2d: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, backgrounds: Tensor | None,
        masks: Tensor | None, width: int, height: int, tile: int, offsets: Tensor, owners: Tensor, alphas: Tensor,
        last: Tensor, v_image: Tensor, v_alpha: Tensor, absgrad: bool,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        self._check_blend(means2d, conics, colors, opacities, offsets, owners)
        require(alphas, v_image, v_alpha)
        require(last, dtype=torch.int32)
        inputs = [tensor.detach().clone().requires_grad_() for tensor in (means2d, conics, colors, opacities)]
        centres_of: list[Tensor] = []
        with torch.enable_grad():
            image, alpha = _blended(*inputs, width, height, tile, offsets, owners, centres_of if absgrad else None)
            if backgrounds is not None:
                image = image + (1 - alpha) * backgrounds[:, None, None]
            total = (image * v_image).sum() + (alpha * v_alpha).sum()
            parts = [*inputs, *centres_of]
            grads = torch.autograd.grad(total, parts, allow_unused=True)
        v_means2d, v_conics, v_colors, v_opacities = (
            torch.zeros_like(tensor) if grad is None else grad for tensor, grad in zip(inputs, grads[:4], strict=True)
        )
        absolute = torch.zeros_like(means2d)
        if absgrad:
            for (camera, members), grad in zip(self._tiles(offsets, owners, means2d), grads[4:], strict=True):
                if grad is not None:
                    absolute[camera].index_add_(0, members, grad.abs().sum((1, 2)))
        return absolute if absgrad else torch.empty(0), v_means2d, v_conics, v_colors, v_opacities

    def _check_blend(self, means2d: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, offsets: Tensor,
                     owners: Tensor) -> None:  # fmt: skip
        require(means2d, conics, colors, opacities)
        require(offsets, owners, dtype=torch.int32)
        if colors.shape[-1] not in COMPILED_CHANNELS:
            raise RuntimeError(f"Unsupported number of channels: {colors.shape[-1]}")

    def _tiles(self, offsets: Tensor, owners: Tensor, means2d: Tensor) -> Iterator[tuple[int, Tensor]]:
        for camera, _, _, members in _tile_lists(offsets, owners, means2d.shape[1]):
            yield camera, members

    # ---- MCMC

    def compute_relocation(
        self, opacities: Tensor, scales: Tensor, ratios: Tensor, binoms: Tensor, n_max: int
    ) -> tuple[Tensor, Tensor]:
        require(opacities, scales, binoms)
        require(ratios, dtype=torch.int32)
        return compute_relocation(opacities, scales, ratios, binoms)

    def quat_scale_to_covar_preci_fwd(
        self, quats: Tensor, scales: Tensor, covariances: bool, precisions: bool, triu: bool
    ) -> tuple[Tensor, Tensor]:
        require(quats, scales)
        assert covariances
        assert not precisions
        assert not triu
        factors = quats_to_rotations(quats) * scales[:, None, :]
        return factors @ factors.transpose(1, 2), torch.empty(0)


def require(*tensors: Tensor, dtype: torch.dtype = torch.float32) -> None:
    """What gsplat's CHECK_INPUT and its kernels' pointers ask of a tensor."""
    for tensor in tensors:
        if not tensor.is_contiguous():
            raise RuntimeError("tensor must be contiguous")
        if tensor.dtype != dtype:
            raise RuntimeError(f"expected scalar type {dtype} but found {tensor.dtype}")
        if tensor.device != tensors[0].device:
            raise RuntimeError(f"tensor is on {tensor.device}, others on {tensors[0].device}")


def _projected(
    means: Tensor, quats: Tensor, scales: Tensor, viewmat: Tensor, K: Tensor, width: int, height: int, eps2d: float,
    near: float, far: float, clip: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """radii, means2d, depths, conics and compensations of one camera."""
    means2d, depths, cov, compensations, radii = project(
        means, quats, scales, viewmat, K, width, height, near, far, clip, eps2d
    )
    det = cov[:, 0, 0] * cov[:, 1, 1] - cov[:, 0, 1] ** 2
    conics = torch.stack((cov[:, 1, 1], -cov[:, 0, 1], cov[:, 0, 0]), -1) / det[:, None]
    return radii, means2d, depths, conics, compensations


def _harmonics(degree: int, dirs: Tensor, coeffs: Tensor) -> Tensor:
    bases = sh_bases(degree, torch.nn.functional.normalize(dirs, dim=-1))
    return torch.einsum("...k,...kd->...d", bases, coeffs[..., : bases.shape[-1], :])


def _tile_lists(offsets: Tensor, owners: Tensor, count: int) -> Iterator[tuple[int, int, int, Tensor]]:
    """Camera, tile row, tile column and Gaussians, front to back, of every tile that has any."""
    _cameras, rows, columns = offsets.shape
    bounds = [*offsets.flatten().tolist(), len(owners)]
    for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
        if stop > start:
            camera, place = divmod(number, rows * columns)
            yield camera, place // columns, place % columns, owners[start:stop].long() - camera * count


def _blended(
    means2d: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, width: int, height: int, tile: int,
    offsets: Tensor, owners: Tensor, centres_of: list[Tensor] | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Images [C, H, W, D] and alphas [C, H, W, 1]; `centres_of` gets every tile's centres, one copy for each pixel."""
    cameras, tiles_y, tiles_x = offsets.shape
    found: dict[tuple[int, int, int], Tensor] = {}
    for camera, ty, tx, members in _tile_lists(offsets, owners, means2d.shape[1]):
        y, x = _pixels(ty, tile, height), _pixels(tx, tile, width)
        centres = means2d[camera, members][:, None, None, :].expand(-1, len(y), len(x), -1)
        if centres_of is not None:
            centres = centres.clone()
            centres_of.append(centres)
        dx, dy = centres[..., 0] - x[None, None, :], centres[..., 1] - y[None, :, None]
        a, b, c = (conics[camera, members, k][:, None, None] for k in range(3))
        raw = opacities[camera, members][:, None, None] * torch.exp(-(0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy))
        alpha = torch.where(raw >= MIN_ALPHA, raw.clamp(max=MAX_ALPHA), torch.zeros_like(raw))
        after = torch.cumprod(1 - alpha, 0)
        before = torch.cat((torch.ones_like(after[:1]), after[:-1]))
        weights = torch.where(after > MIN_TRANSMITTANCE, alpha * before, torch.zeros_like(alpha))
        blended = torch.einsum("nyx,nd->yxd", weights, colors[camera, members])
        found[camera, ty, tx] = torch.cat((blended, weights.sum(0)[..., None]), -1)

    def piece(camera: int, ty: int, tx: int) -> Tensor:
        empty = torch.zeros(len(_pixels(ty, tile, height)), len(_pixels(tx, tile, width)), colors.shape[-1] + 1)
        return found.get((camera, ty, tx), empty)

    rows = [
        [torch.cat([piece(camera, ty, tx) for tx in range(tiles_x)], 1) for ty in range(tiles_y)]
        for camera in range(cameras)
    ]
    whole = torch.stack([torch.cat(row, 0) for row in rows])
    return whole[..., :-1].contiguous(), whole[..., -1:].contiguous()


def _pixels(number: int, tile: int, size: int) -> Tensor:
    """Centres of a tile's pixels along one side."""
    return torch.arange(number * tile, min(number * tile + tile, size)) + 0.5


@contextmanager
def emulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernels]:
    """Everything of ours that is for GPUs runs on CPU tensors, through gsplat's Python and these kernels."""
    from gsplat import relocation
    from gsplat.cuda import _wrapper

    from fit3d_ns.rasterization import backend

    kernels = Kernels()
    with monkeypatch.context() as patch:
        for module in (_wrapper, relocation):
            patch.setattr(module, "_make_lazy_cuda_func", kernels.find)
        patch.setattr(_wrapper, "_make_lazy_cuda_obj", lambda name: name.removeprefix("CameraModelType."))
        patch.setattr(backend, "GSPLAT_DEVICES", ("cuda", "cpu"))
        yield kernels
