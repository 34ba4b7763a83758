"""Linear regression from sums over its rows, however many there are."""

from __future__ import annotations

import torch
from torch import Tensor

_TINY = 1e-12
"""What the constant is held back by, so that a regression without rows has a solution."""


class RidgeSums:
    """What weighted ridge regression needs of its rows. The last channel of a row is the constant one.

    Args:
        channels: of a row, the constant among them.
        outputs: of a value.
    """

    def __init__(self, channels: int, outputs: int) -> None:
        self.squares = torch.zeros(channels, channels, dtype=torch.float64)
        self.products = torch.zeros(channels, outputs, dtype=torch.float64)

    def add(self, rows: Tensor, values: Tensor, weights: Tensor) -> None:
        """Count rows [n, channels] with their values [n, outputs] and weights [n, 1]; products in the rows' dtype."""
        self.squares += (rows.T @ (rows * weights)).double()
        self.products += (rows.T @ (values * weights)).double()

    def solve(self, penalty: float, channels: Tensor | None = None) -> Tensor:
        """Coefficients float64 [channels, outputs].

        Args:
            penalty: of the square of each coefficient; the constant is not held back.
            channels: indices of those that take part, the constant last; one may stand there twice. None: all.
        """
        used = torch.arange(len(self.squares)) if channels is None else channels
        held = torch.full((len(used),), penalty, dtype=torch.float64)
        held[-1] = _TINY
        found: Tensor = torch.linalg.solve(self.squares[used][:, used] + held.diag(), self.products[used])
        return found
