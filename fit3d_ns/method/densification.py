"""3DGS's clone, split and prune, with an upper bound on the number of Gaussians."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from gsplat.strategy import DefaultStrategy
from torch import Tensor


@dataclass
class CappedStrategy(DefaultStrategy):
    """`DefaultStrategy` that grows where the image gradient is largest when it may not grow everywhere.

    Rendering time follows the number of Gaussians: with a bound, a preset costs the same on every scene.
    """

    grow_grad2d: float = 0.0002
    grow_scale2d: float = 0.05
    refine_scale2d_stop_iter: int = 0
    cap_max: int = 1_000_000
    """Densification stops at this many Gaussians."""
    reset_at_start: bool = True
    """Whether step 0 counts among the steps that reset the opacities, as in gsplat 1.4 but not in 3DGS."""

    @classmethod
    def like(cls, strategy: DefaultStrategy, **changes: Any) -> CappedStrategy:
        """With the settings of another one, but for some."""
        given = {field.name: getattr(strategy, field.name) for field in fields(strategy)}
        return cls(**{**given, "verbose": False, **changes})

    def step_post_backward(
        self,
        params: Any,
        optimizers: Any,
        state: dict[str, Any],
        step: int,
        info: dict[str, Any],
        packed: bool = False,
    ) -> None:
        if step == 0 and not self.reset_at_start:
            if self.refine_stop_iter > 0:
                self._update_state(params, state, info, packed)
            return
        super().step_post_backward(params, optimizers, state, step, info, packed)

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
        thresholds = self.grow_grad2d, self.grow_scale2d
        # Whoever has a high gradient is cloned or split; whoever is large on screen is split, even if it was just
        # cloned. Each adds one.
        gradients = state["grad2d"] / state["count"].clamp_min(1)
        self.grow_grad2d = _exceeded_by(budget, gradients, self.grow_grad2d)
        if step < self.refine_scale2d_stop_iter:
            high = gradients > self.grow_grad2d
            large = torch.exp(params["scales"]).amax(dim=-1) > self.grow_scale3d * state["scene_scale"]
            others = state["radii"].where(~(high & large), 0.0)
            self.grow_scale2d = _exceeded_by(budget - int(high.sum()), others, self.grow_scale2d)
        try:
            grown: tuple[int, int] = super()._grow_gs(params, optimizers, state, step)
        finally:
            self.grow_grad2d, self.grow_scale2d = thresholds
        return grown


def _exceeded_by(most: int, values: Tensor, threshold: float) -> float:
    """The lowest threshold, from the given one up, that at most so many of the values [N] exceed."""
    if int((values > threshold).sum()) <= most:
        return threshold
    return float(values.topk(most + 1).values[-1])
