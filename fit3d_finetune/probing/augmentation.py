"""Random changes to training images and their labels or depth, as mmsegmentation and its depth toolbox make them.

Functions of arrays: images [H, W, 3] in 0..255 (RGB), labels or depth [H, W]. What is random comes from the generator
that they are given, so a crop is the same whoever makes it.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Region = tuple[slice, slice]
"""Rows and columns of an image."""

BRIGHTNESS = 32.0
CONTRAST = SATURATION = (0.5, 1.5)
HUE = 18
"""Of 180: OpenCV keeps hues of uint8 images in steps of two degrees."""
GAMMA = TINT = (0.9, 1.1)


def size_of(image: Array) -> tuple[int, int]:
    """(height, width)."""
    return image.shape[0], image.shape[1]


def fitted_size(size: tuple[int, int], sides: tuple[float, float]) -> tuple[int, int]:
    """The largest (height, width) of the aspect of `size` whose longer and shorter side are at most `sides`."""
    height, width = size
    longest, shortest = max(sides), min(sides)
    factor = min(longest / max(height, width), shortest / min(height, width))
    return int(height * factor + 0.5), int(width * factor + 0.5)


def scaled_sides(sides: tuple[int, int], factors: tuple[float, float], random: np.random.Generator) -> tuple[int, int]:
    """Both sides times one random factor, rounded down."""
    factor = random.uniform(*factors)
    return int(sides[0] * factor), int(sides[1] * factor)


def resize(image: Array, size: tuple[int, int]) -> Array:
    """An image at (height, width), bilinear without antialiasing, as published."""
    return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR))


def resize_labels(labels: Array, size: tuple[int, int]) -> Array:
    """Class indices at (height, width): those of the nearest pixels."""
    return np.asarray(cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST))


def random_region(size: tuple[int, int], crop: tuple[int, int], random: np.random.Generator) -> Region:
    """A random part of the size `crop` of an image of (height, width) `size`; no longer than its sides."""
    height, width = size
    top = int(random.integers(0, max(height - crop[0], 0) + 1))
    left = int(random.integers(0, max(width - crop[1], 0) + 1))
    return slice(top, min(top + crop[0], height)), slice(left, min(left + crop[1], width))


def varied_region(
    labels: Array, crop: tuple[int, int], most: float, tries: int, void: int, random: np.random.Generator
) -> Region:
    """A random part in which no class has a share of `most` or more of the labelled pixels.

    The last of at most 1 + `tries` draws is taken as it is.
    """
    region = random_region(size_of(labels), crop, random)
    for _ in range(tries):
        classes, counts = np.unique(labels[region], return_counts=True)
        counts = counts[classes != void]
        if len(counts) > 1 and counts.max() / counts.sum() < most:
            break
        region = random_region(size_of(labels), crop, random)
    return region


def padded(values: Array, size: tuple[int, int], fill: int) -> Array:
    """Labels or depth [H, W] continued to the right and below to (height, width) with `fill`."""
    rows, columns = size[0] - values.shape[0], size[1] - values.shape[1]
    return np.pad(values, ((0, rows), (0, columns)), constant_values=fill)


def mirrored(image: Array, truth: Array) -> tuple[Array, Array]:
    """Left and right swapped in both."""
    return np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(truth[:, ::-1])


def rotated(image: Array, depth: Array, degrees: float) -> tuple[Array, Array]:
    """Both turned clockwise about the image's centre: the image bilinearly, the depth by its nearest pixels.

    What comes in from outside is black, and its depth unknown (0).
    """
    height, width = depth.shape
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -degrees, 1.0)
    return (
        np.asarray(cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_LINEAR)),
        np.asarray(cv2.warpAffine(depth, turn, (width, height), flags=cv2.INTER_NEAREST)),
    )


def photometric_distortion(image: Array, random: np.random.Generator) -> Array:
    """Random brightness, contrast, saturation and hue, each with probability 1/2 (Liu et al., SSD, 2016).

    Contrast comes before or after the other colours, whichever is drawn.

    Args:
        image: uint8 [H, W, 3], RGB.
        random: draws everything.

    Returns:
        uint8 [H, W, 3].
    """
    if random.integers(2):
        image = _linear(image, offset=random.uniform(-BRIGHTNESS, BRIGHTNESS))
    contrast_first = bool(random.integers(2))
    if contrast_first:
        image = _random_contrast(image, random)
    if random.integers(2):
        hsv = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
        hsv[..., 1] = _linear(hsv[..., 1], factor=random.uniform(*SATURATION))
        image = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))
    if random.integers(2):
        hsv = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
        hsv[..., 0] = (hsv[..., 0].astype(np.int64) + random.integers(-HUE, HUE)) % 180
        image = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))
    return image if contrast_first else _random_contrast(image, random)


def _random_contrast(image: Array, random: np.random.Generator) -> Array:
    return _linear(image, factor=random.uniform(*CONTRAST)) if random.integers(2) else image


def _linear(values: Array, factor: float = 1.0, offset: float = 0.0) -> Array:
    """factor * values + offset, cut to 0..255 and rounded towards zero."""
    return np.clip(values.astype(np.float32) * factor + offset, 0, 255).astype(np.uint8)


def coloured(image: Array, brightness: tuple[float, float], random: np.random.Generator) -> Array:
    """Random gamma, brightness and tint (AdaBins, 2021).

    The power is taken of values in 0..255, as published: it changes the brightness more than the curve.

    Args:
        image: uint8 [H, W, 3].
        brightness: least and largest factor.
        random: draws everything.

    Returns:
        float32 [H, W, 3], still in 0..255.
    """
    curved = image.astype(np.float32) ** np.float32(random.uniform(*GAMMA))
    factors = random.uniform(*brightness) * random.uniform(*TINT, size=3)
    return np.clip(curved * factors.astype(np.float32), 0, 255)
