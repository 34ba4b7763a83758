"""k-nearest-neighbour segmentation against loops, which patches it samples, and its figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import fit3d_finetune.probing.nearest_neighbours as module
from fit3d_finetune.probing.nearest_neighbours import (
    TEMPERATURE,
    LabelledMaps,
    PatchSample,
    nearest_neighbour_segmentation,
    neighbour_scores,
    patch_labels,
    sample_patches,
    upsample_argmax,
)
from fit3d_finetune.probing.results import Arm, NearestNeighbourResult
from fit3d_ns.common.errors import InputError

K = 4
ONE = [Arm("one", ("a",))]
ALL = [Arm("one", ("a",)), Arm("two", ("b",)), Arm("both", ("a", "b"))]


def images(count: int, seed: int, noise: float = 0.1, backbones: str = "a") -> list[LabelledMaps]:
    """Images of 6x8 patches of 4x4 pixels of one of four classes each; features are a class vector and noise."""
    random = torch.Generator().manual_seed(seed)
    prototypes = torch.randn(4, 16, generator=torch.Generator().manual_seed(99))
    made: list[LabelledMaps] = []
    for _ in range(count):
        grid = torch.randint(4, (6, 8), generator=random)
        maps = {name: prototypes[grid] + noise * torch.randn(6, 8, 16, generator=random) for name in backbones}
        made.append((maps, grid.numpy().astype(np.uint8).repeat(4, axis=0).repeat(4, axis=1)))
    return made


def memory(features: dict[str, torch.Tensor], classes: torch.Tensor) -> PatchSample:
    return PatchSample(features, classes, np.zeros(len(classes), int), np.arange(len(classes)))


def labelled_pixels(test: list[LabelledMaps], classes: int) -> np.ndarray:
    return np.stack([np.bincount(labels.ravel(), minlength=256)[:classes] for _, labels in test])


def segment(
    train: list[LabelledMaps],
    test: list[LabelledMaps],
    classes: int = 4,
    arms: Sequence[Arm] = tuple(ONE),
    counted: Sequence[int] | None = None,
    **options: Any,
) -> dict[str, NearestNeighbourResult]:
    """All test images are of one scene."""
    labelled = labelled_pixels(test, classes)
    counted = range(classes) if counted is None else counted
    return nearest_neighbour_segmentation(train, test, arms, labelled, [0] * len(test), counted, **options)


def test_classes_that_features_hold_are_found_and_others_are_not() -> None:
    good = segment(images(6, 0), images(3, 1))["one"]
    assert good.miou > 0.75
    assert good.pixel_accuracy > 0.85
    assert good.k == 20
    assert good.counts.unions.shape == (1, 3, 4)
    assert good.miou == pytest.approx(np.mean(good.iou_per_class))
    assert segment(images(6, 0, noise=100.0), images(3, 1, noise=100.0))["one"].miou < 0.4


def test_one_neighbour_recognises_the_training_images_themselves() -> None:
    train = images(3, 0)
    # Whole patches are compared; at their borders, interpolation mixes them.
    sample = sample_patches(train, 4, 1000, seed=0)
    for maps, labels in train:
        found = neighbour_scores(maps, sample, ONE, 4, k=1)[0].argmax(-1).numpy()
        np.testing.assert_array_equal(found, patch_labels(labels, (6, 8), 4))


def test_data_without_labels_is_refused() -> None:
    void = [(maps, np.full_like(labels, 255)) for maps, labels in images(2, 0)]
    with pytest.raises(InputError, match="no training image has a labelled patch"):
        segment(void, images(1, 1))
    with pytest.raises(InputError, match="no test image has a labelled pixel"):
        segment(images(1, 1), void)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 15), st.integers(1, 15), st.integers(1, 5), st.integers(1, 5))
def test_a_patch_has_the_most_frequent_class_of_its_pixels(seed: int, H: int, W: int, h: int, w: int) -> None:
    labels = np.random.default_rng(seed).choice([0, 1, 2, 255], (H, W)).astype(np.uint8)
    cells: dict[tuple[int, int], list[int]] = {}
    for r in range(H):
        for c in range(W):
            cells.setdefault((int((r + 0.5) * h / H), int((c + 0.5) * w / W)), []).append(int(labels[r, c]))
    found = patch_labels(labels, (h, w), 3)
    for place, value in np.ndenumerate(found):
        inside = cells.get(place, [])
        known = [label for label in inside if label != 255]
        expected = max(range(3), key=known.count) if inside and 2 * len(known) >= len(inside) else 255
        assert value == expected


def test_scores_weigh_neighbours_by_the_exponential_of_their_cosine_for_every_arm() -> None:
    features = {name: F.normalize(torch.randn(12, size), dim=-1) for name, size in (("a", 5), ("b", 7))}
    classes = torch.randint(K, (12,))
    maps = {"a": torch.randn(2, 3, 5), "b": 100 * torch.randn(2, 3, 7)}
    found = neighbour_scores(maps, memory(features, classes), ALL, K, k=4)
    torch.testing.assert_close(found.sum(-1), torch.ones(3, 2, 3))
    for a, arm in enumerate(ALL):
        # Both backbones count the same, though the features of one are much longer.
        known = F.normalize(torch.cat([features[name] for name in arm.backbones], -1).double(), dim=-1)
        map = torch.cat([F.normalize(maps[name].double(), dim=-1) for name in arm.backbones], -1)
        for r, c in np.ndindex(2, 3):
            query = map[r, c] / map[r, c].norm()
            cosines = sorted((float(query @ f), int(label)) for f, label in zip(known, classes, strict=True))
            weights = np.zeros(K)
            for cosine, label in cosines[-4:]:
                weights[label] += math.exp(cosine / TEMPERATURE)
            np.testing.assert_allclose(found[a, r, c].numpy(), weights / weights.sum(), rtol=1e-4, atol=1e-6)


def test_arms_together_give_what_each_gives_alone() -> None:
    train, test = images(6, 1, 1.5, "ab"), images(3, 2, 1.5, "ab")
    together = segment(train, test, arms=ALL, max_train_patches=100)
    assert list(together) == ["one", "two", "both"]
    assert len({result.pixel_accuracy for result in together.values()}) == 3
    for arm in ALL:
        [alone] = segment(train, test, arms=[arm], max_train_patches=100).values()
        np.testing.assert_array_equal(alone.counts.unions, together[arm.name].counts.unions)
        assert alone.miou == together[arm.name].miou


def test_a_backbone_beside_itself_has_the_figures_of_itself() -> None:
    twice = Arm("twice", ("a", "a"))
    found = segment(images(6, 1, 1.5), images(3, 2, 1.5), arms=[*ONE, twice])
    np.testing.assert_array_equal(found["one"].counts.intersections, found["twice"].counts.intersections)
    assert found["one"].miou == found["twice"].miou


def test_fewer_patches_than_neighbours_all_vote() -> None:
    two = memory({"a": torch.eye(5)[:2]}, torch.tensor([0, 1]))
    scores = neighbour_scores({"a": torch.randn(1, 1, 5)}, two, ONE, K, k=20)
    assert (scores[0, 0, 0, :2] > 0).all()
    assert scores[0, 0, 0, 2] == 0


def test_patches_that_are_left_out_do_not_vote_and_without_any_neighbour_there_is_no_score() -> None:
    features = F.normalize(torch.randn(6, 5), dim=-1)
    classes = torch.tensor([0, 1, 2, 3, 0, 1])
    maps = {"a": torch.randn(2, 2, 5)}
    hidden = torch.rand(4, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    hidden[0], hidden[1] = True, torch.tensor([True, True, True, False, True, True])
    found = neighbour_scores(maps, memory({"a": features}, classes), ONE, K, 3, lambda rows: hidden[rows])[0]
    for place in range(4):
        kept = ~hidden[place]
        scores = found[place // 2, place % 2]
        if not kept.any():
            assert not scores.any()
            continue
        few = memory({"a": features[kept]}, classes[kept])
        torch.testing.assert_close(scores, neighbour_scores(maps, few, ONE, K, 3)[0, place // 2, place % 2])
    assert found[0, 1].tolist() == [0, 0, 0, 1]


def test_pixels_take_the_best_of_bilinearly_upsampled_scores() -> None:
    scores = torch.rand(3, 4, K)
    upsampled = F.interpolate(scores.double().permute(2, 0, 1)[None], (20, 30), mode="bilinear")[0]
    np.testing.assert_array_equal(upsample_argmax(scores, 20, 30), upsampled.argmax(0).numpy())


def test_chunks_and_strips_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = sample_patches(images(4, 0), 4, 1000, seed=0)
    maps = {"a": torch.randn(6, 8, 16)}
    whole = neighbour_scores(maps, sample, ONE, 4, k=7)
    pixels = upsample_argmax(whole[0], 33, 45)
    monkeypatch.setattr(module, "_CHUNK", 700)  # a few patches, and a few rows, at a time
    torch.testing.assert_close(neighbour_scores(maps, sample, ONE, 4, k=7), whole)
    np.testing.assert_array_equal(upsample_argmax(whole[0], 33, 45), pixels)


def test_the_sample_is_uniform_over_images_without_repeats_also_after_pruning() -> None:
    data = images(30, seed=0)
    angles = torch.arange(30 * 48).reshape(30, 6, 8, 1) * 1e-3  # the direction of a feature tells its patch
    tagged = [({"a": torch.cat([t.cos(), t.sin()], -1)}, labels) for t, (_, labels) in zip(angles, data, strict=True)]
    sample = sample_patches(tagged, 4, max_patches=200, seed=3)
    features = sample.features["a"]
    drawn = torch.round(torch.atan2(features[:, 1], features[:, 0]) * 1e3).long().numpy()
    np.testing.assert_array_equal(sample.images * 48 + sample.cells, drawn)
    assert len(set(drawn.tolist())) == 200
    truth = np.concatenate([patch_labels(labels, (6, 8), 4).ravel() for _, labels in data])
    np.testing.assert_array_equal(sample.classes, truth[drawn])
    assert (abs(np.bincount(drawn // 480, minlength=3) - 200 / 3) < 25).all()  # four standard deviations


def test_the_figures_are_those_of_the_predicted_pixels() -> None:
    train, test = images(6, seed=1, noise=1.5), images(4, seed=2, noise=1.5)
    for _, labels in test:
        labels[:3] = 255
    test[3][1][:] = 255  # an image without any label
    result = segment(train, test, 6, counted=[0, 2, 3], k=5, max_train_patches=100)["one"]
    sample = sample_patches(train, 6, 100, 0)
    predicted = [upsample_argmax(neighbour_scores(m, sample, ONE, 6, 5)[0], 24, 32) for m, _ in test]
    hits = [(guess == labels)[labels != 255] for guess, (_, labels) in zip(predicted, test, strict=True)]
    assert result.counts.intersections[0].sum(axis=1).tolist() == [int(hit.sum()) for hit in hits]
    assert result.pixel_accuracy == pytest.approx(float(np.concatenate(hits).mean()))
    truth = np.concatenate([labels.ravel() for _, labels in test])
    guess = np.concatenate([pixels.ravel() for pixels in predicted])[truth != 255]
    truth = truth[truth != 255]
    for index in range(4):
        both, either = ((truth == index) & (guess == index)).sum(), ((truth == index) | (guess == index)).sum()
        assert result.iou_per_class[index] == pytest.approx(both / either)
    assert np.isnan(result.iou_per_class[4:]).all()
    assert result.miou == pytest.approx(np.mean([result.iou_per_class[index] for index in (0, 2, 3)]))
