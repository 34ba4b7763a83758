"""Frames of a video: sharp ones, spread over the way of the camera."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest

from fit3d_ns.reconstruction.frames import LOST, STEP, measured_image, motion, pick_frames, sharpness


def texture(width: int = 900, height: int = 300) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (height // 6, width // 6), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def window(left: float) -> np.ndarray:
    """What a camera sees that looks at the texture from `left` pixels on: [300, 400]."""
    return texture()[:, round(left) : round(left) + 400]


def test_blur_lowers_sharpness() -> None:
    sharp = window(0)
    values = [sharpness(cv2.GaussianBlur(sharp, (0, 0), sigma)) for sigma in (1, 2, 4)]
    assert sharpness(sharp) > values[0] > values[1] > values[2]


@pytest.mark.parametrize("pixels", [0, 4, 20])
def test_motion_is_the_way_of_the_picture(pixels: int) -> None:
    assert motion(window(100), window(100 + pixels)) == pytest.approx(pixels / 400, abs=0.002)


def test_a_cut_counts_as_lost_and_an_empty_wall_as_standing() -> None:
    other = np.random.default_rng(1).integers(0, 256, (50, 67), dtype=np.uint8)
    assert motion(window(0), cv2.resize(other, (400, 300))) == LOST
    wall = np.full((300, 400), 128, np.uint8)
    assert motion(wall, wall) == 0.0


def test_a_blurred_frame_in_between_is_no_cut() -> None:
    blurred = cv2.GaussianBlur(window(104), (0, 0), 3)
    assert motion(window(100), blurred) < 0.05
    assert motion(blurred, window(108)) < 0.05


def test_images_are_measured_in_grey_at_one_size() -> None:
    image = np.zeros((1080, 1920, 3), np.uint8)
    assert measured_image(image).shape == (360, 640)
    assert measured_image(image[:100, :200]).shape == (100, 200)


def test_of_each_stretch_the_sharp_frame_is_picked_and_blurred_ones_are_not() -> None:
    count = 60
    sharp = np.where(np.arange(count) % 3 == 1, 1.0, 0.2)
    picked = pick_frames(sharp, np.full(count, STEP / 6), most=100)
    assert len(picked) >= 8
    assert all(sharp[index] == 1.0 for index in picked)
    assert picked == sorted(set(picked))


def test_frames_of_a_real_sequence_are_picked_by_what_is_seen() -> None:
    seen = []
    for index in range(40):
        frame = window(index * 8)
        seen.append(frame if index % 4 == 2 else cv2.GaussianBlur(frame, (0, 0), 3))
    sharp = np.array([sharpness(frame) for frame in seen])
    moved = np.array([0.0, *(motion(a, b) for a, b in pairwise(seen))])
    picked = pick_frames(sharp, moved, most=9)
    assert 7 <= len(picked) <= 9
    assert all(index % 4 == 2 for index in picked)


def test_a_camera_that_stands_gives_one_frame() -> None:
    moved = np.concatenate([np.full(30, 0.01), np.zeros(300), np.full(30, 0.01)])
    picked = pick_frames(np.random.default_rng(0).random(360), moved, most=100)
    assert sum(30 <= index < 330 for index in picked) <= 1
    assert len(picked) >= 12


@pytest.mark.parametrize("most", [1, 3, 10, 40])
def test_there_are_never_more_frames_than_allowed_and_they_span_the_way(most: int) -> None:
    generator = np.random.default_rng(most)
    moved = generator.random(200) * 0.1
    picked = pick_frames(generator.random(200), moved, most)
    assert len(picked) <= most
    way = np.cumsum(moved)
    gaps = np.diff(way[picked])
    if most >= 3:
        assert gaps.max() <= 2 * way[-1] / len(picked)
        assert gaps.min() >= 0.2 * way[-1] / most


def test_frames_that_jump_are_each_taken() -> None:
    assert pick_frames(np.ones(8), np.full(8, LOST), most=100) == list(range(8))


def test_no_frames_give_none() -> None:
    assert pick_frames(np.empty(0), np.empty(0), 5) == []
