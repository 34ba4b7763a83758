"""Ridge regression from sums: against all rows at once, for some of the channels, and without any row."""

from __future__ import annotations

import torch

from fit3d_ns.common.ridge import RidgeSums


def test_sums_of_parts_give_the_regression_over_all_rows() -> None:
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(60, 5, dtype=torch.float64, generator=random)
    rows[:, -1] = 1
    values = torch.randn(60, 2, dtype=torch.float64, generator=random)
    weights = torch.rand(60, 1, dtype=torch.float64, generator=random)
    sums = RidgeSums(5, 2)
    for part in torch.arange(60).split(17):
        sums.add(rows[part], values[part], weights[part])
    for channels in (torch.arange(5), torch.tensor([3, 0, 4]), torch.tensor([1, 1, 4])):
        # The penalty as four more rows of their own: a different way to the same minimum.
        held = 0.7**0.5 * torch.eye(len(channels), dtype=torch.float64)[:-1]
        left = torch.cat([rows[:, channels] * weights.sqrt(), held])
        right = torch.cat([values * weights.sqrt(), torch.zeros(len(held), 2, dtype=torch.float64)])
        expected = torch.linalg.lstsq(left, right).solution
        torch.testing.assert_close(sums.solve(0.7, channels), expected, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(sums.solve(0.7), sums.solve(0.7, torch.arange(5)))


def test_without_rows_nothing_is_predicted() -> None:
    assert (RidgeSums(4, 3).solve(0.1) == 0).all()
