"""Images and masks from disk as 8-bit RGB and bool arrays.

Any still image that a capture may hold is accepted and converted to 8-bit RGB; each kind of conversion
is said once in the log. Pixels stay where the file stores them: an EXIF orientation is not applied,
because COLMAP and nerfstudio ignore it too and the poses belong to the stored layout. (TIFF's own orientation tag
is applied by Pillow, and so in nerfstudio.)
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageFile, ImageOps

from fit3d_ns.common.console import logger
from fit3d_ns.common.errors import InputError, one_line

Array = np.ndarray[Any, np.dtype[Any]]

WHITE = (1.0, 1.0, 1.0)

_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class ImageHeader:
    """What the first bytes of an image file say, without decoding its pixels."""

    width: int
    height: int
    kind: str | None
    """How it differs from 8-bit RGB, e.g. "16-bit greyscale"; None if it does not."""
    channels: int
    exif_rotated: bool
    """Whether the EXIF orientation turns it by 90 degrees (which is not applied)."""


def read_header(path: Path) -> ImageHeader:
    """Size and kind of an image file, from its header (only a TIFF that Pillow cannot open is decoded)."""
    try:
        with Image.open(path) as image:
            # Without this condition Pillow would decode a whole PNG in search of EXIF data.
            rotated = "exif" in image.info and image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
            return ImageHeader(image.width, image.height, _kind(image), len(image.getbands()), rotated)
    except Exception as error:  # Pillow's plugins raise many types on broken files
        array = _decode_with_opencv(path)
        if array is None:
            raise _unreadable(path, error) from error
        height, width = array.shape[:2]
        channels = 1 if array.ndim == 2 else array.shape[2]
        return ImageHeader(width, height, _array_kind(array), channels, False)


def load_image(
    path: Path, background: tuple[float, float, float] = WHITE, keep_alpha: bool = False, upright: bool = False
) -> Array:
    """Decode an image file to uint8 [H, W, 3] RGB, or with `keep_alpha` to [H, W, 4] where it has transparency.

    Greyscale is repeated, palettes are looked up, 16-bit values are rounded to 8 bits, floats must lie
    in 0..1, and transparent pixels are composited over `background` (RGB in 0..1) unless `keep_alpha`. `upright`
    turns the image as its EXIF data ask, which nothing that has cameras for the stored pixels may do.

    Raises:
        InputError: the file is missing, truncated or no image.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            # Both look at the undecoded file; Pillow forgets its bit depth on decoding.
            kind, is_deep = _kind(image), _is_deep_colour(image)
            # Pillow decodes deep images too, though only OpenCV's result is used: it alone notices truncation.
            image.load()
            array = _decode_with_opencv(path) if is_deep else None
            if array is None:
                array = _pillow_pixels(ImageOps.exif_transpose(image) if upright else image)
    except Exception as error:  # Pillow's plugins raise many types on broken files
        decoded = _decode_with_opencv(path)
        # OpenCV fills what a truncated file lacks with grey: trust it only with formats unknown to Pillow.
        if decoded is None or not isinstance(error, Image.UnidentifiedImageError):
            raise _unreadable(path, error) from error
        array, kind = decoded, _array_kind(decoded)
    if kind is not None:
        say_conversions([kind])
    colour, alpha = _split_alpha(_to_8_bit(array, path))
    if alpha is not None:
        colour = np.concatenate([colour, alpha], axis=2) if keep_alpha else _composite(colour, alpha, background)
    # Pillow hands out read-only views; callers get an array of their own.
    return np.array(colour, order="C")


def rgb_pixels(image: Image.Image, name: str, background: tuple[float, float, float] = WHITE) -> Array:
    """An image in memory as `load_image` gives one from a file: uint8 [H, W, 3] RGB.

    Args:
        name: what to call it in an error.
    """
    colour, alpha = _split_alpha(_to_8_bit(_pillow_pixels(image), Path(name)))
    return np.array(colour if alpha is None else _composite(colour, alpha, background), order="C")


def load_mask(path: Path, size: tuple[int, int] | None = None) -> Array:
    """Decode a mask file to bool [H, W]; True (any value but 0, as in nerfstudio) marks the pixels to use.

    Args:
        path: of the mask.
        size: (width, height) of the image that it belongs to; None: not compared.

    Raises:
        InputError: it cannot be read, has several channels or another size, or leaves no pixel.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            array = np.asarray(image)
    except Exception as error:  # Pillow's plugins raise many types on broken files
        raise _unreadable(path, error, "mask") from error
    if array.ndim != 2:
        raise mask_has_channels(path, array.shape[2])
    if size is not None and array.shape[::-1] != size:
        raise InputError(
            f"mask {path} has {array.shape[1]} x {array.shape[0]} pixels, but its image has {size[0]} x {size[1]}: "
            "save it in the image's size."
        )
    if not array.any():
        raise InputError(
            f"mask {path} is zero everywhere, which leaves nothing of its image: correct it, or remove the image from "
            "the capture."
        )
    return array != 0


def mask_has_channels(path: Path, channels: int) -> InputError:
    return InputError(f"mask {path} has {channels} channels; save it with a single one (0 = leave out).")


_said: set[str] = set()
_said_lock = threading.Lock()


def say_conversions(kinds: Iterable[str]) -> None:
    """Log how images of these kinds (one entry per image) are converted, once per kind in a process."""
    for kind, count in Counter(kinds).items():
        with _said_lock:
            if kind in _said:
                continue
            _said.add(kind)
        deeds = [deed for word, deed in _DEEDS.items() if word in kind] or ["converted to RGB"]
        subject = f"{count} images are" if count > 1 else "found an image that is"
        logger.info("%s %s: %s", subject, kind, ", ".join(deeds))


_DEEDS = {
    "16-bit": "rounded to 8 bits",
    "float": "values 0..1 scaled to 8 bits",
    "palette": "colours looked up",
    "greyscale": "repeated to RGB",
    "alpha": "composited over a plain background unless the method keeps transparency",
}


def _kind(image: Image.Image) -> str | None:
    depth = "16-bit " if image.mode.startswith("I") or _is_deep_colour(image) else ""
    has_alpha = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    base = {"F": "float greyscale", "P": "palette", "PA": "palette"}.get(image.mode)
    if base is None:
        is_grey = image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I")
        base = "greyscale" if is_grey else "RGB" if image.mode.startswith("RGB") else image.mode
    kind = f"{depth}{base}{' with alpha' if has_alpha else ''}"
    return None if kind == "RGB" else kind


def _array_kind(array: Array) -> str | None:
    depth = {"uint8": "", "uint16": "16-bit "}.get(array.dtype.name, "float ")
    channels = 1 if array.ndim == 2 else array.shape[2]
    kind = depth + {1: "greyscale", 2: "greyscale with alpha", 3: "RGB"}.get(channels, "RGB with alpha")
    return None if kind == "RGB" else kind


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether Pillow would cut the 16 bits per channel of this colour image down to the upper 8."""
    if not isinstance(image, ImageFile.ImageFile) or not image.tile:
        return False
    if image.format not in ("PNG", "TIFF") or image.mode.startswith("I"):
        return False
    arguments = image.tile[0][3]
    raw_mode = arguments[0] if isinstance(arguments, tuple) else arguments
    return ";16" in str(raw_mode)


def _pillow_pixels(image: Image.Image) -> Array:
    """[H, W] or [H, W, C] with C in 2..4, in the depth of the file."""
    if image.mode == "F" or image.mode.startswith("I"):
        return np.asarray(image)
    has_alpha = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    return np.asarray(image.convert("RGBA" if has_alpha else "RGB"))


def _decode_with_opencv(path: Path) -> Array | None:
    """Pixels in the depth of the file, RGB order, or None if OpenCV cannot read it."""
    if not path.is_file():
        return None
    try:
        array = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if array is None or array.ndim == 2:
        return array
    return array[..., [2, 1, 0, *range(3, array.shape[2])]] if array.shape[2] >= 3 else array


def _to_8_bit(array: Array, path: Path) -> Array:
    if array.dtype == np.uint8:
        return array
    if np.issubdtype(array.dtype, np.floating):
        # Comparing this way round also refuses NaN.
        if not (array.min(initial=0.0) >= 0.0 and array.max(initial=0.0) <= 1.0):
            raise InputError(
                f"image {path} is a float image with values outside 0..1; convert it to 8-bit PNG or JPEG."
            )
        return np.rint(array * 255.0).astype(np.uint8)
    if array.min(initial=0) < 0 or array.max(initial=0) > 65535:
        raise InputError(f"image {path} has values outside 0..65535; convert it to 8-bit PNG or JPEG.")
    return ((array.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _split_alpha(array: Array) -> tuple[Array, Array | None]:
    """[H, W] or [H, W, 1..4] to RGB [H, W, 3] and alpha [H, W, 1], if there is one."""
    if array.ndim == 2:
        array = array[..., None]
    colour = array[..., :3] if array.shape[2] >= 3 else array[..., :1].repeat(3, axis=2)
    return colour, array[..., -1:] if array.shape[2] in (2, 4) else None


def _composite(colour: Array, alpha: Array, background: tuple[float, float, float]) -> Array:
    opacity = alpha.astype(np.float32) / 255.0
    behind = np.asarray(background, dtype=np.float32) * 255.0
    blended: Array = np.rint(colour * opacity + behind * (1.0 - opacity)).clip(0, 255).astype(np.uint8)
    return blended


def _unreadable(path: Path, error: Exception, what: str = "image") -> InputError:
    if not path.is_file():
        return InputError(f"{what} {path} does not exist; restore it or remove it from the capture.")
    reason = one_line(error)
    if isinstance(error, Image.UnidentifiedImageError):
        reason = "not an image format that can be read"
    elif isinstance(error, PermissionError):
        reason = "permission denied"
    return InputError(
        f"{what} {path} cannot be read or is truncated ({reason}); replace it or remove it from the capture."
    )
