"""Small scenes, a loop reference, and one way to compare, for the rasteriser's tests."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

WIDTH, HEIGHT = 56, 40
Scene = dict[str, Any]


def cameras(n: int = 1, width: int = WIDTH, height: int = HEIGHT) -> tuple[Tensor, Tensor]:
    """World-to-camera [n, 4, 4], all looking at (0, 0, 4), and intrinsics [n, 3, 3]."""
    viewmats = []
    for i in range(n):
        angle = 0.05 + 0.3 * i
        rotation = torch.tensor(
            [[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]]
        )
        pivot = torch.tensor([0.0, 0.0, 4.0])
        viewmat = torch.eye(4)
        viewmat[:3, :3] = rotation
        viewmat[:3, 3] = pivot - rotation @ pivot + torch.tensor([0.1, -0.05 * i, 0.02])
        viewmats.append(viewmat)
    K = torch.tensor([[50.0, 0, width / 2 + 1.3], [0, 52.0, height / 2 - 0.7], [0, 0, 1]])
    return torch.stack(viewmats), K.repeat(n, 1, 1)


def random_scene(n: int = 150, seed: int = 0, n_cameras: int = 1, size: float = 0.15, channels: int = 3) -> Scene:
    """Overlapping Gaussians around (0, 0, 4), some beyond the borders; arguments of `rasterization`."""
    generator = torch.Generator().manual_seed(seed)
    viewmats, Ks = cameras(n_cameras)
    spread = torch.tensor([5.0, 4.0, 4.0])
    return {
        "means": (torch.rand(n, 3, generator=generator) - 0.5) * spread + torch.tensor([0.0, 0.0, 4.0]),
        "quats": torch.randn(n, 4, generator=generator),
        "scales": size * (0.2 + 1.5 * torch.rand(n, 3, generator=generator)),
        "opacities": 0.05 + 0.9 * torch.rand(n, generator=generator),
        "colors": torch.rand(n, channels, generator=generator),
        "viewmats": viewmats,
        "Ks": Ks,
        "width": WIDTH,
        "height": HEIGHT,
    }


def with_sh(scene: Scene, degree: int, seed: int = 1) -> Scene:
    generator = torch.Generator().manual_seed(seed)
    sh = 0.4 * torch.randn(len(scene["means"]), 16, 3, generator=generator)
    return {**scene, "colors": sh, "sh_degree": degree}


def leaves(scene: Scene, names: tuple[str, ...], dtype: torch.dtype = torch.float32) -> Scene:
    """A copy in `dtype` whose tensors `names` require gradients."""
    out = {k: v.detach().to(dtype) if isinstance(v, Tensor) else v for k, v in scene.items()}
    for name in names:
        out[name].requires_grad_()
    return out


def error(actual: Tensor, expected: Tensor) -> float:
    """||actual - expected|| / ||expected||, both in float64; 0 when both are zero."""
    difference = (actual.detach().double() - expected.detach().double()).norm().item()
    scale = expected.detach().double().norm().item()
    return difference if scale == 0 else difference / scale


def naive_render(
    means2d: np.ndarray,
    cov: np.ndarray,
    depths: np.ndarray,
    radii: np.ndarray,
    opacities: np.ndarray,
    colors: np.ndarray,
    width: int,
    height: int,
) -> tuple[np.ndarray, np.ndarray]:
    """gsplat 1.4.0's rasterize_to_pixels_fwd.cu as loops over pixels and Gaussians, float64."""
    order = [g for g in np.argsort(depths, kind="stable") if radii[g] > 0]
    image = np.zeros((height, width, colors.shape[1]))
    alphas = np.zeros((height, width, 1))
    inverses = np.linalg.inv(cov)
    for i in range(height):
        for j in range(width):
            transmittance = 1.0
            for g in order:
                x, y, r = means2d[g, 0], means2d[g, 1], radii[g]
                if not math.floor((x - r) / 16) <= j // 16 < math.ceil((x + r) / 16):
                    continue
                if not math.floor((y - r) / 16) <= i // 16 < math.ceil((y + r) / 16):
                    continue
                delta = np.array([x - j - 0.5, y - i - 0.5])
                alpha = min(0.999, opacities[g] * math.exp(-0.5 * delta @ inverses[g] @ delta))
                if alpha < 1 / 255:
                    continue
                if transmittance * (1 - alpha) <= 1e-4:
                    break
                image[i, j] += transmittance * alpha * colors[g]
                transmittance *= 1 - alpha
            alphas[i, j] = 1 - transmittance
    return image, alphas
