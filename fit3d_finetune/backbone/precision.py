"""Which arithmetic a backbone is trained in."""

from __future__ import annotations

import time

import torch

from fit3d_finetune.backbone.choices import Precision, PrecisionChoice
from fit3d_ns.common.console import logger

# A product as in the MLP of a ViT-S. bf16 must gain clearly, so that a busy moment does not decide.
_SHAPE = (1024, 384, 1536)
_MIN_GAIN = 1.25
_TRIALS = 5


def choose_precision(choice: PrecisionChoice, device: str, earlier: Precision | None = None) -> Precision:
    """fp32 or bf16, and says why.

    "auto" keeps to what an earlier start of the run took; else it takes bf16 on a GPU that has it, and on a CPU where
    it is faster. That is measured, since instructions alone do not tell: with AVX512-BF16, torch 2.14 multiplies
    bf16 faster than fp32 on a Zen 4 and at half the speed on a Sapphire Rapids whose AMX is hidden.
    """
    if choice != "auto":
        return choice
    if earlier is not None:
        logger.info("Precision: %s (as this run began)", earlier)
        return earlier
    if device == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        logger.info("Precision: %s (the GPU %s bf16 instructions)", "bf16" if native else "fp32", _has(native))
        return "bf16" if native else "fp32"
    gain = product_seconds(torch.float32) / product_seconds(torch.bfloat16)
    precision: Precision = "bf16" if gain >= _MIN_GAIN else "fp32"
    logger.info("Precision: %s (bf16 is %.1f times as fast as fp32 on this CPU)", precision, gain)
    return precision


def product_seconds(dtype: torch.dtype) -> float:
    """Shortest time of a few matrix products on the CPU."""
    rows, inner, columns = _SHAPE
    a, b = torch.zeros(rows, inner, dtype=dtype), torch.zeros(inner, columns, dtype=dtype)
    times = []
    for _ in range(_TRIALS + 1):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _has(native: bool) -> str:
    return "has" if native else "lacks"
