"""Pictures of features: equal features look equal, whichever backbone and image they come from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fit3d_finetune.report.pictures import (
    VOID,
    assign_clusters,
    class_colours,
    colour_features,
    colour_labels,
    colour_normals,
    colour_scale,
    colour_values,
    compress_directions,
    cosine_to_patch,
    fit_clusters,
    fit_colours,
    mark_label_errors,
    usual_range,
)


def random_maps(count: int = 2, channels: int = 20) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    scale = torch.linspace(3, 0.1, channels)
    return [torch.randn(5, 7, channels, generator=random) * scale for _ in range(count)]


def test_the_same_feature_has_the_same_colour_and_cluster_in_both_backbones() -> None:
    first, second = random_maps()
    second[2, 3] = first[4, 1]
    projection, centres = fit_colours([first, second]), fit_clusters([first, second], 4)
    colours = [colour_features(map, projection) for map in (first, second)]
    clusters = [assign_clusters(map, centres) for map in (first, second)]
    assert (colours[1][2, 3] == colours[0][4, 1]).all()
    assert clusters[1][2, 3] == clusters[0][4, 1]
    assert not (colours[0] == colours[1]).all()


def test_the_projection_depends_on_every_map() -> None:
    first, second = random_maps()
    assert not torch.allclose(fit_colours([first]).matrix, fit_colours([first, second]).matrix)


def test_kmeans_gives_the_same_clusters_each_time() -> None:
    maps = random_maps()
    torch.manual_seed(1)
    first = fit_clusters(maps, 5)
    torch.manual_seed(2)
    assert torch.equal(first, fit_clusters(maps, 5))


def test_kmeans_finds_separate_clouds_and_names_the_largest_first() -> None:
    clouds = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2, 2] * 2).view(4, 5)
    places = 50 * torch.eye(3, 8)
    map = places[clouds] + 0.1 * torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(0))
    centres = fit_clusters([map], 3)
    assert (assign_clusters(map, centres) == clouds.numpy()).all()
    for cloud in range(3):
        expected = map[clouds == cloud].double().mean(0)
        assert torch.allclose(centres[cloud].double(), expected, atol=1e-4)


def test_kmeans_finds_no_more_clusters_than_there_are_different_patches() -> None:
    map = torch.eye(2, 6)[torch.tensor([[0, 1, 0], [1, 1, 1]])]
    assert len(fit_clusters([map], 8)) == 2


def test_cosine_is_that_of_a_plain_loop() -> None:
    map = random_maps(1)[0]
    found = cosine_to_patch(map, 2, 4)
    picked = map[2, 4].double()
    for row in range(5):
        for column in range(7):
            other = map[row, column].double()
            expected = float(picked @ other / picked.norm() / other.norm())
            assert float(found[row, column]) == pytest.approx(expected, abs=1e-5)


def test_compressed_directions_keep_the_cosines() -> None:
    maps = random_maps(3)
    for map, small in zip(maps, compress_directions(maps, 20), strict=True):
        assert small.dtype == np.int8
        kept = cosine_to_patch(torch.from_numpy(small), 1, 1)
        assert (kept - cosine_to_patch(map, 1, 1)).abs().max() < 0.03


def test_more_directions_keep_cosines_better() -> None:
    map = random_maps(1)[0]
    exact = cosine_to_patch(map, 1, 1)
    errors = []
    for dimensions in (2, 6, 20):
        small = compress_directions([map], dimensions)[0]
        assert small.shape == (5, 7, dimensions)
        errors.append(float((cosine_to_patch(torch.from_numpy(small), 1, 1) - exact).abs().mean()))
    assert errors[0] > errors[1] > errors[2]


def test_class_colours_differ_and_do_not_depend_on_how_many_there_are() -> None:
    many = class_colours(150)
    assert len(np.unique(many, axis=0)) == 150
    assert (class_colours(11) == many[:11]).all()


def test_void_has_a_colour_that_no_class_has() -> None:
    palette = class_colours(5)
    picture = colour_labels(np.array([[0, 4, VOID]]), palette)
    assert (picture[0, :2] == palette[[0, 4]]).all()
    assert not (picture[0, 2] == class_colours(150)).all(1).any()


def test_wrong_pixels_are_red_and_only_they() -> None:
    image = np.full((2, 2, 3), 90, dtype=np.uint8)
    labels, predicted = np.array([[0, 1], [2, VOID]]), np.array([[0, 2], [2, 0]])
    picture = mark_label_errors(image, labels, predicted).astype(int)
    red = picture[..., 0] - picture[..., 1] > 60
    assert (red == [[False, True], [False, False]]).all()


def test_values_run_along_the_scale_and_unknown_ones_are_off_it() -> None:
    scale = colour_scale("depth")
    values = np.array([[0.0, 1.0, 2.0, 9.0, np.nan, 1.0]])
    known = np.array([[True, True, True, True, True, False]])
    picture = colour_values(values, scale, 0.0, 2.0, known)[0]
    assert (picture[0] == scale[0]).all()
    assert (picture[1] == scale[128]).all()
    assert (picture[2] == scale[255]).all()
    assert (picture[3] == scale[255]).all()
    assert (picture[4] == picture[5]).all()
    assert not (picture[4] == scale).all(1).any()


def test_normals_to_the_right_are_red_upwards_green_towards_the_camera_blue_and_unknown_ones_grey() -> None:
    normals = np.array([[[1.0, 0, 0], [0, -1, 0], [0, 0, -1], [0, 0, 0], [-1, 0, 0]]])
    assert colour_normals(normals)[0].tolist() == [
        [255, 128, 128],
        [128, 255, 128],
        [128, 128, 255],
        [128, 128, 128],
        [0, 128, 128],
    ]


def test_the_usual_range_leaves_outliers_and_what_is_no_number_out() -> None:
    values = np.append(np.linspace(1, 2, 1000), [50.0, np.inf, np.nan])
    low, high = usual_range(values)
    assert 1 <= low < 1.05
    assert 1.95 < high <= 2
    assert usual_range(np.array([np.nan])) == (0.0, 1.0)
