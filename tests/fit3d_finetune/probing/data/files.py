"""Tiny files in the layouts of published data sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image


def write_photo(path: Path, width: int = 6, height: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)).save(path)
    return path


def write_numbers(path: Path, values: ArrayLike, kind: type = np.uint8) -> Path:
    """An image of one channel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, kind)).save(path)
    return path


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def write_split(root: Path, rows: list[list[list[int]]], suffix: str = ".jpg", label: str = "{}.png") -> Path:
    """One image for each map of labels; returns root/validation."""
    for index, values in enumerate(rows):
        name = f"a{index}{suffix}"
        write_photo(root / "images/validation" / name, len(values[0]), len(values))
        write_numbers(root / "annotations/validation" / label.format(Path(name).stem), values)
    return root / "validation"


def write_nyu(root: Path, value: int = 2500) -> Path:
    write_photo(root / "kitchen_0028b/rgb_00045.jpg")
    write_numbers(root / "kitchen_0028b/sync_depth_00045.png", np.full((4, 6), value), np.uint16)
    return write_text(
        root / "nyu_test.txt", "/kitchen_0028b/rgb_00045.jpg /kitchen_0028b/sync_depth_00045.png 518.8579\n"
    )
