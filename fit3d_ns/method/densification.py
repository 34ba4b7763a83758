"""3DGS's clone, split and prune, with an upper bound on the number of Gaussians."""

from __future__ import annotations

from dataclasses import dataclass, fields
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

    @classmethod
    def like(cls, strategy: DefaultStrategy, cap_max: int) -> CappedStrategy:
        """With the settings of another one, and a bound."""
        given = {field.name: getattr(strategy, field.name) for field in fields(strategy)}
        return cls(**{**given, "verbose": False}, cap_max=cap_max)

    @torch.no_grad()
    def _update_state(self, params: Any, state: dict[str, Any], info: dict[str, Any], packed: bool = False) -> None:
        """Add this step's image gradients to the running sums that `_grow_gs` reads.

        The same sums as gsplat's, which gathers and scatters by index every step: those who are not seen have a
        gradient of zero, so that everything can be added as it is.
        """
        assert not packed, "only the rasteriser's unpacked layout [C, N, ...] is supported"
        radii, means2d = info["radii"], info[self.key_for_gradient]
        if radii.shape != means2d.shape[:-1]:
            raise ValueError(f"radii are {list(radii.shape)}, not [C, N]: install gsplat 1.4 (1.5 gives two columns).")
        gradients = means2d.absgrad if self.absgrad else means2d.grad
        width, height, count = info["width"], info["height"], info["n_cameras"]
        seen = radii > 0
        # In screen space of [-1, 1].
        lengths = torch.hypot(gradients[..., 0] * (width / 2 * count), gradients[..., 1] * (height / 2 * count))
        sums = {"grad2d": (lengths * seen).sum(0), "count": seen.sum(0, dtype=torch.float32)}
        for name, values in sums.items():
            state[name] = values if state[name] is None else state[name].add_(values)
        if self.refine_scale2d_stop_iter > 0:
            largest = radii.amax(0).clamp_min(0) / float(max(width, height))
            state["radii"] = largest if state["radii"] is None else torch.maximum(state["radii"], largest)

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
