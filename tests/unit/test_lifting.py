"""Normalised back-projection against dense matrices."""

from __future__ import annotations

import pytest
import torch

from fit3d_ns.lifting import back_project


def test_back_projection_is_the_weighted_mean_over_all_pixels_of_all_views() -> None:
    height, width, count, channels = 4, 5, 7, 3
    matrices = [torch.rand(height * width, count, dtype=torch.float64) for _ in range(3)]
    for matrix in matrices:
        matrix[:, 2] = 0  # a Gaussian that nobody sees
    targets = [torch.randn(height, width, channels, dtype=torch.float64) for _ in matrices]
    masks = [(torch.rand(height, width) > 0.3).double() for _ in matrices]

    def renderer(matrix: torch.Tensor):  # type: ignore[no-untyped-def]
        return lambda values: (matrix @ values.double()).reshape(height, width, -1)

    views = [(renderer(a), y, m) for a, y, m in zip(matrices, targets, masks, strict=True)]
    features, weights = back_project(views, count, channels)

    for gaussian in range(count):
        total = sum(float((a[:, gaussian] * m.flatten()).sum()) for a, m in zip(matrices, masks, strict=True))
        assert float(weights[gaussian]) == pytest.approx(total, rel=1e-6)
        for channel in range(channels):
            seen = sum(
                float((a[:, gaussian] * m.flatten() * y[..., channel].flatten()).sum())
                for a, y, m in zip(matrices, targets, masks, strict=True)
            )
            expected = seen / total if total > 0 else 0.0
            assert float(features[gaussian, channel]) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_constant_maps_give_that_constant() -> None:
    matrix = torch.rand(12, 5)
    target = torch.tensor([2.0, -1.0]).expand(3, 4, 2)
    features, _ = back_project([(lambda f: (matrix @ f).reshape(3, 4, -1), target, torch.ones(3, 4))], 5, 2)
    torch.testing.assert_close(features, torch.tensor([2.0, -1.0]).expand(5, 2))


def test_no_views_is_an_error() -> None:
    with pytest.raises(ValueError, match="no views"):
        back_project([], 5, 2)
