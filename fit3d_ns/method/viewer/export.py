"""A selection of Gaussians as a file."""

from __future__ import annotations

import os
from pathlib import Path

from fit3d_ns.common.atomic import atomic_file
from fit3d_ns.common.errors import InputError
from fit3d_ns.scene.ply import write_splat_ply
from fit3d_ns.scene.splats import Splats

_MOST_FILES = 10_000


def write_selection(chosen: Splats, folder: Path) -> Path:
    """Write Gaussians as a standard 3DGS .ply, selection-001.ply or the next number that is free.

    Raises:
        InputError: the folder cannot be written.
    """
    numbered = (folder / f"selection-{number:03d}.ply" for number in range(1, _MOST_FILES))
    path = next((path for path in numbered if not os.path.lexists(path)), None)
    if path is None:
        raise InputError(f"{folder} is full of selections: move some away.")
    try:
        with atomic_file(path) as temporary:
            write_splat_ply(temporary, chosen.to("cpu"))
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}): free some space, or allow it.") from error
    return path.absolute()
