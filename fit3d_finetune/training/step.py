"""One optimiser step, which leaves the weights alone where its loss or gradient is not finite."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from fit3d_finetune.training.learner import Learner
from fit3d_finetune.training.loss import batch_loss
from fit3d_finetune.training.optimizer import set_lr
from fit3d_finetune.training.processes import ALONE, Processes
from fit3d_finetune.training.recipe import Recipe
from fit3d_finetune.training.samples import Sample

T = TypeVar("T")


class Diverged(ArithmeticError):  # noqa: N818 (what happened, for `finetune` to report)
    """What is not finite, as "its loss is nan"."""


def training_step(
    learner: Learner,
    samples: Sequence[Sample],
    recipe: Recipe,
    lr: float,
    processes: Processes = ALONE,
    count: int | None = None,
) -> dict[str, Tensor]:
    """One optimiser step over all passes of an accumulated batch; its loss, other figures and gradient norm.

    The recipe bounds the norm of the backbone's gradients; that of the heads, which are thrown away, has no bound.

    Args:
        samples: this process's part of the step's samples (`own_samples`).
        processes: those that train together; all come to the same figures and weights.
        count: samples of the step in all processes; None: as many as here.

    Raises:
        Diverged: the loss or the gradient is not finite; weights and optimiser are as before.
    """
    set_lr(learner.optimizer, lr)
    learner.optimizer.zero_grad(set_to_none=True)
    passes = own_passes(samples, len(samples) if count is None else count, recipe.batch_size, processes)
    total = sum(size for _, size in passes)
    sums: dict[str, Tensor] = {}
    for (batch, _), scale in zip(passes, _scales(passes, recipe, processes), strict=True):
        if not batch:
            continue
        share = len(batch) / total
        loss, figures = batch_loss(learner.backbone, batch, recipe.loss, recipe.loss_mean, learner.teacher, scale)
        (loss * share).backward()
        for name, value in {"loss": loss.detach(), **figures}.items():
            sums[name] = sums[name] + value * share if name in sums else value * share
    if processes.count > 1:
        processes.sum_up_gradients(list(learner.trained.values()))
        names = ["loss", "cosine", *([] if learner.teacher is None else learner.teacher.taught)]
        zero = torch.zeros((), device=next(learner.backbone.parameters()).device)
        # One that has no sample in this step has no figures.
        values = torch.stack([sums.get(name, zero).float() for name in names])
        sums = dict(zip(names, processes.sum_up(values), strict=True))
    sums["grad_norm"] = nn.utils.clip_grad_norm_(learner.parameters.values(), recipe.clip_norm)
    # A GPU is waited for once.
    figures = dict(zip(sums, torch.stack([value.float() for value in sums.values()]).cpu(), strict=True))
    for name, what in (("loss", "loss"), ("grad_norm", "gradient")):
        if not bool(figures[name].isfinite()):
            raise Diverged(f"its {what} is {figures[name].item()}")
    learner.optimizer.step()
    return figures


def _scales(passes: Sequence[tuple[Sequence[Sample], int]], recipe: Recipe, processes: Processes) -> Sequence[float]:
    """By pass: this process's share of its patches over that of its images, where the loss is a mean over patches."""
    if processes.count == 1 or recipe.loss_mean == "image":
        return [1.0] * len(passes)
    weights = torch.tensor([float(sum(sample.weights.sum() for sample in batch)) for batch, _ in passes])
    of_all = processes.sum_up(weights.clone())
    return [
        own / whole * size / len(batch) if batch and whole > 0 else 1.0
        for (batch, size), own, whole in zip(passes, weights.tolist(), of_all.tolist(), strict=True)
    ]


def own_samples(indices: Sequence[T], batch_size: int, processes: Processes) -> list[T]:
    """This process's part of the samples of a step, which come in passes of `batch_size`."""
    return [
        index
        for start in range(0, len(indices), batch_size)
        for index in processes.own(indices[start : start + batch_size])
    ]


def own_passes(
    samples: Sequence[Sample], count: int, batch_size: int, processes: Processes
) -> list[tuple[Sequence[Sample], int]]:
    """The passes of a step: this process's samples of each, and how many it has in all processes."""
    passes, at = [], 0
    for start in range(0, count, batch_size):
        size = min(batch_size, count - start)
        own = len(range(processes.rank, size, processes.count))
        passes.append((samples[at : at + own], size))
        at += own
    return passes


def require_finite(parameters: Iterable[Tensor]) -> None:
    """Raise `Diverged` if a step made a weight NaN or infinite."""
    if not all(bool(parameter.isfinite().all()) for parameter in parameters):
        raise Diverged("it left weights that are not finite")
