"""Modules of kernels, and their compiled code on disk.

Numba compiles a kernel anew when the file it stands in has changed. But kernels are made of pieces from several files
(one blends rows with another's arithmetic), and after an update of one of these the old code of the others would go on
running without a word. So what is on disk counts only for the sources it was made from.
"""

from __future__ import annotations

import hashlib
import importlib
from functools import cache
from pathlib import Path
from types import ModuleType

from fit3d_ns.common.atomic import atomic_file
from fit3d_ns.common.console import logger
from fit3d_ns.rasterization.threads import thread_count

_ROOT = Path(__file__).parents[2]
_STAMP = "fit3d-kernels.sha256"


@cache
def load_kernels(name: str) -> ModuleType:
    """Import a module of kernels, e.g. "fit3d_ns.lifting._kernels", after old compiled code of it was dropped."""
    thread_count()  # sets Numba up before the module imports it
    module = importlib.import_module(name)
    kept = [kernel._cache for kernel in vars(module).values() if hasattr(kernel, "_cache")]
    for folder in {each.cache_path for each in kept if each.cache_path}:
        drop_stale(Path(folder), sources_digest(name.partition(".")[0]))
    return module


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
