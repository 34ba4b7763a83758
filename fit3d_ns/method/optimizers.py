"""nerfstudio's set of optimisers without what a small step spends around them."""

from __future__ import annotations

import copy
from typing import Any

from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.utils import writer
from torch.nn import Parameter


class Fit3DOptimizers(Optimizers):
    """`Optimizers` that logs learning rates when everything else is logged, not in every step."""

    def __init__(self, config: dict[str, Any], param_groups: dict[str, list[Parameter]], steps_per_log: int) -> None:
        super().__init__(config, param_groups)
        self._steps_per_log = steps_per_log

    def zero_grad_some(self, param_groups: list[str]) -> None:
        for name in param_groups:
            for group in self.optimizers[name].param_groups:
                for parameter in group["params"]:
                    parameter.grad = None

    def scheduler_step_all(self, step: int) -> None:
        for name, scheduler in self.schedulers.items():
            scheduler.step()
            if step % self._steps_per_log == 0:
                writer.put_scalar(name=f"learning_rate/{name}", scalar=scheduler.get_last_lr()[0], step=step)


def in_units_of(extent: float, parts: dict[str, Any]) -> dict[str, Any]:
    """The optimiser and schedule of lengths whose learning rate is given for a scene of size 1, in one of `extent`."""
    if extent == 1:
        return parts
    scaled = {name: copy.deepcopy(part) for name, part in parts.items()}
    scaled["optimizer"].lr *= extent
    if scaled["scheduler"] is not None and scaled["scheduler"].lr_final is not None:
        scaled["scheduler"].lr_final *= extent
    return scaled
