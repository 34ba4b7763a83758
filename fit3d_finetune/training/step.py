"""One optimiser step, which leaves the weights alone where its loss or gradient is not finite."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from fit3d_finetune.training.learner import Learner
from fit3d_finetune.training.loss import batch_loss
from fit3d_finetune.training.optimizer import set_lr
from fit3d_finetune.training.recipe import Recipe
from fit3d_finetune.training.samples import Sample


class Diverged(ArithmeticError):  # noqa: N818 (what happened, for `finetune` to report)
    """What is not finite, as "its loss is nan"."""


def training_step(learner: Learner, samples: Sequence[Sample], recipe: Recipe, lr: float) -> dict[str, Tensor]:
    """One optimiser step over all passes of an accumulated batch; its loss, other figures and gradient norm.

    The recipe bounds the norm of the backbone's gradients; that of the heads, which are thrown away, has no bound.

    Raises:
        Diverged: the loss or the gradient is not finite; weights and optimiser are as before.
    """
    set_lr(learner.optimizer, lr)
    learner.optimizer.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
    for start in range(0, len(samples), recipe.batch_size):
        batch = samples[start : start + recipe.batch_size]
        loss, figures = batch_loss(learner.backbone, batch, recipe.loss, recipe.loss_mean, learner.teacher)
        share = len(batch) / len(samples)
        (loss * share).backward()
        for name, value in {"loss": loss.detach(), **figures}.items():
            sums[name] = sums[name] + value * share if name in sums else value * share
    sums["grad_norm"] = nn.utils.clip_grad_norm_(learner.parameters.values(), recipe.clip_norm)
    # A GPU is waited for once.
    figures = dict(zip(sums, torch.stack([value.float() for value in sums.values()]).cpu(), strict=True))
    for name, what in (("loss", "loss"), ("grad_norm", "gradient")):
        if not bool(figures[name].isfinite()):
            raise Diverged(f"its {what} is {figures[name].item()}")
    learner.optimizer.step()
    return figures


def require_finite(parameters: Iterable[Tensor]) -> None:
    """Raise `Diverged` if a step made a weight NaN or infinite."""
    if not all(bool(parameter.isfinite().all()) for parameter in parameters):
        raise Diverged("it left weights that are not finite")
