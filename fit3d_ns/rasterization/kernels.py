"""The kernels of the CPU rasteriser, by what they are for."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from fit3d_ns.common.console import logger
from fit3d_ns.rasterization.kernel_cache import load_kernels


@dataclass(frozen=True)
class Kernels:
    """The modules of the CPU rasteriser's kernels."""

    projection: Any
    sh: Any
    binning: Any
    part: Any
    blend: Any
    wide: Any


@cache
def kernels() -> Kernels:
    """The kernel modules, imported at first use so that importing the package stays quick."""
    names = [field.name for field in fields(Kernels)]
    modules = Kernels(**{name: load_kernels(f"fit3d_ns.rasterization._{name}_kernels") for name in names})
    compiled = Path(modules.projection.project._cache.cache_path)
    if not any(compiled.glob("_projection_kernels.project-*.nbi")):
        logger.info("compiling the CPU rasteriser's kernels: about a minute, once per installation")
    return modules
