"""Photos that people hand to the page: which are taken, how they are read, and what is said of the others."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fit3d_finetune.report.images import shrink
from fit3d_ns.capture.images import load_image
from fit3d_ns.common.console import logger
from fit3d_ns.common.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]

# Pillow's names. Its other readers stay out: some of them start programs (EPS), and none is of photos.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MOST_PIXELS = 64_000_000
"""Of a photo as it lies in its file: decoded, such a one takes 200 MB."""
MOST_EXAMPLES = 24
THUMBNAIL = 160
"""Longest side of an example's small picture, in pixels."""


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo as the page works with it."""

    name: str
    """Of its file, without the folder."""
    file_size: tuple[int, int]
    """(width, height) of the upright photo in the file, in pixels."""
    image: Array
    """uint8 [H, W, 3], upright, shrunk with its aspect kept."""


@dataclass(frozen=True, eq=False)
class Example:
    """A photo that the page offers."""

    path: Path
    thumbnail: Array
    """uint8 [H, W, 3]."""


def read_photo(path: Path, max_size: int, smallest: int = 1) -> Photo:
    """Read a photo, turn it upright as its EXIF data say, and shrink it.

    Args:
        path: of the file.
        max_size: longest side of the result in pixels; smaller photos stay as they are.
        smallest: what the shorter side must have left, in pixels.

    Raises:
        InputError: it cannot be read, is of no kind that is taken, or is too large, too small or too thin. The sentence
            names the file without its folder.
    """
    width, height = _size(path)
    if width * height > MOST_PIXELS:
        raise _too_large(path.name, f"{width} × {height} pixels, {width * height / 1e6:.0f} million")
    scale = min(1.0, max_size / max(width, height))
    if min(width, height) * scale < smallest:
        shrunk = "" if scale == 1.0 else f", of which {round(width * scale)} × {round(height * scale)} are left"
        raise InputError(
            f"{path.name} has {width} × {height} pixels{shrunk}, and one patch of the backbone takes {smallest}: give "
            "a photo that is larger or less narrow."
        )
    try:
        image = load_image(path, upright=True)
    except InputError as error:
        raise InputError(f"{path.name} is damaged{_reason(error.__cause__)}: give another file.") from error
    return Photo(path.name, (image.shape[1], image.shape[0]), shrink(image, max_size))


def find_examples(folder: Path) -> list[Example]:
    """The photos of a folder by name, at most `MOST_EXAMPLES`.

    Raises:
        InputError: there is no such folder, no photo in it, or one that cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"--examples {folder} is not a folder: give one that holds photos.")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise InputError(f"--examples {folder} holds no photo ({', '.join(SUFFIXES)}): give a folder that does.")
    if len(found) > MOST_EXAMPLES:
        logger.info("%s holds %d photos: the first %d by name are offered", folder, len(found), MOST_EXAMPLES)
    return [Example(path, read_photo(path, THUMBNAIL).image) for path in found[:MOST_EXAMPLES]]


def _size(path: Path) -> tuple[int, int]:
    """(width, height) by the header alone: what is too large must not be decoded."""
    Image.init()  # or Pillow knows only some of the formats yet
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is stricter
            with Image.open(path, formats=FORMATS) as image:
                return image.size
    except Image.DecompressionBombError as error:
        raise _too_large(path.name, "far too many pixels") from error
    except Image.UnidentifiedImageError as error:
        raise InputError(
            f"{path.name} is no photo that can be read here: give a JPEG, PNG, WebP, TIFF, GIF or BMP file."
        ) from error
    except Exception as error:  # Pillow's plugins raise many types on broken files
        raise InputError(f"{path.name} cannot be read{_reason(error)}: give another file.") from error


def _too_large(name: str, size: str) -> InputError:
    return InputError(f"{name} has {size}; at most {MOST_PIXELS / 1e6:.0f} million are taken: shrink it first.")


def _reason(error: BaseException | None) -> str:
    """What Pillow said, in brackets; nothing where it names a place on this machine, which is nobody's business."""
    said = " ".join(str(error or "").split())
    return f" ({said})" if said and not re.search(r"[/\\]", said) else ""
