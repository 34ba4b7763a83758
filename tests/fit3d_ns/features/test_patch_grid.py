"""Pooling to the patch grid and upsampling from it, against naive loops and torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fit3d_ns.features.patch_grid import pool_to_patch_grid, upsample_to_pixels

SIDE = st.integers(1, 23)
CELLS = st.integers(1, 9)


def naive_pool(map: Tensor, grid: tuple[int, int], mask: Tensor) -> tuple[Tensor, Tensor]:
    """Cell by cell, pixel by pixel: the definition."""
    H, W, C = map.shape
    h, w = grid
    pooled, weight = map.new_zeros(h, w, C), map.new_zeros(h, w)
    for a in range(h):
        for b in range(w):
            area = 0.0
            for y in range(H):
                for x in range(W):
                    dy = min(y + 1, (a + 1) * H / h) - max(y, a * H / h)
                    dx = min(x + 1, (b + 1) * W / w) - max(x, b * W / w)
                    if dy > 0 and dx > 0:
                        area += dy * dx
                        pooled[a, b] += dy * dx * mask[y, x] * map[y, x]
                        weight[a, b] += dy * dx * mask[y, x, 0]
            if weight[a, b] > 0:
                pooled[a, b] /= weight[a, b]
            weight[a, b] /= area
    return pooled, weight


@settings(max_examples=40, deadline=None)
@given(SIDE, SIDE, CELLS, CELLS, st.sampled_from(["none", "soft", "hard"]), st.integers(0, 2**31))
def test_pooling_is_the_exact_area_mean(H: int, W: int, h: int, w: int, kind: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    map = torch.randn(H, W, 3, dtype=torch.float64, generator=generator)
    mask = torch.rand(H, W, 1, dtype=torch.float64, generator=generator)
    if kind == "hard":
        mask = (mask > 0.6).double()
    pooled, weight = pool_to_patch_grid(map, (h, w), None if kind == "none" else mask)
    expected, expected_weight = naive_pool(map, (h, w), torch.ones_like(mask) if kind == "none" else mask)
    # 1e-9: a cell whose only unmasked pixel it overlaps by rounding error has no defined mean.
    counted = expected_weight > 1e-9
    torch.testing.assert_close(pooled[counted], expected[counted], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(weight, expected_weight, rtol=0, atol=1e-12)


@pytest.mark.parametrize("grid", [(24, 32), (25, 33), (24, 31), (7, 32)])
def test_the_backward_is_the_adjoint_of_the_forward(grid: tuple[int, int]) -> None:
    map = torch.randn(336, 448, 2, dtype=torch.float64, requires_grad=True)
    mask = (torch.rand(336, 448, 1) > 0.3).double()
    pooled, _ = pool_to_patch_grid(map, grid, mask)
    probe = torch.randn_like(pooled)
    (gradient,) = torch.autograd.grad(pooled, map, probe)
    other = torch.randn_like(map)
    forward = (pool_to_patch_grid(other, grid, mask)[0] * probe).sum()
    torch.testing.assert_close((other * gradient).sum(), forward, rtol=1e-10, atol=1e-10)


def test_pooling_is_linear_and_keeps_constants() -> None:
    f, g = torch.randn(2, 30, 47, 4, dtype=torch.float64)
    mask = torch.rand(30, 47, 1, dtype=torch.float64)
    both = pool_to_patch_grid(2 * f - 3 * g, (4, 5), mask)[0]
    apart = 2 * pool_to_patch_grid(f, (4, 5), mask)[0] - 3 * pool_to_patch_grid(g, (4, 5), mask)[0]
    torch.testing.assert_close(both, apart)
    torch.testing.assert_close(
        pool_to_patch_grid(torch.full_like(f, 5), (4, 5), mask)[0], torch.full((4, 5, 4), 5.0).double()
    )


def test_a_cell_that_is_masked_whole_is_zero_with_zero_gradient() -> None:
    map = torch.randn(28, 28, 3, requires_grad=True)
    mask = torch.ones(28, 28, 1, dtype=torch.bool)
    mask[:14, :14] = False
    pooled, weight = pool_to_patch_grid(map, (2, 2), mask)
    pooled.sum().backward()
    torch.testing.assert_close(weight, torch.tensor([[0.0, 1], [1, 1]]))
    assert pooled[0, 0].abs().max() == 0
    assert map.grad is not None
    assert map.grad.isfinite().all()
    assert map.grad[:14, :14].abs().max() == 0


def test_a_matrix_made_in_inference_mode_serves_training_later() -> None:
    with torch.inference_mode():
        pool_to_patch_grid(torch.rand(19, 17, 1), (3, 5))
        upsample_to_pixels(torch.rand(3, 5, 1), 19, 17)
    map = torch.rand(19, 17, 1, requires_grad=True)
    upsample_to_pixels(pool_to_patch_grid(map, (3, 5))[0], 19, 17).sum().backward()


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="mask must be"):
        pool_to_patch_grid(torch.rand(4, 4, 2), (2, 2), torch.ones(4, 4))
    with pytest.raises(ValueError, match="map must be"):
        pool_to_patch_grid(torch.rand(4, 4), (2, 2))


@settings(max_examples=30, deadline=None)
@given(CELLS, CELLS, st.integers(1, 40), st.integers(1, 40))
def test_upsampling_is_torchs_bilinear_interpolation(h: int, w: int, H: int, W: int) -> None:
    map = torch.randn(h, w, 3, dtype=torch.float64)
    expected = F.interpolate(map.permute(2, 0, 1)[None], (H, W), mode="bilinear", align_corners=False)
    torch.testing.assert_close(upsample_to_pixels(map, H, W), expected[0].permute(1, 2, 0))
