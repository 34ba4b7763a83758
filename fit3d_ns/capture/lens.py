"""Removal of lens distortion, number for number as nerfstudio 1.1.5 does it.

The reference is `_undistort_image` in nerfstudio's data/datamanagers/full_images_datamanager.py. There,
distortion = [k1, k2, k3, k4, p1, p2] (for fisheye k1..k4), and K puts the centre of the top-left pixel at
(0.5, 0.5) where OpenCV puts it at (0, 0). The arithmetic starts in float32 as there, so that K comes out
equal to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from fit3d_ns.common.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]

PERSPECTIVE_MODELS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")
FISHEYE_MODELS = ("OPENCV_FISHEYE",)
CAMERA_MODELS = PERSPECTIVE_MODELS + FISHEYE_MODELS
"""The values of `camera_model` in a transforms.json that can be undistorted."""


def undistort(image: Array, K: Array, distortion: Array, camera_model: str = "OPENCV") -> tuple[Array, Array]:
    """Remove lens distortion from an image [H, W] or [H, W, C] (any dtype that OpenCV remaps).

    Returns:
        the pinhole image, cropped to its valid rectangle for perspective cameras, and its K [3, 3] float64.
    """
    height, width = image.shape[:2]
    lens = _Lens.of(K, distortion, width, height, camera_model)
    if lens.is_fisheye:
        image = cv2.remap(image, *lens.fisheye_maps(), interpolation=cv2.INTER_LINEAR)
    elif lens.is_distorted:
        image = cv2.undistort(image, lens.K, lens.coefficients, None, lens.pinhole)
    return lens.crop(image), lens.cropped_matrix()


def undistort_mask(mask: Array, K: Array, distortion: Array, camera_model: str = "OPENCV") -> Array:
    """What `undistort` does, for the mask [H, W] (bool) of the same image."""
    height, width = mask.shape
    lens = _Lens.of(K, distortion, width, height, camera_model)
    values = mask.astype(np.uint8) * 255
    if lens.is_fisheye:
        values = cv2.fisheye.undistortImage(values, lens.K, lens.coefficients, None, lens.pinhole)
    elif lens.is_distorted:
        values = cv2.undistort(values, lens.K, lens.coefficients, None, lens.pinhole)
    return lens.crop(values) != 0


def undistorted_camera(
    K: Array, distortion: Array, width: int, height: int, camera_model: str = "OPENCV"
) -> tuple[Array, int, int]:
    """K [3, 3] float64, width and height of the image that `undistort` would return."""
    lens = _Lens.of(K, distortion, width, height, camera_model)
    return lens.cropped_matrix(), lens.region[2], lens.region[3]


@dataclass(frozen=True)
class _Lens:
    """A camera in OpenCV's convention with the pinhole camera that replaces it."""

    K: Array
    coefficients: Array
    pinhole: Array
    size: tuple[int, int]
    region: tuple[int, int, int, int]
    is_fisheye: bool

    @staticmethod
    def of(K: Array, distortion: Array, width: int, height: int, camera_model: str) -> _Lens:
        if camera_model not in CAMERA_MODELS:
            raise unsupported_camera_model(camera_model)
        K = np.array(K, dtype=np.float32)
        K[:2, 2] -= 0.5
        k1, k2, k3, k4, p1, p2 = np.asarray(distortion, dtype=np.float32).astype(np.float64)
        size, full = (width, height), (0, 0, width, height)
        if camera_model in FISHEYE_MODELS:
            coefficients = np.array([k1, k2, k3, k4])
            pinhole = cv2.fisheye.estimateNewCameraMatrixForUndistortRectify(
                K, coefficients, size, np.eye(3), balance=0
            )
            return _Lens(K, coefficients, pinhole, size, full, True)
        if k4 != 0:
            raise InputError(f"distortion parameter k4 is {k4:g}, but only OPENCV_FISHEYE cameras may have a k4.")
        coefficients = np.array([k1, k2, p1, p2, k3, 0, 0, 0])
        pinhole, region = K, full
        if coefficients.any():
            pinhole, found = cv2.getOptimalNewCameraMatrix(K, coefficients, size, 0)
            region = (int(found[0]), int(found[1]), int(found[2]), int(found[3]))
            if region[2] < 1 or region[3] < 1:
                raise InputError(
                    "distortion parameters k1, k2, k3, p1, p2 leave no valid pixel after undistortion; check them."
                )
        return _Lens(K, coefficients, pinhole, size, region, False)

    @property
    def is_distorted(self) -> bool:
        return bool(self.coefficients.any())

    def fisheye_maps(self) -> tuple[Array, Array]:
        maps = cv2.fisheye.initUndistortRectifyMap(
            self.K, self.coefficients, np.eye(3), self.pinhole, self.size, cv2.CV_32FC1
        )
        return maps[0], maps[1]

    def crop(self, image: Array) -> Array:
        x, y, width, height = self.region
        return image[y : y + height, x : x + width]

    def cropped_matrix(self) -> Array:
        K = self.pinhole.copy()
        K[0, 2] = K[0, 2] - self.region[0] + 0.5
        K[1, 2] = K[1, 2] - self.region[1] + 0.5
        return K.astype(np.float64)


def unsupported_camera_model(name: str) -> InputError:
    return InputError(f"camera_model {name!r} is not supported; use one of {', '.join(CAMERA_MODELS)}.")
