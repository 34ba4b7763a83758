"""Checks of a reconstruction: planted faults are found, and nothing where nothing is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fit3d_ns.reconstruction.model import Model
from fit3d_ns.reconstruction.quality import exposure_stops, find_faults, position_jumps

N, P = 24, 600


def model() -> tuple[Model, np.ndarray, np.ndarray]:
    """Photos along an arc, each seeing a stretch of the points; their sharpness, and grey values of observations."""
    generator = np.random.default_rng(0)
    angles = np.linspace(0, 2, N)
    centres = np.stack([np.cos(angles), np.sin(angles), np.zeros(N)], axis=1) * 3
    centres += generator.normal(0, 0.01, centres.shape)
    first = np.linspace(0, P - 200, N).astype(int)
    photo = np.repeat(np.arange(N), 200)
    point = np.concatenate([np.arange(start, start + 200) for start in first])
    grey = generator.uniform(30, 180, P)
    values = grey[point] * generator.normal(1, 0.03, len(point))
    names = [f"frame_{index:05d}.jpg" for index in range(N)]
    xy = generator.uniform(0, 500, (len(point), 2))
    return Model(names, centres, photo, point, xy, 1000, 0.7, []), generator.uniform(80, 120, N), values


def faults(
    the_model: Model, sharp: np.ndarray, values: np.ndarray, total: int = N, sizes: tuple[int, ...] = (N,)
) -> dict:
    return {finding.what: finding for finding in find_faults(the_model, total, sizes, sharp, values)}


def test_a_good_reconstruction_has_no_faults() -> None:
    assert faults(*model()) == {}


def test_a_planted_jump_is_found_and_it_alone() -> None:
    good, sharp, values = model()
    centres = good.centres.copy()
    centres[7] += [0, 0, 5]
    found = faults(replace(good, centres=centres), sharp, values)
    assert list(found) == ["position-jumps"]
    assert found["position-jumps"].photos == ["frame_00007.jpg"]


def test_a_planted_exposure_jump_is_found_and_it_alone() -> None:
    good, sharp, values = model()
    darker = values.copy()
    darker[good.photo == 11] *= 0.6
    found = faults(good, sharp, darker)
    assert list(found) == ["exposure-jumps"]
    assert found["exposure-jumps"].photos == ["frame_00011.jpg"]


def test_exposure_is_measured_on_the_same_points_whatever_else_a_photo_shows() -> None:
    good, _, _ = model()
    grey = np.linspace(40, 160, P)  # the scene grows brighter along the way: no exposure
    values = grey[good.point]
    assert np.ptp(exposure_stops(good.photo, good.point, values, N)) < 0.05
    values[good.photo == 3] *= 2 ** (0.5 / 2.2)
    stops = exposure_stops(good.photo, good.point, values, N)
    assert stops[3] - np.median(stops) == pytest.approx(0.5, abs=0.05)


def test_a_blurred_photo_is_found_and_it_alone() -> None:
    good, sharp, values = model()
    sharp[5] = 15
    found = faults(good, sharp, values)
    assert list(found) == ["blurred-photos"]
    assert found["blurred-photos"].photos == ["frame_00005.jpg"]


def test_a_photo_with_few_points_is_found() -> None:
    good, sharp, values = model()
    kept = (good.photo != 4) | (np.cumsum(good.photo == 4) <= 20)
    thin = replace(good, photo=good.photo[kept], point=good.point[kept], xy=good.xy[kept])
    found = faults(thin, sharp, values[kept])
    assert found["few-points"].photos == ["frame_00004.jpg"]


@pytest.mark.parametrize(("total", "word"), [(28, "missing"), (60, "do not trust")])
def test_a_low_share_says_what_to_do(total: int, word: str) -> None:
    found = faults(*model(), total=total)
    assert list(found) == ["share"]
    assert word in found["share"].message


def test_parts_that_do_not_join_are_named() -> None:
    found = faults(*model(), sizes=(N, 9, 4))
    assert "9, 4 photos" in found["several-models"].message


def test_a_large_error_is_judged_by_the_size_of_the_photos() -> None:
    good, sharp, values = model()
    assert list(faults(replace(good, error=1.8), sharp, values)) == ["reprojection-error"]
    assert faults(replace(good, error=1.8, longest_side=4000), sharp, values) == {}


def test_photos_that_share_nothing_are_not_called_jumps() -> None:
    assert not position_jumps(np.arange(9.0).reshape(3, 3), np.zeros((3, 3))).any()
