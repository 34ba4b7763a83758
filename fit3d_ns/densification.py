"""3DGS's clone, split and prune, with an upper bound on the number of Gaussians."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from gsplat.strategy import DefaultStrategy


@dataclass
class CappedStrategy(DefaultStrategy):
    """`DefaultStrategy` that grows where the image gradient is largest when it may not grow everywhere.

    Rendering time follows the number of Gaussians: with a bound, a preset costs the same on every scene.
    """

    grow_grad2d: float = 0.0002
    refine_scale2d_stop_iter: int = 0
    cap_max: int = 1_000_000
    """Densification stops at this many Gaussians."""

    @torch.no_grad()
    def _grow_gs(self, params: Any, optimizers: Any, state: dict[str, Any], step: int) -> tuple[int, int]:
        budget = self.cap_max - len(params["means"])
        if budget <= 0:
            return 0, 0
        gradients = state["grad2d"] / state["count"].clamp_min(1)
        threshold, stop_iter = self.grow_grad2d, self.refine_scale2d_stop_iter
        if int((gradients > threshold).sum()) > budget:
            self.grow_grad2d = float(gradients.topk(budget + 1).values[-1])
            self.refine_scale2d_stop_iter = 0  # splitting by size on screen would go past the budget
        try:
            grown: tuple[int, int] = super()._grow_gs(params, optimizers, state, step)
        finally:
            self.grow_grad2d, self.refine_scale2d_stop_iter = threshold, stop_iter
        return grown
