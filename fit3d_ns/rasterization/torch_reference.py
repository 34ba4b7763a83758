"""The rasteriser once more in plain torch: any float type, any device, autograd for every gradient.

Readable rather than fast: tile by tile, all pixels and Gaussians of a tile at once. The tests hold the kernels
to this in float64 (and this to loops over pixels); benchmarks measure against it in float32.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

TILE = 16


def quats_to_rotations(quats: Tensor) -> Tensor:
    """[N, 4] wxyz of any length -> [N, 3, 3]."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).reshape(-1, 3, 3)


def sh_bases(degree: int, directions: Tensor) -> Tensor:
    """Real spherical harmonics of unit directions [..., 3], in 3DGS's order and sign: [..., (degree + 1)^2]."""
    x, y, z = directions.unbind(-1)
    bases = [torch.full_like(x, 0.2820947917738781)]
    if degree > 0:
        bases += [-0.48860251190292 * y, 0.48860251190292 * z, -0.48860251190292 * x]
    if degree > 1:
        bases += [
            1.092548430592079 * x * y,
            -1.092548430592079 * y * z,
            0.9461746957575601 * z * z - 0.3153915652525201,
            -1.092548430592079 * x * z,
            0.5462742152960395 * (x * x - y * y),
        ]
    if degree > 2:
        bases += [
            -0.5900435899266435 * y * (3 * x * x - y * y),
            2.890611442640554 * x * y * z,
            y * (0.4570457994644658 - 2.285228997322329 * z * z),
            z * (1.865881662950577 * z * z - 1.119528997770346),
            x * (0.4570457994644658 - 2.285228997322329 * z * z),
            1.445305721320277 * z * (x * x - y * y),
            -0.5900435899266435 * x * (x * x - 3 * y * y),
        ]
    return torch.stack(bases, dim=-1)


def project(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    viewmat: Tensor,
    K: Tensor,
    width: int,
    height: int,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One camera: means2d [N, 2], depths [N], blurred 2D covariances [N, 2, 2], compensations [N], radii [N].

    EWA projection with gsplat 1.4.0's clamp of the Jacobian to 1.3 times the field of view.
    """
    rotation, translation = viewmat[:3, :3], viewmat[:3, 3]
    x, y, z = (means @ rotation.T + translation).unbind(-1)
    in_depth = (z >= near_plane) & (z <= far_plane) & (z > 0)
    z = torch.where(in_depth, z, torch.ones_like(z))
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    margin_x, margin_y = 0.15 * width / fx, 0.15 * height / fy
    tx = z * (x / z).clamp(-cx / fx - margin_x, (width - cx) / fx + margin_x)
    ty = z * (y / z).clamp(-cy / fy - margin_y, (height - cy) / fy + margin_y)
    zero = torch.zeros_like(z)
    jacobian = torch.stack((fx / z, zero, -fx * tx / z**2, zero, fy / z, -fy * ty / z**2), -1).reshape(-1, 2, 3)
    half = jacobian @ rotation @ (quats_to_rotations(quats) * scales[:, None, :])
    sharp = half @ half.transpose(1, 2)
    cov = sharp + eps2d * torch.eye(2, dtype=means.dtype, device=means.device)
    det = cov[:, 0, 0] * cov[:, 1, 1] - cov[:, 0, 1] ** 2
    ratio = (sharp[:, 0, 0] * sharp[:, 1, 1] - sharp[:, 0, 1] ** 2) / det
    compensations = torch.where(ratio > 0, ratio, torch.ones_like(ratio)).sqrt() * (ratio > 0)
    means2d = torch.stack((fx * x / z + cx, fy * y / z + cy), -1)
    with torch.no_grad():
        mid = 0.5 * (cov[:, 0, 0] + cov[:, 1, 1])
        radii = torch.ceil(3 * (mid + (mid * mid - det).clamp(min=0.01).sqrt()).sqrt())
        u, v = means2d.unbind(-1)
        seen = in_depth & (det > 0) & (radii > radius_clip) & (u + radii > 0) & (u - radii < width)
        seen &= (v + radii > 0) & (v - radii < height)
        radii = torch.where(seen, radii, torch.zeros_like(radii))
    return means2d, z, cov, compensations, radii


def rasterization_reference(
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
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    sh_degree: int | None = None,
    backgrounds: Tensor | None = None,
    render_mode: str = "RGB",
    rasterize_mode: str = "classic",
    find_ambiguous: bool = False,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """`fit3d_ns.rasterization.rasterization` in torch.

    With `find_ambiguous`, info["ambiguous"] [C, H, W] marks the pixels where rounding in float32 can fall on the
    other side of one of the thresholds (alpha 1/255, alpha 0.999, transmittance 1e-4).
    """
    images, alphas, ambiguous, projections = [], [], [], []
    for c in range(viewmats.shape[0]):
        means2d, depths, cov, compensations, radii = project(
            means, quats, scales, viewmats[c], Ks[c], width, height, near_plane, far_plane, radius_clip, eps2d
        )
        projections.append((means2d, depths, radii))
        opacity = opacities * compensations if rasterize_mode == "antialiased" else opacities
        if sh_degree is not None:
            directions = torch.nn.functional.normalize(means - torch.inverse(viewmats[c])[:3, 3], dim=-1)
            coefficients = colors if colors.dim() == 3 else colors[c]
            bases = sh_bases(sh_degree, directions)
            values = torch.einsum("nk,nkd->nd", bases, coefficients[:, : bases.shape[-1]])
            values = (values + 0.5).clamp(min=0)
        else:
            values = colors if colors.dim() == 2 else colors[c]
        if render_mode in ("D", "ED"):
            values = depths[:, None]
        elif render_mode != "RGB":
            values = torch.cat((values, depths[:, None]), -1)
        image, alpha, doubt = _blend(means2d, depths, cov, radii, opacity, values, width, height, find_ambiguous)
        if backgrounds is not None and render_mode not in ("D", "ED"):
            back = backgrounds[c]
            if render_mode != "RGB":
                back = torch.cat((back, back.new_zeros(1)))
            image = image + (1 - alpha) * back
        if render_mode in ("ED", "RGB+ED"):
            image = torch.cat((image[..., :-1], image[..., -1:] / alpha.clamp(min=1e-10)), -1)
        images.append(image)
        alphas.append(alpha)
        ambiguous.append(doubt)
    info: dict[str, Any] = {
        "means2d": torch.stack([p[0].detach() for p in projections]),
        "means2d_nodes": [p[0] for p in projections],
        "depths": torch.stack([p[1] for p in projections]),
        "radii": torch.stack([p[2] for p in projections]).int(),
        "ambiguous": torch.stack(ambiguous),
    }
    return torch.stack(images), torch.stack(alphas), info


def _blend(
    means2d: Tensor,
    depths: Tensor,
    cov: Tensor,
    radii: Tensor,
    opacities: Tensor,
    values: Tensor,
    width: int,
    height: int,
    find_ambiguous: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """One camera: image [H, W, D], alpha [H, W, 1], ambiguous [H, W]."""
    seen = torch.nonzero(radii > 0)[:, 0]
    order = seen[torch.argsort(depths[seen], stable=True)]
    means2d, cov, radii, opacities, values = (t[order] for t in (means2d, cov, radii, opacities, values))
    det = cov[:, 0, 0] * cov[:, 1, 1] - cov[:, 0, 1] ** 2
    A, B, C = cov[:, 1, 1] / det, -cov[:, 0, 1] / det, cov[:, 0, 0] / det
    low = torch.floor((means2d.detach() - radii[:, None]) / TILE)
    high = torch.ceil((means2d.detach() + radii[:, None]) / TILE)
    image_rows, alpha_rows, doubt_rows = [], [], []
    for ty in range(math.ceil(height / TILE)):
        in_row = (low[:, 1] <= ty) & (ty < high[:, 1])
        rows = torch.arange(ty * TILE, min(ty * TILE + TILE, height), device=means2d.device)
        image_row, alpha_row, doubt_row = [], [], []
        for tx in range(math.ceil(width / TILE)):
            members = torch.nonzero(in_row & (low[:, 0] <= tx) & (tx < high[:, 0]))[:, 0]
            columns = torch.arange(tx * TILE, min(tx * TILE + TILE, width), device=means2d.device)
            px = (columns + 0.5).to(means2d.dtype)[None, None, :]
            py = (rows + 0.5).to(means2d.dtype)[None, :, None]
            dx = means2d[members, 0][:, None, None] - px
            dy = means2d[members, 1][:, None, None] - py
            a, b, c, o = (t[members][:, None, None] for t in (A, B, C, opacities))
            raw = o * torch.exp(-(0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy))
            alpha = torch.where(raw >= 1 / 255, raw.clamp(max=0.999), torch.zeros_like(raw))
            after = torch.cumprod(1 - alpha, 0)
            before = torch.cat((torch.ones_like(after[:1]), after[:-1])) if len(members) else after
            weights = torch.where(after > 1e-4, alpha * before, torch.zeros_like(alpha))
            image_row.append(torch.einsum("nyx,nd->yxd", weights, values[members]))
            alpha_row.append(weights.sum(0)[..., None])
            doubt = torch.zeros(len(rows), len(columns), dtype=torch.bool, device=means2d.device)
            if find_ambiguous and len(members):
                near = ((raw * 255 - 1).abs() < 1e-4) | ((raw / 0.999 - 1).abs() < 1e-4)
                doubt = (near | ((after / 1e-4 - 1).abs() < 1e-3)).any(0)
            doubt_row.append(doubt)
        image_rows.append(torch.cat(image_row, 1))
        alpha_rows.append(torch.cat(alpha_row, 1))
        doubt_rows.append(torch.cat(doubt_row, 1))
    return torch.cat(image_rows), torch.cat(alpha_rows), torch.cat(doubt_rows)
