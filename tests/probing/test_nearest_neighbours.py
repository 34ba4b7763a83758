"""k-nearest-neighbour segmentation against loops, and which patches it samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fit3d_finetune.probing.nearest_neighbours import (
    TEMPERATURE,
    nearest_neighbour_segmentation,
    neighbour_scores,
    patch_labels,
    sample_patches,
    upsample_argmax,
)
from fit3d_ns.errors import InputError

K = 3
Pair = tuple[torch.Tensor, np.ndarray]


def pairs(count: int, seed: int, signal: float = 4.0) -> list[Pair]:
    """Maps of 4x6 patches whose first channels hold the class of their 8x8 pixels, among noise."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        classes = np.zeros((4, 6), np.int64)
        classes[:, random.integers(1, 5) :] = 1
        classes[random.integers(1, 4) :] = 2
        noise = torch.from_numpy(random.normal(size=(4, 6, 5))).float()
        map = noise + signal * F.pad(F.one_hot(torch.from_numpy(classes), K).float(), (0, 2))
        found.append((map, classes.repeat(8, 0).repeat(8, 1).astype(np.uint8)))
    return found


def test_classes_that_features_hold_are_found_and_others_are_not() -> None:
    good = nearest_neighbour_segmentation(pairs(6, 0), pairs(3, 1), K)
    assert good.miou > 0.75
    assert good.pixel_accuracy > 0.85
    assert good.k == 20
    assert len(good.accuracy_per_image) == 3
    assert len(good.iou_per_class) == K
    assert good.miou == pytest.approx(np.mean(good.iou_per_class))
    assert nearest_neighbour_segmentation(pairs(6, 0, 0.0), pairs(3, 1, 0.0), K).miou < 0.4


def test_one_neighbour_recognises_the_training_images_themselves() -> None:
    train = [(map, labels) for map, labels in pairs(3, 0)]
    # Whole patches are compared; at their borders, interpolation mixes them.
    features, classes = sample_patches(train, K, 1000, seed=0)
    for map, labels in train:
        found = neighbour_scores(map, features, classes, K, k=1).argmax(-1).numpy()
        np.testing.assert_array_equal(found, patch_labels(labels, (4, 6), K))


def test_void_test_pixels_do_not_count_and_rare_classes_do_not_average_in() -> None:
    train, test = pairs(6, 0), pairs(2, 1)
    before = nearest_neighbour_segmentation(train, test, K)
    hidden = [(map, np.where(labels == 2, 255, labels).astype(np.uint8)) for map, labels in test]
    after = nearest_neighbour_segmentation(train, hidden, K)
    assert after.miou == pytest.approx(np.mean(after.iou_per_class[:2])), "class 2 has no labelled pixel"
    assert after.pixel_accuracy != before.pixel_accuracy
    only_first = nearest_neighbour_segmentation(train, test, K, counted=[0])
    assert only_first.miou == before.iou_per_class[0]


def test_data_without_labels_is_refused() -> None:
    void = [(map, np.full_like(labels, 255)) for map, labels in pairs(2, 0)]
    with pytest.raises(InputError, match="no training image has a labelled patch"):
        nearest_neighbour_segmentation(void, pairs(1, 1), K)
    with pytest.raises(InputError, match="no test image has a labelled pixel"):
        nearest_neighbour_segmentation(pairs(1, 1), void, K)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 15), st.integers(1, 15), st.integers(1, 5), st.integers(1, 5))
def test_a_patch_has_the_most_frequent_class_of_its_pixels(seed: int, H: int, W: int, h: int, w: int) -> None:
    labels = np.random.default_rng(seed).choice([0, 1, 2, 255], (H, W)).astype(np.uint8)
    cells: dict[tuple[int, int], list[int]] = {}
    for r in range(H):
        for c in range(W):
            cells.setdefault((int((r + 0.5) * h / H), int((c + 0.5) * w / W)), []).append(int(labels[r, c]))
    found = patch_labels(labels, (h, w), K)
    for place, value in np.ndenumerate(found):
        inside = cells.get(place, [])
        known = [label for label in inside if label != 255]
        expected = max(range(K), key=known.count) if inside and 2 * len(known) >= len(inside) else 255
        assert value == expected


def test_scores_weigh_neighbours_by_the_exponential_of_their_cosine() -> None:
    features, classes = F.normalize(torch.randn(12, 5), dim=-1), torch.randint(K, (12,))
    map = torch.randn(2, 3, 5)
    found = neighbour_scores(map, features, classes, K, k=4)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 3))
    for r in range(2):
        for c in range(3):
            query = map[r, c].double() / map[r, c].double().norm()
            cosines = sorted(((float(query @ f.double()), int(k)) for f, k in zip(features, classes, strict=True)))
            weights = np.zeros(K)
            for cosine, label in cosines[-4:]:
                weights[label] += math.exp(cosine / TEMPERATURE)
            np.testing.assert_allclose(found[r, c].numpy(), weights / weights.sum(), rtol=1e-4, atol=1e-6)


def test_fewer_patches_than_neighbours_all_vote() -> None:
    scores = neighbour_scores(torch.randn(1, 1, 5), torch.eye(5)[:2], torch.tensor([0, 1]), K, k=20)
    assert (scores[0, 0, :2] > 0).all()
    assert scores[0, 0, 2] == 0


def test_pixels_take_the_best_of_bilinearly_upsampled_scores() -> None:
    scores = torch.rand(3, 4, K)
    upsampled = F.interpolate(scores.double().permute(2, 0, 1)[None], (20, 30), mode="bilinear")[0]
    np.testing.assert_array_equal(upsample_argmax(scores, 20, 30), upsampled.argmax(0).numpy())


def test_the_sample_is_bounded_without_repeats_and_the_same_for_every_arm() -> None:
    data = [
        (torch.arange(24.0).reshape(4, 6, 1) + 24 * index + 1, labels) for index, (_, labels) in enumerate(pairs(5, 0))
    ]
    # A second channel keeps the order after normalisation: angle rises with the first.
    arms = [[(torch.cat([map, torch.full_like(map, c)], -1), labels) for map, labels in data] for c in (50.0, 9.0)]
    kept = []
    for arm, other in zip(arms, (50.0, 9.0), strict=True):
        features, classes = sample_patches(arm, K, 30, seed=3)
        assert features.shape == (30, 2)
        assert classes.shape == (30,)
        kept.append((other * features[:, 0] / features[:, 1]).round().int().tolist())
    assert len(set(kept[0])) == 30
    assert kept[0] == kept[1], "all arms see the same patches"
    assert min(kept[0]) <= 24, "from the first image ..."
    assert max(kept[0]) > 24 * 4, "... to the last"
