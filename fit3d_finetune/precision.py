"""Which arithmetic a backbone is trained in."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from fit3d_ns.console import logger

PrecisionChoice = Literal["auto", "fp32", "bf16"]
Precision = Literal["fp32", "bf16"]

# Instructions that multiply bf16 natively; elsewhere it is emulated and slower than fp32.
_CPU_FLAGS = {"avx512_bf16", "amx_bf16"}


def choose_precision(choice: PrecisionChoice, device: str) -> Precision:
    """fp32 or bf16; "auto" takes bf16 where the processor has instructions for it, and says so."""
    if choice != "auto":
        return choice
    native = torch.cuda.is_bf16_supported(including_emulation=False) if device == "cuda" else _cpu_has_bf16()
    precision: Precision = "bf16" if native else "fp32"
    logger.info("Precision: %s (the %s %s bf16 instructions)", precision, device, "has" if native else "lacks")
    return precision


def _cpu_has_bf16() -> bool:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return False
    flags = next((set(line.split(":")[1].split()) for line in lines if line.startswith("flags")), set())
    return bool(flags & _CPU_FLAGS)
