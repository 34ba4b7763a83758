"""Arrays as pictures inside the page: small data URIs and the frames that show them."""

from __future__ import annotations

import base64
import io
from typing import Any

import cv2
import numpy as np
from PIL import Image

from fit3d_finetune.report.markup import Content, Markup, tag

Array = np.ndarray[Any, np.dtype[Any]]

PHOTO_SIDE = 560
"""Longest side of a photo in the page, in pixels."""
MAP_SIDE = 400
"""Longest side of a map of labels, depth or errors."""


def shrink(array: Array, longest: int, interpolation: int = cv2.INTER_AREA) -> Array:
    """[H, W, ...] with its longest side brought down to `longest` pixels; unchanged if it is smaller."""
    height, width = array.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return array
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small: Array = cv2.resize(array, size, interpolation=interpolation)
    return small


def jpeg_uri(image: Array) -> str:
    """uint8 [H, W, 3] as a JPEG, for photos and what is smooth."""
    return _uri(Image.fromarray(image), "jpeg", quality=82)


def png_uri(image: Array) -> str:
    """uint8 [H, W, 3] as a PNG of up to 256 colours, for flat colours and patch grids."""
    picture = Image.fromarray(image)
    palette = picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=256)
    exact = np.array_equal(np.asarray(palette.convert("RGB")), image)
    return _uri(palette if exact else picture, "png", optimize=True)


def framed(uri: str, shape: tuple[int, ...], title: str, caption: Content, style: str = "") -> Markup:
    """A picture of a [H, W, ...] photo's form with a line below it."""
    height, width = shape[:2]
    picture = tag("img", src=uri, alt=title, style=f"aspect-ratio:{width}/{height}", class_=style or None)
    return tag("figure", picture, tag("figcaption", caption))


def photo_style(index: int, image: Array) -> str:
    """The CSS rule that holds an example's photo, so that each place that shows it needs no copy."""
    height, width = image.shape[:2]
    uri = jpeg_uri(shrink(image, PHOTO_SIDE))
    return f".photo{index}{{background-image:url({uri});aspect-ratio:{width}/{height}}}"


def photo(index: int, title: str, style: str = "") -> Markup:
    """The photo of an example, drawn by its CSS rule."""
    return tag("div", class_=f"photo photo{index} {style}".strip(), role="img", aria_label=title)


def path_caption(name: str) -> Markup:
    """A caption that is a path, breaking between its parts."""
    parts = [["/", tag("wbr"), part] if index else part for index, part in enumerate(name.split("/"))]
    return tag("figcaption", parts)


def scale_bar(scale: Array, low: str, high: str, title: str) -> Markup:
    """A colour scale [256, 3] with what its ends mean."""
    stops = ",".join(f"rgb({red},{green},{blue})" for red, green, blue in scale[::17])
    bar = tag("i", class_="ramp", style=f"background:linear-gradient(to right,{stops})")
    return tag("span", title, tag("span", low, class_="low"), bar, tag("span", high), class_="scale")


def _uri(picture: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
