"""Products in registers against float64."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit
from numpy.typing import NDArray

from fit3d_ns.rasterization.threads import thread_count

thread_count()  # sets Numba up as the kernels want it

from fit3d_ns.rasterization import _microkernels as micro  # noqa: E402

CAPACITY, TABLE = 24, 40
WIDTHS = [16, 17, 40, 64, 65, 130]

Array = NDArray[np.float32]


@njit
def _outer(weights, rows, counts, features, channels, sums):  # type: ignore[no-untyped-def]
    micro.add_outer(weights, rows, counts, CAPACITY, features, channels, sums)


@njit
def _inner(weights, rows, counts, gradients, channels, sums):  # type: ignore[no-untyped-def]
    micro.add_inner(weights, rows, counts, CAPACITY, gradients, channels, sums)


@njit
def _dot(features, rows, count, gradients, channels, out):  # type: ignore[no-untyped-def]
    micro.dot_channels(features, rows, 3, count, gradients, 5, channels, out, 2)


@njit
def _transpose(pixels, channels, out):  # type: ignore[no-untyped-def]
    micro.transpose_row(pixels, 3, channels, out, 7)


@njit
def _sparse(values, rows, begin, end, dense, channels, out):  # type: ignore[no-untyped-def]
    micro.sparse_row(values, rows, begin, end, dense, channels, out, 4)


@njit
def _pixel(sums, share, background, image, channels):  # type: ignore[no-untyped-def]
    micro.write_pixel(sums, 2, share, background, image, 3, channels)


def lists(seed: int) -> tuple[Array, NDArray[np.int32], NDArray[np.int64]]:
    """Weights [32, CAPACITY, 8], rows and counts of every length; what lies beyond the counts must not matter."""
    random = np.random.default_rng(seed)
    counts = random.permutation(np.arange(32) % (CAPACITY + 1)).astype(np.int64)
    rows = np.stack([random.permutation(TABLE)[:CAPACITY] for _ in range(32)]).astype(np.int32)
    weights = random.standard_normal((32, CAPACITY, 8)).astype(np.float32)
    weights[np.arange(CAPACITY)[None, :] >= counts[:, None]] = np.nan
    return weights, rows, counts


def close(ours: NDArray[np.floating], exact: NDArray[np.floating]) -> bool:
    return bool(np.abs(ours - exact).max() <= 2e-6 * np.abs(exact).max())


@pytest.mark.parametrize("channels", WIDTHS)
def test_features_reach_the_pixels_of_their_lists(channels: int) -> None:
    weights, rows, counts = lists(channels)
    random = np.random.default_rng(1)
    features = random.standard_normal((TABLE, channels)).astype(np.float32)
    sums = random.standard_normal((256, channels)).astype(np.float32)
    exact = sums.astype(np.float64)
    for number, count in enumerate(counts):
        exact[8 * number : 8 * number + 8] += (
            weights[number, :count].T.astype(np.float64) @ features[rows[number, :count]]
        )
    _outer(weights.ravel(), rows.ravel(), counts, features.ravel(), channels, sums.ravel())
    assert close(sums, exact)


@pytest.mark.parametrize("channels", WIDTHS)
def test_gradients_reach_the_gaussians_of_their_lists(channels: int) -> None:
    weights, rows, counts = lists(channels)
    random = np.random.default_rng(2)
    gradients = random.standard_normal((256, channels)).astype(np.float32)
    sums = random.standard_normal((TABLE, channels)).astype(np.float32)
    exact = sums.astype(np.float64)
    for number, count in enumerate(counts):
        pixels = gradients[8 * number : 8 * number + 8].astype(np.float64)
        exact[rows[number, :count]] += weights[number, :count] @ pixels
    _inner(weights.ravel(), rows.ravel(), counts, gradients.ravel(), channels, sums.ravel())
    assert close(sums, exact)


@pytest.mark.parametrize("channels", WIDTHS)
@pytest.mark.parametrize("count", [1, 7, 8, 21])
def test_gradients_of_weights_are_dot_products_over_channels(channels: int, count: int) -> None:
    random = np.random.default_rng(3)
    features = random.standard_normal((TABLE, channels)).astype(np.float32)
    gradients = random.standard_normal((channels, 16)).astype(np.float32)
    rows = random.integers(0, TABLE, CAPACITY).astype(np.int32)
    out = np.zeros(2 + 16 * (count + 8), np.float32)
    _dot(features.ravel(), rows, count, np.concatenate([np.zeros(5, np.float32), gradients.ravel()]), channels, out)
    exact = features[rows[3 : 3 + count]].astype(np.float64) @ gradients
    assert close(out[2 : 2 + 16 * count].reshape(count, 16), exact)


@pytest.mark.parametrize("channels", WIDTHS)
def test_a_row_of_pixels_is_transposed(channels: int) -> None:
    pixels = np.arange(3 + 16 * channels, dtype=np.float32)
    out = np.zeros(7 + 16 * channels, np.float32)
    _transpose(pixels, channels, out)
    assert np.array_equal(out[7:].reshape(channels, 16), pixels[3:].reshape(16, channels).T)


@pytest.mark.parametrize("channels", WIDTHS)
@pytest.mark.parametrize("entries", [(0, 0), (2, 3), (1, 9), (0, CAPACITY)])
def test_a_sparse_row_is_the_weighted_sum_of_the_rows_it_names(channels: int, entries: tuple[int, int]) -> None:
    random = np.random.default_rng(4)
    dense = random.standard_normal((TABLE, channels)).astype(np.float32)
    values = random.standard_normal(CAPACITY).astype(np.float32)
    rows = random.integers(0, TABLE, CAPACITY).astype(np.int32)
    out = np.full(4 + channels, np.nan, np.float32)
    _sparse(values, rows, *entries, dense.ravel(), channels, out)
    chosen = slice(*entries)
    exact = values[chosen].astype(np.float64) @ dense[rows[chosen]]
    assert np.abs(out[4:] - exact).max() <= 2e-6 * max(1.0, np.abs(exact).max())


@pytest.mark.parametrize("channels", WIDTHS)
def test_a_pixel_is_its_sums_over_the_background(channels: int) -> None:
    random = np.random.default_rng(5)
    sums, background = random.random(2 + channels, np.float32), random.random(channels, np.float32)
    image = np.full(3 + channels + 1, -1.0, np.float32)
    _pixel(sums, np.float32(0.25), background, image, channels)
    assert close(image[3:-1], sums[2:].astype(np.float64) + 0.25 * background)
    assert image[0] == image[-1] == -1.0
