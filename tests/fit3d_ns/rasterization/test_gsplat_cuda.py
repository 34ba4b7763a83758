"""The CPU backend against gsplat's CUDA kernels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fit3d_ns.rasterization import rasterization

from .scenes import error, leaves, random_scene, with_sh

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: gsplat's kernels cannot run"),
]
NAMES = ("means", "quats", "scales", "opacities", "colors", "viewmats")
CASES = {
    "rgb": (with_sh(random_scene(400), 3), {}),
    "64 channels": (random_scene(400, channels=64), {}),
    "antialiased": (random_scene(400, size=0.05), {"rasterize_mode": "antialiased"}),
    "expected depth": (with_sh(random_scene(400), 2), {"render_mode": "RGB+ED"}),
    "two cameras": (random_scene(400, n_cameras=2), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_cpu_equals_cuda(case: str) -> None:
    scene, options = CASES[case]
    results = []
    for device in ("cpu", "cuda"):
        moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in scene.items()}
        inputs = leaves(moved, NAMES)
        image, alpha, info = rasterization(**inputs, absgrad=True, **options)
        info["means2d"].retain_grad()
        ramp = torch.linspace(-1, 1, image.numel(), device=device).reshape(image.shape)
        ((image * ramp).sum() + alpha.square().sum()).backward()
        seen = info["radii"] > 0
        results.append(
            {
                "image": image,
                "alpha": alpha,
                "radii": info["radii"],
                "means2d": info["means2d"][seen],
                "depths": info["depths"][seen],
                "absgrad": info["means2d"].absgrad,
                **{name: inputs[name].grad for name in NAMES},
            }
        )
    cpu, cuda = results
    assert (cpu["radii"] != cuda["radii"].cpu()).float().mean() < 0.01
    for name in ("image", "alpha", "means2d", "depths"):
        assert error(cpu[name], cuda[name].cpu()) < 1e-4, name
    # gsplat renders more than 32 channels in passes, each of which overwrites the absgrad of the one before.
    one_pass = cpu["image"].shape[-1] <= 32
    # CUDA's own float32 (1 - alpha products, __expf) is the larger error here.
    for name in (*NAMES, "absgrad") if one_pass else NAMES:
        assert error(cpu[name], cuda[name].cpu()) < 5e-3, name
