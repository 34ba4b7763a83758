"""The position term: a coarse map that all images share."""

from __future__ import annotations

import pytest
import torch

from fit3d_ns.features.position import KNOTS, WithoutPosition, fit_position, position_basis, position_map

GRIDS = [(24, 32), (17, 23), (12, 16), (3, 5), (60, 40)]


@pytest.mark.parametrize("grid", GRIDS)
def test_every_cell_is_a_mean_of_knots(grid: tuple[int, int]) -> None:
    basis = position_basis(grid)
    assert basis.shape == (grid[0] * grid[1], KNOTS[0] * KNOTS[1])
    assert float(basis.min()) >= 0
    torch.testing.assert_close(basis.sum(1), torch.ones(len(basis)))


@pytest.mark.parametrize("grid", GRIDS)
def test_a_ramp_at_the_knots_is_the_same_ramp_on_every_grid(grid: tuple[int, int]) -> None:
    def ramp(rows: int, columns: int) -> torch.Tensor:
        y, x = (torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns
        return torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1)

    shown, wanted = position_map(ramp(*KNOTS), grid), ramp(*grid)
    inside = (slice(1, -1), slice(1, -1)) if grid > (6, 6) else (slice(1, 2), slice(1, 4))
    margin = ((wanted - 0.5).abs() < 0.5 - 0.5 / KNOTS[0]).all(-1)  # beyond the outermost knots it is held
    torch.testing.assert_close(shown[margin], wanted[margin], rtol=0, atol=1e-5)
    assert bool(margin[inside].any())


def test_what_images_share_is_found_under_content_that_differs() -> None:
    planted = torch.randn(*KNOTS, 5)
    planted -= planted.mean((0, 1))
    maps = [torch.randn(5) + torch.randn(24, 32, 5) + position_map(planted, (24, 32)) for _ in range(60)]
    found = fit_position(maps, [torch.ones(24 * 32)] * 60)
    assert float((found - planted).square().mean()) < 0.1 * float(planted.square().mean())
    left = torch.stack(list(WithoutPosition(maps, found))).mean(0)
    assert float(left.std((0, 1)).mean()) < 0.3


def test_cells_that_do_not_count_teach_nothing() -> None:
    maps = [torch.randn(12, 16, 3) for _ in range(4)]
    weights = (torch.rand(12 * 16) > 0.3).float()
    spoilt = [torch.where(weights.reshape(12, 16, 1) > 0, values, 1e3) for values in maps]
    torch.testing.assert_close(fit_position(spoilt, [weights] * 4), fit_position(maps, [weights] * 4))
    nothing = fit_position(maps, [torch.zeros(12 * 16)] * 4)
    assert bool((nothing == 0).all())


def test_images_of_different_grids_share_one_term() -> None:
    planted = torch.randn(*KNOTS, 2)
    planted -= planted.mean((0, 1))
    grids = [(24, 32), (48, 64)] * 10
    found = fit_position([position_map(planted, grid) for grid in grids], [torch.ones(h * w) for h, w in grids])
    assert float((found - planted).abs().max()) < 0.15 * float(planted.abs().max())
