"""The running sums of densification against gsplat's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from gsplat.strategy import DefaultStrategy

from fit3d_ns.method.densification import CappedStrategy


def step_info(cameras: int, count: int, generator: torch.Generator) -> dict[str, Any]:
    """What a rendering and its backward leave; the unseen have no gradient, as both rasterisers say."""
    radii = torch.randint(-1, 20, (cameras, count), generator=generator).clamp_min(0).int()
    means2d = torch.rand(cameras, count, 2, generator=generator)
    seen = (radii > 0)[..., None]
    means2d.grad = torch.randn(cameras, count, 2, generator=generator) * seen
    means2d.absgrad = means2d.grad.abs() * 2  # type: ignore[attr-defined]
    return {
        "width": 448, "height": 336, "n_cameras": cameras, "radii": radii, "gaussian_ids": None, "means2d": means2d,
    }  # fmt: skip


@pytest.mark.parametrize("absgrad", [True, False])
@pytest.mark.parametrize(("cameras", "size_until"), [(1, 0), (1, 100), (3, 0)])
def test_sums_equal_gsplats(absgrad: bool, cameras: int, size_until: int) -> None:
    generator = torch.Generator().manual_seed(cameras)
    options: dict[str, Any] = {"absgrad": absgrad, "refine_scale2d_stop_iter": size_until}
    params = {"means": torch.zeros(200, 3)}
    ours, theirs = CappedStrategy(**options), DefaultStrategy(**options)
    states = ours.initialize_state(), theirs.initialize_state()
    for _ in range(3):
        info = step_info(cameras, 200, generator)
        for strategy, state in zip((ours, theirs), states, strict=True):
            strategy._update_state(params, state, info)
    assert states[0].keys() == states[1].keys()
    for name, expected in states[1].items():
        torch.testing.assert_close(states[0][name], expected, rtol=1e-6, atol=1e-6)
