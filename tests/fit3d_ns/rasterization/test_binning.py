"""Tile lists against every pixel of the image in float64: nothing that counts is missing, little else is listed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fit3d_ns.rasterization.binning import TileLists, bin_gaussians
from fit3d_ns.rasterization.threads import kernel_launch

WIDTH, HEIGHT, TILE = 200, 150, 16
COLUMNS, ROWS = -(-WIDTH // TILE), -(-HEIGHT // TILE)

Ellipses = dict[str, np.ndarray[Any, Any]]


def ellipses(seed: int, n: int, sizes: tuple[float, float], thin: float) -> Ellipses:
    """Gaussians in and around the image; sizes: standard deviations in pixels, thin: largest ratio of the two."""
    random = np.random.default_rng(seed)
    long = np.exp(random.uniform(*np.log(sizes), n))
    short = np.maximum(long / np.exp(random.uniform(0, np.log(thin), n)), 0.55)
    angle = random.uniform(0, np.pi, n)
    c, s = np.cos(angle), np.sin(angle)
    xx, xy, yy = (c * long) ** 2 + (s * short) ** 2, c * s * (long**2 - short**2), (s * long) ** 2 + (c * short) ** 2
    return {
        "means2d": random.uniform((-60, -60), (WIDTH + 60, HEIGHT + 60), (n, 2)).astype(np.float32),
        "ldl": np.stack([yy / (xx * yy - xy**2), -xy / yy, 1 / yy], axis=1).astype(np.float32),
        "opacities": np.exp(random.uniform(np.log(1 / 255), 0, n)).astype(np.float32),
        "depths": random.uniform(0.5, 9, n).astype(np.float32),
        "radii": np.ceil(3 * np.maximum(long, short)).astype(np.int32),
    }


def binned(given_: Ellipses) -> TileLists:
    with kernel_launch():
        return bin_gaussians(**given_, width=WIDTH, height=HEIGHT)


def listed(lists: TileLists, n: int) -> np.ndarray[Any, Any]:
    """[n, tiles] bool."""
    found = np.zeros((n, ROWS * COLUMNS), bool)
    for tile in range(ROWS * COLUMNS):
        found[lists.ids[lists.lists[lists.offsets[tile] : lists.offsets[tile + 1]]], tile] = True
    return found


def counting(given_: Ellipses, growth: float) -> np.ndarray[Any, Any]:
    """[n, tiles] bool: whether alpha of a pixel centre is 1/255 or more times exp(-growth), in gsplat's square."""
    a, k, d = given_["ldl"].astype(np.float64).T[..., None, None]
    x, y = given_["means2d"].astype(np.float64).T[..., None, None]
    dx, dy = np.arange(COLUMNS * TILE) + 0.5 - x, np.arange(ROWS * TILE)[:, None] + 0.5 - y
    sigma = a / 2 * (dx + k * dy) ** 2 + d / 2 * dy**2
    limit = np.log(255 * given_["opacities"].astype(np.float64))[:, None, None] + growth
    hit = (sigma <= limit) & (np.arange(COLUMNS * TILE) < WIDTH) & (np.arange(ROWS * TILE)[:, None] < HEIGHT)
    tiles = hit.reshape(-1, ROWS, TILE, COLUMNS, TILE).any((2, 4))
    radius = given_["radii"][:, None]
    left, top = np.arange(COLUMNS) * TILE, np.arange(ROWS) * TILE
    across = (left < x[:, 0] + radius) & (left + TILE > x[:, 0] - radius)
    down = (top < y[:, 0] + radius) & (top + TILE > y[:, 0] - radius)
    return (tiles & down[:, :, None] & across[:, None, :]).reshape(len(radius), -1)


@settings(deadline=None)  # the first example may compile the kernels
@given(
    seed=st.integers(0, 2**31),
    sizes=st.sampled_from([(0.6, 3.0), (2.0, 30.0), (20.0, 400.0), (0.6, 2000.0)]),
    thin=st.sampled_from([1.001, 5.0, 300.0]),
)
def test_every_tile_with_a_pixel_that_counts_is_listed(seed: int, sizes: tuple[float, float], thin: float) -> None:
    scene = ellipses(seed, 60, sizes, thin)
    missing = counting(scene, -1e-4) & ~listed(binned(scene), 60)
    assert not missing.any()


@pytest.mark.parametrize("thin", [1.001, 5.0])
def test_few_tiles_are_listed_for_nothing(thin: float) -> None:
    scene = ellipses(1, 3000, (2.0, 30.0), thin)
    assert listed(binned(scene), 3000).sum() <= 1.1 * counting(scene, 0.0).sum()


def test_lists_go_front_to_back_and_hold_nothing_twice() -> None:
    scene = ellipses(2, 3000, (0.6, 30.0), 5.0)
    lists = binned(scene)
    assert (np.diff(scene["depths"][lists.ids]) >= 0).all()
    for tile in range(ROWS * COLUMNS):
        assert (np.diff(lists.lists[lists.offsets[tile] : lists.offsets[tile + 1]]) > 0).all()


def test_the_sigma_that_still_counts_is_that_of_libm() -> None:
    scene = ellipses(3, 5000, (2.0, 3.0), 2.0)
    scene["opacities"][:4] = 1.0, 1 / 255, np.nextafter(np.float32(1), np.float32(0)), 0.5
    lists = binned(scene)
    found = lists.packed.reshape(-1, 12)[:, 6] * 8
    expected = np.log(255 * scene["opacities"][lists.ids].astype(np.float64))
    np.testing.assert_allclose(found, expected, rtol=2e-7, atol=2e-7)
