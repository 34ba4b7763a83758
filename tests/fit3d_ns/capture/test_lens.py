"""Undistortion is nerfstudio's, number for number."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.datamanagers.full_images_datamanager import _undistort_image

from fit3d_ns.capture.lens import undistort, undistort_mask, undistorted_camera
from fit3d_ns.common.errors import InputError

RANDOM = np.random.default_rng(1)
FOX = [0.0578421, -0.0805099, 0.0, 0.0, -0.000980296, 0.00015575]


def nerfstudio(
    image: np.ndarray, mask: np.ndarray, K: np.ndarray, distortion: list[float], camera_type: CameraType
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """K, image and mask as `FullImageDatamanager._load_images` gets them."""
    height, width = image.shape[:2]
    camera = Cameras(
        camera_to_worlds=torch.eye(4)[None, :3],
        fx=float(K[0, 0]),
        fy=float(K[1, 1]),
        cx=float(K[0, 2]),
        cy=float(K[1, 2]),
        width=width,
        height=height,
        distortion_params=torch.tensor([distortion]),
        camera_type=camera_type,
    )[0]
    assert camera.distortion_params is not None
    data = {"mask": torch.from_numpy(mask)[..., None]}
    K_out, image_out, mask_out = _undistort_image(
        camera.reshape(()),
        camera.distortion_params.numpy().reshape(-1),
        data,
        image,
        camera.reshape(()).get_intrinsics_matrices().numpy(),
    )
    assert mask_out is not None
    return K_out, image_out, mask_out.numpy()[..., 0]


def picture(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    image = cv2.resize(RANDOM.integers(0, 256, (9, 7, 3), dtype=np.uint8), (width, height))
    mask = cv2.resize(RANDOM.integers(0, 2, (9, 7), dtype=np.uint8), (width, height)) > 0
    return image, mask


small = st.floats(-0.1, 0.1)


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(40, 120), st.integers(40, 120)),
    focal=st.tuples(st.floats(0.7, 1.5), st.floats(0.7, 1.5)),
    centre=st.tuples(st.floats(0.4, 0.6), st.floats(0.4, 0.6)),
    radial=st.tuples(small, small, small),
    tangential=st.tuples(st.floats(-0.01, 0.01), st.floats(-0.01, 0.01)),
    as_float=st.booleans(),
)
def test_perspective_cameras_are_undistorted_exactly_as_nerfstudio_does(
    size: tuple[int, int],
    focal: tuple[float, float],
    centre: tuple[float, float],
    radial: tuple[float, float, float],
    tangential: tuple[float, float],
    as_float: bool,
) -> None:
    height, width = size
    side = max(size)
    K = np.array([[focal[0] * side, 0, centre[0] * width], [0, focal[1] * side, centre[1] * height], [0, 0, 1]])
    distortion = [*radial, 0.0, *tangential]
    image, mask = picture(height, width)
    if as_float:
        image = image.astype(np.float32) / 255.0
    expected_K, expected_image, expected_mask = nerfstudio(image, mask, K, distortion, CameraType.PERSPECTIVE)
    got_image, got_K = undistort(image, K, np.array(distortion))
    assert (got_image == expected_image).all()
    assert (got_K == expected_K).all()
    assert (undistort_mask(mask, K, np.array(distortion)) == expected_mask).all()
    camera_K, camera_width, camera_height = undistorted_camera(K, np.array(distortion), width, height)
    assert (camera_K == got_K).all()
    assert (camera_height, camera_width) == got_image.shape[:2]


@pytest.mark.parametrize("model", ["OPENCV", "PINHOLE", "SIMPLE_RADIAL"])
def test_without_distortion_nothing_changes(model: str) -> None:
    image, mask = picture(60, 80)
    K = np.array([[70.0, 0, 41.25], [0, 71.0, 30.5], [0, 0, 1]])
    got_image, got_K = undistort(image, K, np.zeros(6), model)
    assert (got_image == image).all()
    assert (got_K == K).all()
    assert (undistort_mask(mask, K, np.zeros(6), model) == mask).all()
    assert undistorted_camera(K, np.zeros(6), 80, 60, model)[1:] == (80, 60)


def test_fisheye_cameras_are_undistorted_exactly_as_nerfstudio_does() -> None:
    image, mask = picture(90, 120)
    K = np.array([[60.0, 0, 59.0], [0, 61.0, 46.0], [0, 0, 1]])
    distortion = [0.05, -0.01, 0.002, -0.001, 0.0, 0.0]
    expected_K, expected_image, expected_mask = nerfstudio(image, mask, K, distortion, CameraType.FISHEYE)
    got_image, got_K = undistort(image, K, np.array(distortion), "OPENCV_FISHEYE")
    assert (got_image == expected_image).all()
    assert (got_K == expected_K).all()
    assert (undistort_mask(mask, K, np.array(distortion), "OPENCV_FISHEYE") == expected_mask).all()
    camera_K, *size = undistorted_camera(K, np.array(distortion), 120, 90, "OPENCV_FISHEYE")
    assert (camera_K == got_K).all()
    assert size == [120, 90]


def test_the_callers_arrays_are_left_alone() -> None:
    image, mask = picture(60, 80)
    K, distortion = np.array([[70.0, 0, 41.0], [0, 71.0, 30.0], [0, 0, 1]], np.float32), np.array(FOX, np.float32)
    before = [array.copy() for array in (image, mask, K, distortion)]
    undistort(image, K, distortion)
    undistort_mask(mask, K, distortion)
    assert all((a == b).all() for a, b in zip(before, (image, mask, K, distortion), strict=True))


def test_a_straight_line_in_the_world_is_straight_afterwards() -> None:
    """Not only equal to nerfstudio but right: distort points with OpenCV's model, undistort the picture."""
    K = np.array([[300.0, 0, 200.0], [0, 300.0, 150.0], [0, 0, 1]])
    k1, k2, k3, _, p1, p2 = distortion = np.array([0.3, -0.05, 0, 0, 0.001, -0.002])
    world = np.stack([np.linspace(-0.5, 0.5, 400), np.full(400, 0.3), np.ones(400)], axis=1)
    shift = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    points = cv2.projectPoints(world, np.zeros(3), np.zeros(3), K - shift, np.array([k1, k2, p1, p2, k3]))[0][:, 0]
    image = np.zeros((300, 400), np.uint8)
    cv2.polylines(image, [np.rint(points).astype(np.int32)], False, 255)
    flat, flat_K = undistort(image, K, distortion)
    rows = [np.flatnonzero(column > 100).mean() for column in flat.T if (column > 100).any()]
    row = flat_K[1, 1] * 0.3 + flat_K[1, 2] - 0.5
    assert len(rows) > 200
    assert np.abs(np.array(rows) - row).max() < 1.0
    bent = [np.flatnonzero(column).mean() for column in image.T if column.any()]
    assert np.ptp(bent) > 4


def test_unsupported_cameras_are_refused() -> None:
    image, _ = picture(60, 80)
    K = np.array([[70.0, 0, 41.0], [0, 71.0, 30.0], [0, 0, 1]])
    with pytest.raises(InputError, match="camera_model 'EQUIRECTANGULAR' is not supported; use one of"):
        undistort(image, K, np.zeros(6), "EQUIRECTANGULAR")
    with pytest.raises(InputError, match=r"k4 is 0\.1, but only OPENCV_FISHEYE"):
        undistort(image, K, np.array([0, 0, 0, 0.1, 0, 0]))
