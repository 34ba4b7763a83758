"""The photos of a scene's views."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fit3d_ns.capture.images import load_image
from fit3d_ns.capture.lens import undistort
from fit3d_ns.common.errors import InputError
from fit3d_ns.scene.description import ViewInfo


def load_undistorted_photo(view: ViewInfo, path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The photo of a view as a pinhole camera sees it: uint8 [H, W, 3] RGB, of the size of `view.pinhole()`.

    Args:
        path: where the photo is now.

    Raises:
        InputError: it cannot be read, or is not of the size that the view's camera is for.
    """
    pixels = load_image(path)
    if pixels.shape[:2] != (view.height, view.width):
        raise InputError(
            f"image {path} is {pixels.shape[1]}x{pixels.shape[0]} where its camera says "
            f"{view.width}x{view.height}; restore the image that the scene was made from."
        )
    return np.ascontiguousarray(undistort(pixels, view.K, view.distortion, view.camera_model)[0])
