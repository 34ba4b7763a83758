"""The published schedules of rate and momentum (mmcv's), as functions of the step."""

from __future__ import annotations

import math

import torch

SEGMENTATION_WARMUP_RATIO = 1e-6
DEPTH_WARMUP_RATIO = 1e-3
DEPTH_FINAL_RATIO = 1e-8
MOMENTUM = (0.95, 0.85)
"""Of AdamW's first moment in the depth probe: at both ends of training, and where it is least."""
MOMENTUM_LEAST_AT = 0.3
"""Share of training."""


def segmentation_rate(step: int, iterations: int, warmup: int, lr: float) -> float:
    """Linear warm-up of the poly schedule with power 1: straight down to zero."""
    return lr * (1 - step / iterations) * _warming(step, warmup, SEGMENTATION_WARMUP_RATIO)


def depth_rate(step: int, iterations: int, warmup: int, lr: float) -> float:
    """Linear warm-up of half a period of a cosine."""
    rate = _cosine(lr, lr * DEPTH_FINAL_RATIO, step / iterations)
    return rate * _warming(step, warmup, DEPTH_WARMUP_RATIO)


def depth_momentum(step: int, iterations: int) -> float:
    """One cycle: half a cosine down to the least momentum, and half a slower one up again."""
    least_at, end = MOMENTUM_LEAST_AT * iterations - 1, iterations - 1
    high, low = MOMENTUM
    if step <= least_at and least_at > 0:
        return _cosine(high, low, step / least_at)
    return _cosine(low, high, (step - least_at) / (end - least_at)) if end > least_at else low


def set_rate(optimizer: torch.optim.Optimizer, rate: float, momentum: float | None = None) -> None:
    """Of all parameters, before a step."""
    for group in optimizer.param_groups:
        group["lr"] = rate
        if momentum is not None:
            group["betas"] = (momentum, group["betas"][1])


def _warming(step: int, warmup: int, ratio: float) -> float:
    return 1.0 if step >= warmup else 1 - (1 - step / warmup) * (1 - ratio)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (math.cos(math.pi * share) + 1) / 2
