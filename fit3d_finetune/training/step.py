"""One optimiser step, which leaves the weights alone where its loss or gradient is not finite."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from fit3d_finetune.training.loss import batch_loss
from fit3d_finetune.training.optimizer import set_lr
from fit3d_finetune.training.recipe import Recipe
from fit3d_finetune.training.samples import Sample
from fit3d_ns.features.backbone import Backbone


class Diverged(ArithmeticError):  # noqa: N818 (what happened, for `finetune` to report)
    """What is not finite, as "its loss is nan"."""


def training_step(
    backbone: Backbone,
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    samples: Sequence[Sample],
    recipe: Recipe,
    lr: float,
) -> dict[str, Tensor]:
    """One optimiser step over all passes of an accumulated batch; its loss, cosine and gradient norm.

    Raises:
        Diverged: the loss or the gradient is not finite; weights and optimiser are as before.
    """
    set_lr(optimizer, lr)
    optimizer.zero_grad(set_to_none=True)
    loss_sum, cosine_sum = torch.zeros(()), torch.zeros(())
    for start in range(0, len(samples), recipe.batch_size):
        batch = samples[start : start + recipe.batch_size]
        loss, cosine = batch_loss(backbone, batch, recipe.loss, recipe.loss_mean)
        share = len(batch) / len(samples)
        (loss * share).backward()
        loss_sum = loss_sum + loss.detach().cpu() * share
        cosine_sum = cosine_sum + cosine.cpu() * share
    if not bool(loss_sum.isfinite()):
        raise Diverged(f"its loss is {loss_sum.item()}")
    norm = nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
    if not bool(norm.isfinite()):
        raise Diverged(f"its gradient is {norm.item()}")
    optimizer.step()
    return {"loss": loss_sum, "cosine": cosine_sum, "grad_norm": norm}


def require_finite(parameters: Iterable[Tensor]) -> None:
    """Raise `Diverged` if a step made a weight NaN or infinite."""
    if not all(bool(parameter.isfinite().all()) for parameter in parameters):
        raise Diverged("it left weights that are not finite")
