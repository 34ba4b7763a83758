"""Patch maps read between patches: torch's bilinear interpolation, and its gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fit3d_finetune.probing.sampling import sample_features
from fit3d_ns.features.patch_grid import upsample_to_pixels


def test_features_at_patch_centres_are_the_patches_own() -> None:
    map = torch.randn(3, 4, 5)
    at_centres = np.array([[(c + 0.5) / 4, (r + 0.5) / 3] for r in range(3) for c in range(4)])
    torch.testing.assert_close(sample_features(map, at_centres), map.reshape(12, 5), atol=1e-5, rtol=1e-5)
    assert sample_features(map.half(), at_centres).dtype == torch.float32


def test_features_are_read_where_upsampling_would_put_them() -> None:
    map = torch.randn(5, 7, 3, dtype=torch.float64)
    y, x = np.mgrid[:40, :42] + 0.5
    found = sample_features(map, np.stack([x / 42, y / 40], axis=-1).reshape(-1, 2))
    torch.testing.assert_close(found, upsample_to_pixels(map, 40, 42).reshape(-1, 3), atol=1e-12, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 7)])
def test_values_and_gradients_equal_torch_also_beyond_the_border(size: tuple[int, int]) -> None:
    places = np.random.default_rng(0).uniform(-0.2, 1.2, (200, 2))
    map, twin = (torch.randn(*size, 3, generator=torch.Generator().manual_seed(1)).double() for _ in range(2))
    map.requires_grad_()
    twin.requires_grad_()
    grid = torch.from_numpy(places * 2 - 1)[None, :, None]
    expected = F.grid_sample(twin.permute(2, 0, 1)[None], grid, padding_mode="border", align_corners=False)
    found = sample_features(map, places)
    torch.testing.assert_close(found, expected[0, :, :, 0].T)
    weights = torch.randn(200, 3, dtype=torch.float64)
    (found * weights).sum().backward()
    (expected[0, :, :, 0].T * weights).sum().backward()
    torch.testing.assert_close(map.grad, twin.grad)
