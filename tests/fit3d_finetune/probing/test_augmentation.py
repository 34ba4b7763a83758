"""Augmentation against plain loops and known answers: labels move with their pixels, and nothing leaves its range."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fit3d_finetune.probing.augmentation import (
    coloured,
    fitted_size,
    mirrored,
    padded,
    photometric_distortion,
    random_region,
    resize,
    resize_labels,
    rotated,
    scaled_sides,
    varied_region,
)

sides = st.integers(1, 90)


class Scripted:
    """A generator that gives what it is told, and fails where more or other numbers are drawn."""

    def __init__(self, *values: float) -> None:
        self.values = list(values)

    def integers(self, low: int, high: int | None = None) -> int:
        value = int(self.values.pop(0))
        assert (0 if high is None else low) <= value < (low if high is None else high)
        return value

    def uniform(self, low: float, high: float, size: int | None = None) -> float | np.ndarray:
        value = self.values.pop(0)
        assert low <= value <= high
        return value if size is None else np.full(size, value)


def numbered(height: int, width: int) -> np.ndarray:
    """An image whose red says the column, green the row."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8)


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_an_image_fits_into_both_sides_and_touches_one(height: int, width: int) -> None:
    h, w = fitted_size((height, width), (2048, 512))
    assert max(h, w) <= 2048
    assert min(h, w) <= 512
    assert max(h, w) == 2048 or min(h, w) == 512
    assert fitted_size((width, height), (2048, 512)) == (w, h)


def test_scales_cover_their_range_and_multiply_both_sides() -> None:
    random = np.random.default_rng(0)
    drawn = np.array([scaled_sides((2048, 512), (0.5, 2.0), random) for _ in range(2000)])
    factors = drawn[:, 1] / 512
    assert 0.5 - 1 / 512 <= factors.min() < 0.52
    assert 1.98 < factors.max() <= 2
    assert abs(factors.mean() - 1.25) < 0.03
    np.testing.assert_allclose(drawn[:, 0] / 2048, factors, atol=2 / 512)


@settings(max_examples=50)
@given(sides, sides, sides, sides, st.integers(0, 99))
def test_a_region_has_the_size_of_the_crop_or_of_the_image(H: int, W: int, h: int, w: int, seed: int) -> None:
    rows, columns = random_region((H, W), (h, w), np.random.default_rng(seed))
    assert (rows.stop - rows.start, columns.stop - columns.start) == (min(h, H), min(w, W))
    assert numbered(H, W)[rows, columns].shape[:2] == (min(h, H), min(w, W))


def test_regions_reach_every_border() -> None:
    drawn = [random_region((7, 9), (4, 5), np.random.default_rng(seed)) for seed in range(200)]
    assert {rows.start for rows, _ in drawn} == {0, 1, 2, 3}
    assert {columns.start for _, columns in drawn} == {0, 1, 2, 3, 4}


def test_crops_with_one_class_are_drawn_again_and_void_does_not_count() -> None:
    labels = np.zeros((40, 40), np.uint8)
    labels[:, 30:] = 1
    labels[:, 36:] = 255

    def varied(tries: int) -> float:
        """Share of draws in which no class has 75 % of what is labelled."""
        good = 0
        for seed in range(300):
            cut = labels[varied_region(labels, (12, 12), 0.75, tries, 255, np.random.default_rng(seed))]
            counts = np.bincount(cut[cut != 255], minlength=2)
            good += counts.max() < 0.75 * counts.sum()
        return good / 300

    # 29 places, of which those from column 22 to 28 show 4 to 6 columns of class 1 beside 8 to 2 of class 0.
    assert 0.15 < varied(0) < 0.35
    assert varied(10) > 0.9
    only = np.full((20, 20), 3, np.uint8)
    assert only[varied_region(only, (5, 5), 0.75, 10, 255, np.random.default_rng(0))].shape == (5, 5), "it ends"


def test_ten_crops_are_drawn_again_at_most() -> None:
    labels, draws = np.zeros((9, 9), np.uint8), []

    class Counting:
        def integers(self, low: int, high: int) -> int:
            draws.append((low, high))
            return low

    varied_region(labels, (3, 3), 0.75, 10, 255, Counting())  # type: ignore[arg-type]
    assert len(draws) == 2 * 11


def test_labels_move_with_their_pixels() -> None:
    image = numbered(20, 30)
    labels = image[..., 0].copy()
    turned, labels_turned = mirrored(image, labels)
    np.testing.assert_array_equal(turned[..., 0], labels_turned)
    np.testing.assert_array_equal(labels_turned, labels[:, ::-1])
    assert resize_labels(labels, (40, 60)).shape == (40, 60)
    np.testing.assert_array_equal(resize_labels(labels, (40, 60)), labels.repeat(2, 0).repeat(2, 1))
    near = resize(image, (40, 60))[..., 0].astype(int) - resize_labels(labels, (40, 60))
    assert np.abs(near).max() <= 1
    assert set(np.unique(resize_labels(labels, (7, 11)))) <= set(np.unique(labels)), "no class between two others"


def test_padding_goes_on_to_the_right_and_below() -> None:
    values = np.ones((2, 3), np.uint8)
    np.testing.assert_array_equal(padded(values, (3, 5), 255), [[1, 1, 1, 255, 255]] * 2 + [[255] * 5])


def test_image_and_depth_turn_together_clockwise_and_unknown_depth_comes_in() -> None:
    image = np.zeros((101, 101, 3), np.uint8)
    depth = np.full((101, 101), 2.0, np.float32)
    cv2.circle(image, (90, 50), 4, (255, 255, 255), -1)  # to the right of the centre
    depth[46:55, 86:95] = 5.0
    turned, depth_turned = rotated(image, depth, 90.0)
    assert np.argwhere(turned[..., 0] > 200).mean(0) == pytest.approx([90, 50], abs=0.5), "below it"
    assert np.argwhere(depth_turned == 5).mean(0) == pytest.approx([90, 50], abs=0.5)
    _, tilted = rotated(image, depth, 2.5)
    assert set(np.unique(tilted)) == {0, 2, 5}, "depth is never mixed"
    assert 0 < (tilted == 0).mean() < 0.05
    same, same_depth = rotated(image, depth, 0.0)
    np.testing.assert_array_equal(same, image)
    np.testing.assert_array_equal(same_depth, depth)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_distortion_keeps_shape_type_and_range(seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (13, 17, 3), dtype=np.uint8)
    kept = image.copy()
    found = photometric_distortion(image, np.random.default_rng(seed))
    assert found.shape == image.shape
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(image, kept, "the image that was given is untouched")


def test_each_distortion_does_what_it_says() -> None:
    image = np.array([[[200, 100, 50], [10, 20, 30]]], np.uint8)
    # brightness?, contrast first?, contrast?, saturation?, hue?
    np.testing.assert_array_equal(photometric_distortion(image, Scripted(0, 1, 0, 0, 0)), image)  # type: ignore[arg-type]
    brighter = photometric_distortion(image, Scripted(1, 30.0, 1, 0, 0, 0))  # type: ignore[arg-type]
    np.testing.assert_array_equal(brighter, [[[230, 130, 80], [40, 50, 60]]])
    contrast = [[[255, 150, 75], [15, 30, 45]]]
    first = photometric_distortion(image, Scripted(0, 1, 1, 1.5, 0, 0))  # type: ignore[arg-type]
    last = photometric_distortion(image, Scripted(0, 0, 0, 0, 1, 1.5))  # type: ignore[arg-type]
    np.testing.assert_array_equal(first, contrast)
    np.testing.assert_array_equal(last, contrast)


def test_saturation_and_hue_change_in_the_colours_of_the_image_not_with_red_and_blue_swapped() -> None:
    image = np.array([[[200, 100, 50]]], np.uint8)
    h, s, v = colorsys.rgb_to_hsv(*(image[0, 0] / 255))
    pale = photometric_distortion(image, Scripted(0, 1, 0, 1, 0.5, 0))  # type: ignore[arg-type]
    np.testing.assert_allclose(pale[0, 0] / 255, colorsys.hsv_to_rgb(h, s / 2, v), atol=0.02)
    turned = photometric_distortion(image, Scripted(0, 1, 0, 0, 1, 10))  # type: ignore[arg-type]
    np.testing.assert_allclose(turned[0, 0] / 255, colorsys.hsv_to_rgb(h + 20 / 360, s, v), atol=0.03)


def test_colours_are_raised_to_a_power_then_scaled_and_cut() -> None:
    image = np.array([[[200, 100, 0]]], np.uint8)
    found = coloured(image, (0.75, 1.25), Scripted(0.95, 1.2, 1.05))  # type: ignore[arg-type]
    expected = [min(255, value**0.95 * 1.2 * 1.05) for value in (200, 100, 0)]
    np.testing.assert_allclose(found[0, 0], expected, rtol=1e-5)
    assert coloured(np.full((1, 1, 3), 255, np.uint8), (1, 1.2), np.random.default_rng(0)).max() <= 255
