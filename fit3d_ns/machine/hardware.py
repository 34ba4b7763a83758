"""Processor, memory and GPUs."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from fit3d_ns.common.cores import usable_cores
from fit3d_ns.machine.finding import Finding

PROCESSOR, GPU = "processor", "gpu"

SCENE_MEMORY = 3_000_000_000
"""Bytes of main memory for a scene of 40,000 Gaussians, with its process, which takes two."""

FLAGS = {"avx512f": "AVX-512", "avx512_bf16": "bf16 (AVX-512)", "amx_bf16": "bf16 (AMX)", "avx2": "AVX2"}
"""Of /proc/cpuinfo: what kernels and backbones use."""


def find_processor() -> list[Finding]:
    """Cores, vector instructions and memory."""
    flags = cpu_flags()
    names = [name for flag, name in FLAGS.items() if flag in flags]
    total, free = memory()
    problem = ""
    if 0 < total < SCENE_MEMORY:
        problem = (
            f"{total / 1e9:.1f} GB of memory are less than the {SCENE_MEMORY / 1e9:.0f} that a small scene takes: use "
            "a machine with more, or smaller images."
        )
    return [
        Finding(PROCESSOR, "cores", f"{usable_cores()} of {os.cpu_count()}"),
        Finding(PROCESSOR, "instructions", ", ".join(names) or "unknown"),
        Finding(PROCESSOR, "memory", f"{total / 1e9:.1f} GB, {free / 1e9:.1f} free", problem, needed=False),
    ]


def cpu_flags(path: Path = Path("/proc/cpuinfo")) -> set[str]:
    """What the processor says that it can; empty where the system does not tell."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return set()
    return set(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))


def memory(path: Path = Path("/proc/meminfo")) -> tuple[int, int]:
    """Bytes in all, and those that are free; 0 where the system does not tell."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0, 0
    sizes = {line.partition(":")[0]: 1024 * int(line.split()[1]) for line in lines if line.endswith("kB")}
    return sizes.get("MemTotal", 0), sizes.get("MemAvailable", 0)


def find_gpus() -> list[Finding]:
    """GPUs as torch sees them, and what gsplat needs to compile its kernels for them."""
    try:
        import torch
    except Exception:  # said by `packages.find_imports`
        return []
    if not torch.cuda.is_available():
        driver = nvidia_driver()
        if not driver:
            return [Finding(GPU, "GPU", "none: the CPU is used")]
        problem = (
            f"there is an NVIDIA driver ({driver}) and torch {torch.__version__} sees no GPU: install a torch for that "
            "driver's CUDA (https://pytorch.org), or a newer driver."
        )
        return [Finding(GPU, "GPU", "none that torch sees", problem)]
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        value = f"{properties.name}, {properties.total_memory / 1e9:.0f} GB, sm_{properties.major}{properties.minor}"
        found.append(Finding(GPU, f"GPU {index}", value))
    found.append(Finding(GPU, "CUDA of torch", str(torch.version.cuda)))
    return [*found, _toolkit()]


def _toolkit() -> Finding:
    if importlib.util.find_spec("gsplat") and importlib.util.find_spec("gsplat.csrc"):
        return Finding(GPU, "gsplat's kernels", "compiled")
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path=f"{os.environ.get('CUDA_HOME', '/usr/local/cuda')}/bin")
    if nvcc:
        return Finding(GPU, "nvcc", nvcc)
    problem = (
        "nvcc is not there, with which gsplat compiles its kernels at their first use: install the CUDA toolkit and "
        "set CUDA_HOME to its folder."
    )
    return Finding(GPU, "nvcc", "not found", problem)


def nvidia_driver() -> str:
    """The driver's version; "" without one."""
    if shutil.which("nvidia-smi") is None:
        return ""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.split("\n")[0].strip() if done.returncode == 0 else ""
