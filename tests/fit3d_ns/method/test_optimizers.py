"""nerfstudio's optimisers as this package runs them."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.utils import writer

from fit3d_ns.method.optimizers import Fit3DOptimizers


def optimizers(steps_per_log: int = 10) -> Fit3DOptimizers:
    config = {
        name: {"optimizer": AdamOptimizerConfig(lr=0.1), "scheduler": ExponentialDecaySchedulerConfig(lr_final=0.01)}
        for name in ("means", "scales")
    }
    parameters = {name: [torch.nn.Parameter(torch.ones(3))] for name in config}
    return Fit3DOptimizers(config, parameters, steps_per_log)


def test_gradients_are_cleared_of_parameters_that_densification_put_in() -> None:
    given = optimizers()
    new = {name: torch.nn.Parameter(torch.ones(5)) for name in ("means", "scales")}
    for name, parameter in new.items():
        given.optimizers[name].param_groups[0]["params"] = [parameter]
        parameter.grad = torch.ones(5)
    given.zero_grad_some(["means"])
    assert new["means"].grad is None
    assert new["scales"].grad is not None


def test_learning_rates_follow_the_schedule_in_every_step_and_are_logged_when_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logged: list[tuple[str, int]] = []
    monkeypatch.setattr(writer, "put_scalar", lambda name, scalar, step: logged.append((name, step)))
    given = optimizers(steps_per_log=10)
    rates = []
    for step in range(21):
        given.optimizers["means"].step()
        given.optimizers["scales"].step()
        given.scheduler_step_all(step)
        rates.append(given.optimizers["means"].param_groups[0]["lr"])
    assert all(after < before for before, after in pairwise(rates))
    names = ("learning_rate/means", "learning_rate/scales")
    assert logged == [(name, step) for step in (0, 10, 20) for name in names]
