"""k-nearest-neighbour segmentation in bounded memory, and its figures from the predicted pixels themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fit3d_finetune.probing.nearest_neighbours as module
from fit3d_finetune.probing.nearest_neighbours import (
    nearest_neighbour_segmentation,
    neighbour_scores,
    patch_labels,
    sample_patches,
    upsample_argmax,
)

Image = tuple[torch.Tensor, np.ndarray]


def images(count: int, seed: int, noise: float = 0.1) -> list[Image]:
    """Images of 6x8 patches of 4x4 pixels of one of four classes each; features are a class vector and noise."""
    random = torch.Generator().manual_seed(seed)
    prototypes = torch.randn(4, 16, generator=torch.Generator().manual_seed(99))
    made = []
    for _ in range(count):
        grid = torch.randint(4, (6, 8), generator=random)
        features = prototypes[grid] + noise * torch.randn(6, 8, 16, generator=random)
        made.append((features, grid.numpy().astype(np.uint8).repeat(4, axis=0).repeat(4, axis=1)))
    return made


def test_chunks_and_strips_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    features, classes = sample_patches(images(4, 0), 4, 1000, seed=0)
    map = torch.randn(6, 8, 16)
    whole = neighbour_scores(map, features, classes, 4, k=7)
    pixels = upsample_argmax(whole, 33, 45)
    monkeypatch.setattr(module, "_CHUNK", 700)  # a few patches, and a few rows, at a time
    torch.testing.assert_close(neighbour_scores(map, features, classes, 4, k=7), whole)
    np.testing.assert_array_equal(upsample_argmax(whole, 33, 45), pixels)


def test_the_sample_is_uniform_over_images_also_after_pruning() -> None:
    data = images(30, seed=0)
    angles = torch.arange(30 * 48).reshape(30, 6, 8, 1) * 1e-3  # the direction of a feature tells its patch
    tagged = [(torch.cat([a.cos(), a.sin()], -1), labels) for a, (_, labels) in zip(angles, data, strict=True)]
    features, classes = sample_patches(tagged, 4, max_patches=200, seed=3)
    drawn = torch.round(torch.atan2(features[:, 1], features[:, 0]) * 1e3).long().numpy()
    assert len(set(drawn.tolist())) == 200
    truth = np.concatenate([patch_labels(labels, (6, 8), 4).ravel() for _, labels in data])
    np.testing.assert_array_equal(classes, truth[drawn])
    assert (abs(np.bincount(drawn // 480, minlength=3) - 200 / 3) < 25).all()  # four standard deviations


def test_the_figures_are_those_of_the_predicted_pixels() -> None:
    train, test = images(6, seed=1, noise=1.5), images(4, seed=2, noise=1.5)
    for _, labels in test:
        labels[:3] = 255
    test[3][1][:] = 255  # an image without any label
    result = nearest_neighbour_segmentation(train, test, 6, counted=[0, 2, 3], k=5, max_train_patches=100)
    features, classes = sample_patches(train, 6, 100, 0)
    predicted = [upsample_argmax(neighbour_scores(map, features, classes, 6, 5), 24, 32) for map, _ in test]
    hits = [(guess == labels)[labels != 255] for guess, (_, labels) in zip(predicted, test, strict=True)]
    assert result.accuracy_per_image[:3] == pytest.approx([float(hit.mean()) for hit in hits[:3]])
    assert np.isnan(result.accuracy_per_image[3])
    assert result.pixel_accuracy == pytest.approx(float(np.concatenate(hits).mean()))
    truth = np.concatenate([labels.ravel() for _, labels in test])
    guess = np.concatenate([pixels.ravel() for pixels in predicted])[truth != 255]
    truth = truth[truth != 255]
    for index in range(4):
        both, either = ((truth == index) & (guess == index)).sum(), ((truth == index) | (guess == index)).sum()
        assert result.iou_per_class[index] == pytest.approx(both / either)
    assert np.isnan(result.iou_per_class[4:]).all()
    assert result.miou == pytest.approx(np.mean([result.iou_per_class[index] for index in (0, 2, 3)]))


def test_classes_of_less_than_two_thousandths_of_the_pixels_do_not_count_by_default() -> None:
    train, test = images(6, seed=1), images(4, seed=2)
    test[0][1][0, :5] = 4  # 5 of 3072 pixels, of a class that no training patch has
    result = nearest_neighbour_segmentation(train, test, 5)
    assert result.iou_per_class[4] == 0.0
    assert result.miou == pytest.approx(np.mean(result.iou_per_class[:4]))
    test[0][1][1, :5] = 4  # 10 of them
    result = nearest_neighbour_segmentation(train, test, 5)
    assert result.miou == pytest.approx(np.mean(result.iou_per_class))
