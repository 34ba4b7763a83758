"""Photos as they are given, made ready: turned upright, in formats that everybody reads, grouped by camera."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from fit3d_ns.capture.images import load_image, read_header
from fit3d_ns.common.console import logger, progress
from fit3d_ns.common.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]

MIN_PHOTOS = 3
FULL_SIDE = 1600
"""Photos that are longer get smaller copies beside them (images_2 ...), from which nerfstudio takes one below this."""

_COPIED = (".jpg", ".jpeg", ".png")
_CONVERTED = (".tif", ".tiff", ".webp", ".bmp")
_JPEG_QUALITY = 95
_ORIENTATION, _MODEL, _EXIF_FOLDER, _FOCAL_LENGTH = 0x0112, 0x0110, 0x8769, 0x920A


def list_photos(folder: Path, most: int | None) -> list[Path]:
    """The photos of a folder and those below it, in the order of their names; hidden ones are left out.

    Args:
        folder: of photos.
        most: how many; if there are more, as many are taken evenly.

    Raises:
        InputError: fewer than three.
    """
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in (*_COPIED, *_CONVERTED)
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if len(found) < MIN_PHOTOS:
        kinds = ", ".join(suffix[1:] for suffix in (*_COPIED, *_CONVERTED))
        raise InputError(f"{folder} holds {len(found)} photos ({kinds}), and {MIN_PHOTOS} are needed: add photos.")
    if most is not None and len(found) > most:
        logger.info("%d of %d photos are used, taken evenly (--max-photos)", most, len(found))
        found = [found[index] for index in np.round(np.linspace(0, len(found) - 1, most)).astype(int)]
    return found


def prepare_photos(photos: Sequence[Path], source: Path, folder: Path) -> dict[str, str]:
    """Copy photos; those that EXIF data turn are turned, and formats other than JPEG and PNG become PNG.

    Args:
        photos: their paths.
        source: the folder that they lie in.
        folder: gets frame_00001.jpg ...; made, and empty.

    Returns:
        The given name, relative to `source`, of each file name.

    Raises:
        InputError: a photo cannot be read.
    """
    names: dict[str, str] = {}
    turned = 0
    with progress("photos") as bar:
        for photo in bar.track(photos, description="Reading photos"):
            pixels = load_image(photo, upright=True)
            with Image.open(photo) as image:
                exif = image.getexif()
            rotated = exif.get(_ORIENTATION, 1) != 1
            suffix = photo.suffix.lower()
            name = f"frame_{len(names) + 1:05d}{suffix if suffix in _COPIED else '.png'}"
            if suffix in _COPIED and not rotated:
                shutil.copyfile(photo, folder / name)
            elif suffix in (".jpg", ".jpeg"):
                turned += 1
                exif[_ORIENTATION] = 1
                save_jpeg(folder / name, pixels, exif)
            else:
                Image.fromarray(pixels).save(folder / name)
            names[name] = photo.relative_to(source).as_posix()
    if turned:
        logger.info("%d photos were turned upright, as their EXIF data say", turned)
    return names


def save_jpeg(path: Path, pixels: Array, exif: Image.Exif | None = None) -> None:
    """Write uint8 RGB pixels [H, W, 3] so that nothing visible is lost."""
    extra: dict[str, Any] = {} if exif is None else {"exif": exif.tobytes()}
    Image.fromarray(pixels).save(path, quality=_JPEG_QUALITY, subsampling=0, **extra)


def camera_groups(folder: Path, names: Sequence[str]) -> list[list[str]]:
    """The images that share a camera: those of one size, device and focal length, as far as their EXIF data say."""
    groups: defaultdict[tuple[Any, ...], list[str]] = defaultdict(list)
    for name in names:
        header = read_header(folder / name)
        with Image.open(folder / name) as image:
            exif = image.getexif() if "exif" in image.info else None
        device = None if exif is None else (exif.get(_MODEL), str(exif.get_ifd(_EXIF_FOLDER).get(_FOCAL_LENGTH)))
        groups[header.width, header.height, device].append(name)
    return list(groups.values())


def write_smaller_copies(images: Path, folder: Path) -> list[str]:
    """Write images_2, images_4 ... beside images that are longer than `FULL_SIDE`, as nerfstudio looks for them.

    Args:
        images: the folder of images.
        folder: where these folders are made.

    Returns:
        Their names.
    """
    paths = sorted(images.iterdir())
    longest = max(max((header := read_header(path)).width, header.height) for path in paths)
    factors: list[int] = []
    while longest / max([1, *factors]) > FULL_SIDE:
        factors.append(2 ** (len(factors) + 1))
    for factor in factors:
        (folder / f"images_{factor}").mkdir()
    if factors:
        with progress("photos") as bar:
            for path in bar.track(paths, description="Writing smaller copies"):
                pixels = load_image(path)
                for factor in factors:
                    size = (pixels.shape[1] // factor, pixels.shape[0] // factor)
                    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
                    target = folder / f"images_{factor}" / path.name
                    if path.suffix == ".png":
                        Image.fromarray(small).save(target)
                    else:
                        save_jpeg(target, small)
    return [f"images_{factor}" for factor in factors]
