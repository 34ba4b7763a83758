"""Modules of kernels, and their compiled code on disk.

Numba compiles a kernel anew when the file it stands in has changed. But kernels are made of pieces from several files
(one blends rows with another's arithmetic), and after an update of one of these the old code of the others would go on
running without a word. So what is on disk counts only for the sources it was made from.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, wraps
from pathlib import Path
from types import ModuleType
from typing import Any

from fit3d_ns.common.atomic import atomic_file
from fit3d_ns.common.console import logger
from fit3d_ns.common.file_lock import locked_file
from fit3d_ns.rasterization.threads import thread_count

_ROOT = Path(__file__).parents[2]
_STAMP = "fit3d-kernels.sha256"
_LOCK = "fit3d-kernels.lock"


@cache
def load_kernels(name: str) -> ModuleType:
    """Import a module of kernels, e.g. "fit3d_ns.lifting._kernels", after old compiled code of it was dropped."""
    thread_count()  # sets Numba up before the module imports it
    module = importlib.import_module(name)
    for kernel in vars(module).values():
        folder = kernel._cache.cache_path if getattr(kernel, "_cache", None) else None
        if folder and not hasattr(kernel.compile, "__wrapped__"):
            drop_stale(Path(folder), sources_digest(name.partition(".")[0]))
            # Numba looks for compiled code on disk inside of it, so after the lock was waited for.
            kernel.compile = compile_lock(Path(folder)).around(kernel.compile)
    return module


class CompileLock:
    """Held by the process that compiles kernels into a folder; its own threads and nested kernels pass."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _LOCK
        self._threads = threading.RLock()
        self._depth = 0

    def around(self, compile_kernel: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, which holds the lock meanwhile."""

        @wraps(compile_kernel)
        def locked(*arguments: Any) -> Any:
            with self._held():
                return compile_kernel(*arguments)

        return locked

    @contextmanager
    def _held(self) -> Iterator[None]:
        with self._threads:
            self._depth += 1
            handle = None
            try:
                if self._depth == 1:
                    with suppress(OSError):  # where there can be no lock, everybody compiles for himself
                        handle = locked_file(self._path)
                yield
            finally:
                self._depth -= 1
                if handle is not None:
                    os.close(handle)


compile_lock = cache(CompileLock)
"""The one of a folder, in this process."""


@cache
def sources_digest(package: str = "fit3d_ns") -> str:
    """SHA-256 over all sources that kernels of a package are made of: its own, and ours, which it may inline."""
    files = [path for name in sorted({"fit3d_ns", package}) for path in kernel_sources(_ROOT / name)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def kernel_sources(package: Path) -> list[Path]:
    """The files of a package that hold kernels or pieces of them: those whose name begins with one underscore."""
    return sorted(path for path in package.rglob("_*.py") if not path.name.startswith("__"))


def drop_stale(folder: Path, digest: str) -> None:
    """Forget the kernels that Numba keeps in `folder` if they were made from other sources than those of `digest`."""
    stamp = folder / _STAMP
    try:
        if stamp.is_file() and stamp.read_text() == digest:
            return
        stale = list(folder.glob("_*.nbi"))
        for index in stale:
            index.unlink(missing_ok=True)
        with atomic_file(stamp) as temporary:
            temporary.write_text(digest)
    except OSError as error:
        logger.warning("Old compiled kernels in %s cannot be removed (%s): delete the folder.", folder, error)
        return
    if stale:
        logger.debug("compiled kernels in %s were made from other sources: they are compiled again", folder)
