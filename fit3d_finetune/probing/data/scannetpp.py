"""ScanNet++: which of two numberings its labels have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fit3d_finetune.probing.data.class_names import numbered
from fit3d_finetune.probing.data.codings import AS_NUMBERED, VOID, LabelCoding, from_one
from fit3d_finetune.probing.data.files import read_lines
from fit3d_finetune.probing.data.labelled_images import read_numbers
from fit3d_ns.common.console import progress
from fit3d_ns.common.errors import InputError

CLASSES = 100
NAMES_FILE = "top100.txt"
"""Of its metadata: one name a line."""


def names_of(root: Path) -> tuple[str, ...]:
    """By `NAMES_FILE`, if it lies beside images/ and annotations/.

    Raises:
        InputError: it has another number of names.
    """
    path = root / NAMES_FILE
    names = tuple(read_lines(path)) if path.is_file() else numbered(CLASSES)
    if len(names) != CLASSES:
        raise InputError(f"{path} has {len(names)} names instead of {CLASSES}: take ScanNet++'s own file, or none.")
    return names


def coding_of(labels: Sequence[Path]) -> LabelCoding:
    """Its toolkit writes 0 to 99 with 255 for void, FiT3D's evaluation has 1 to 100 with 0 for void.

    A file with 255 has the first and a file with 100 the second; all others could be either. Files are read until one
    decides, and the rest are checked when they are used: a number that does not exist is an error there.

    Raises:
        InputError: no file says which it is.
    """
    with progress("files") as bar:
        for path in bar.track(labels, description="Numbering of ScanNet++"):
            found = np.unique(read_numbers(path, "labels"))
            if VOID in found:
                return AS_NUMBERED
            if CLASSES in found:
                return from_one(CLASSES)
    raise InputError(
        f"{labels[0].parent}: no file has 255 (void of the toolkit's 0 to 99) or 100 (of 1 to 100 with 0 for void), so "
        "nothing says which numbering these labels have: add an image of either kind."
    )
