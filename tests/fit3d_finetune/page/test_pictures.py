"""Pictures that compare two backbones: equal features look equal, and a click finds the patch under it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fit3d_finetune.page.features import PhotoFeatures
from fit3d_finetune.page.pictures import (
    MOST_CLUSTERS,
    cluster_pictures,
    colour_pictures,
    depth_picture,
    enlarge,
    mark,
    patch_at,
    similarity_pictures,
)
from fit3d_finetune.report.pictures import colour_scale

side = st.integers(1, 300)


def features_of(original: torch.Tensor, finetuned: torch.Tensor) -> PhotoFeatures:
    return PhotoFeatures(original, finetuned, None, None)


def some_features(rows: int = 5, columns: int = 8, channels: int = 24) -> PhotoFeatures:
    """Two maps that differ in scale and place, as those of two backbones may."""
    random = torch.Generator().manual_seed(3)
    original = torch.randn(rows, columns, channels, generator=random)
    return features_of(original, 2 * torch.randn(rows, columns, channels, generator=random) + 1)


def with_shared_patch(features: PhotoFeatures) -> PhotoFeatures:
    """The same, with one feature in both maps, at different places."""
    features.finetuned[4, 1] = features.original[2, 6]
    return features


def test_the_same_feature_has_the_same_colour_in_both() -> None:
    features = with_shared_patch(some_features())
    original, finetuned = colour_pictures(features)
    assert original.shape == finetuned.shape == (5, 8, 3)
    assert (original[2, 6] == finetuned[4, 1]).all()
    # Had each been fitted alone, both would fill the range alike; together the shift between them shows.
    assert np.abs(original.mean((0, 1)) - finetuned.mean((0, 1))).max() > 30


def test_swapping_the_backbones_swaps_the_pictures() -> None:
    features = some_features()
    swapped = colour_pictures(features_of(features.finetuned, features.original))
    for ours, theirs in zip(colour_pictures(features), reversed(swapped), strict=True):
        assert np.abs(ours.astype(int) - theirs).max() <= 1


@pytest.mark.parametrize("count", [2, 5, 12])
def test_the_same_feature_is_in_the_same_cluster_in_both(count: int) -> None:
    original, finetuned = cluster_pictures(with_shared_patch(some_features()), count)
    assert (original[2, 6] == finetuned[4, 1]).all()
    colours = np.unique(np.concatenate([original, finetuned]).reshape(-1, 3), axis=0)
    assert 1 < len(colours) <= count


def test_clusters_that_are_apart_are_found_in_whichever_map_they_are() -> None:
    kinds = 10 * torch.eye(3, 24)
    left, right = torch.tensor([[0, 0, 1], [0, 1, 1]]), torch.tensor([[2, 2, 1], [2, 2, 2]])
    original, finetuned = cluster_pictures(features_of(kinds[left], kinds[right]), 3)
    found = {tuple(colour) for picture in (original, finetuned) for colour in picture.reshape(-1, 3)}
    assert len(found) == 3
    for picture, labels in ((original, left), (finetuned, right)):
        for kind in range(3):
            assert len(np.unique(picture[labels.numpy() == kind], axis=0)) <= 1
    assert (original[0, 2] == finetuned[0, 2]).all()


def test_clusters_are_the_same_every_time() -> None:
    first = cluster_pictures(some_features(), 6)
    torch.manual_seed(7)
    np.random.seed(7)
    for ours, theirs in zip(first, cluster_pictures(some_features(), 6), strict=True):
        assert (ours == theirs).all()


@pytest.mark.parametrize("count", [-1, 0, 1, 50])
def test_a_count_of_clusters_out_of_range_is_brought_into_it(count: int) -> None:
    pictures = np.concatenate(cluster_pictures(some_features(8, 8), count))
    assert 1 < len(np.unique(pictures.reshape(-1, 3), axis=0)) <= MOST_CLUSTERS


@pytest.mark.parametrize("grid", [(1, 1), (1, 2), (3, 1)])
def test_the_smallest_photos_have_pictures(grid: tuple[int, int]) -> None:
    features = some_features(*grid)
    for pictures in (
        colour_pictures(features),
        cluster_pictures(features, 12),
        similarity_pictures(features, 0, 0).pictures,
    ):
        assert all(picture.shape == (*grid, 3) for picture in pictures)


def test_a_plain_photo_has_plain_pictures() -> None:
    features = features_of(torch.ones(4, 6, 24), torch.ones(4, 6, 24))
    for pictures in (
        colour_pictures(features),
        cluster_pictures(features, 6),
        similarity_pictures(features, 1, 1).pictures,
    ):
        assert len(np.unique(np.concatenate(pictures).reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize("swapped", [False, True])
def test_similarity_is_each_maps_own_cosine_on_one_scale(swapped: bool) -> None:
    features = some_features()
    if swapped:  # so that the lowest cosine is once in either map
        features = features_of(features.finetuned, features.original)
    found, scale = similarity_pictures(features, 1, 5), colour_scale("heat").astype(int)
    for picture, map in zip(found.pictures, features.maps, strict=True):
        cosine = torch.cosine_similarity(map, map[1, 5].expand_as(map), dim=-1).numpy()
        share = np.abs(picture[:, :, None].astype(int) - scale).sum(-1).argmin(-1) / 255
        assert share == pytest.approx((cosine - found.lowest) / (1 - found.lowest), abs=0.003)
        assert (picture[1, 5] == scale[-1]).all()
    assert sum((picture == scale[0]).all(-1).any() for picture in found.pictures) == 1


def test_depth_grows_from_dark_to_bright_and_the_ratio_is_that_of_its_ends() -> None:
    depth = np.linspace(2.0, 8.0, 60).reshape(6, 10)
    drawn = depth_picture(depth)
    luminance = drawn.picture.astype(float) @ [0.3, 0.6, 0.1]
    assert (np.diff(luminance.ravel()) >= 0).all()
    assert drawn.ratio == pytest.approx(depth_picture(3 * depth).ratio)
    assert drawn.ratio == pytest.approx(4, abs=0.3)


@given(side, side, st.integers(1, 40), st.integers(1, 40))
def test_a_click_finds_the_square_under_it(height: int, width: int, h: int, w: int) -> None:
    grid = np.stack(np.broadcast_arrays(*np.ogrid[:h, :w], 0), axis=-1)
    large = enlarge(grid, (height, width))
    assert large.shape == (height, width, 3)
    for y in {0, height // 3, height - 1}:
        for x in {0, width // 2, width - 1}:
            assert patch_at(x, y, (height, width), (h, w)) == tuple(large[y, x, :2])


def test_width_and_height_of_a_click_are_not_confused() -> None:
    # 320 wide, 96 high: 20 columns, 6 rows.
    assert patch_at(319, 0, (96, 320), (6, 20)) == (0, 19)
    assert patch_at(0, 95, (96, 320), (6, 20)) == (5, 0)
    assert patch_at(100.7, 50.2, (96, 320), (6, 20)) == (3, 6)


def test_a_click_beside_the_picture_counts_as_on_its_edge() -> None:
    assert patch_at(-3, 1000, (96, 320), (6, 20)) == (5, 0)
    assert patch_at(320, 96, (96, 320), (6, 20)) == (5, 19)


def test_the_mark_surrounds_its_patch_and_leaves_the_picture_alone() -> None:
    picture = np.full((96, 320, 3), 90, dtype=np.uint8)
    marked = mark(picture, 2, 15, (6, 20))
    assert (picture == 90).all()
    assert (marked[40, 248] == 90).all(), "the middle of the patch stays to be seen"
    rows, columns = np.nonzero((marked != 90).any(-1))
    assert rows.mean() == pytest.approx(40, abs=1)
    assert columns.mean() == pytest.approx(248, abs=1)
