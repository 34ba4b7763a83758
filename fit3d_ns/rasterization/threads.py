"""Threading rules of the Numba kernels: which layer, how many threads, one launch at a time.

Two OpenMP runtimes in one process (Numba's and torch's) spin against each other, which was measured to
cost 4-13x, so the kernels run on Numba's own `workqueue` layer. That layer aborts the process when two
Python threads enter it at once, hence one lock around every parallel kernel: nerfstudio's viewer renders
from its own thread while training runs, and autograd calls backward from yet another.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fit3d_ns.common.console import logger
from fit3d_ns.rasterization.allocator import keep_freed_memory

_LAYER = "workqueue"
_LAYER_VARIABLE = "NUMBA_THREADING_LAYER"

# Read by OpenMP runtimes that load after us and by child processes; one that is already loaded keeps its own.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_lock = threading.RLock()
_ready = False


def _prepare() -> None:
    """Pick the threading layer before Numba starts threads, and how memory is handed out."""
    global _ready
    user_layer = os.environ.get(_LAYER_VARIABLE)
    if user_layer is None:
        os.environ[_LAYER_VARIABLE] = _LAYER
    elif user_layer != _LAYER:
        logger.warning(
            f"{_LAYER_VARIABLE}={user_layer} is kept as you set it; '{_LAYER}' is usually several times faster here."
        )
    import numba

    if user_layer is None:
        # Numba may have been imported before us and have read its configuration already.
        numba.config.THREADING_LAYER = _LAYER
    _prefer_wide_vectors(numba)
    keep_freed_memory()
    _ready = True
    logger.debug(f"numba threading layer {_LAYER}, {numba.get_num_threads()} threads")


def _prefer_wide_vectors(numba: Any) -> None:
    """Let LLVM use 512-bit registers where the processor has them.

    LLVM keeps to 256 bits on most such processors; our rows of 16 pixels were measured 1.5x faster in one register.
    """
    if os.environ.get("NUMBA_CPU_FEATURES") or os.environ.get("NUMBA_CPU_NAME"):
        return
    import llvmlite.binding as llvm

    host = llvm.get_host_cpu_features()
    if host.get("avx512f"):
        # Both places: Numba reads its configuration again when the environment has changed.
        os.environ["NUMBA_CPU_FEATURES"] = numba.config.CPU_FEATURES = host.flatten() + ",-prefer-256-bit"


def thread_count() -> int:
    """How many ranges the kernels split their work into (NUMBA_NUM_THREADS, by default the usable cores)."""
    with _lock:
        if not _ready:
            _prepare()
    import numba

    return int(numba.get_num_threads())


@contextmanager
def kernel_launch() -> Iterator[None]:
    """Hold this around every parallel Numba kernel of the process."""
    with _lock:
        if not _ready:
            _prepare()
        yield
