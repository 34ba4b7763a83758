"""The segmentation probe: learns what is linear, and never counts void pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fit3d_finetune.probing.data.encoding import StandardizedImages, standardizations
from fit3d_finetune.probing.heads import LinearHeads
from fit3d_finetune.probing.results import Arm
from fit3d_finetune.probing.segmentation import (
    SegmentationScores,
    _Drawn,
    _labelled_pixels,
    _logits,
    predict_segmentation,
    train_segmentation,
)
from tests.fit3d_finetune.probing.scenes import FakeEncoded, FakeImage, tiny

ARMS = [Arm("good", ("good",)), Arm("noise", ("noise",)), Arm("good + noise", ("good", "noise"))]
GRID, PATCH = (6, 8), 8


def planted(count: int, seed: int) -> FakeEncoded:
    """Regions of three classes; "good" features hold the class linearly among noise, "noise" ones nothing at all."""
    random = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(3, 10, generator=torch.Generator().manual_seed(99))
    images, good, noise = [], [], []
    for _ in range(count):
        classes = np.zeros(GRID, np.int64)
        classes[:, random.integers(2, 6) :] = 1
        classes[random.integers(2, 5) :] = 2
        pixels = classes.repeat(PATCH, 0).repeat(PATCH, 1).astype(np.uint8)
        map = F.one_hot(torch.from_numpy(classes), 3).float() @ mixing
        map = map + 0.1 * torch.randn(map.shape, generator=generator)
        images.append(FakeImage(pixels))
        good.append(map)
        noise.append(torch.randn(*GRID, 10, generator=generator))
    return FakeEncoded(images, {"good": good, "noise": noise})


def score(train: FakeEncoded, test: FakeEncoded, seeds: tuple[int, ...] = (0, 1)) -> dict[str, list[float]]:
    statistics = standardizations(train)
    protocol = tiny(segmentation_iterations=150, segmentation_lr=2e-2)
    heads = train_segmentation(train, statistics, ARMS, 3, seeds, protocol)
    scores = SegmentationScores(ARMS, seeds, labelled([image.labels(3) for image in test.images]))
    for index, predicted in predict_segmentation(heads, test, statistics):
        scores.add(index, test.images[index].labels(3), predicted)
    return {name: result.miou for name, result in scores.results([0] * len(test.images), 1, [0, 1, 2]).items()}


def labelled(labels: list[np.ndarray]) -> np.ndarray:
    """Pixels [images, 3 classes]."""
    return np.stack([np.bincount(values.ravel(), minlength=256)[:3] for values in labels])


def test_a_linear_problem_is_learned_and_noise_is_not() -> None:
    miou = score(planted(8, seed=1), planted(4, seed=2))
    assert min(miou["good"]) > 0.85
    assert max(miou["noise"]) < 0.5
    assert min(miou["good + noise"]) > 0.8


def test_void_pixels_do_not_take_part_in_training() -> None:
    def heads_with(hidden: int) -> dict[str, torch.Tensor]:
        train = planted(4, seed=1)
        for image in train.images:
            # What is void on the right-hand side cannot matter: features there change, heads must not.
            image.classes[:, 32:] = 255
        statistics = standardizations(train)
        for maps in train._features.values():
            for map in maps:
                map[:, 5:] = hidden
        return train_segmentation(train, statistics, ARMS, 3, (0,), tiny()).state_dict()

    first, second = heads_with(0), heads_with(50)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_image_without_labels_leaves_heads_finite() -> None:
    train = planted(2, seed=1)
    train.images[0].classes[:] = 255
    heads = train_segmentation(train, standardizations(train), ARMS, 3, (0,), tiny())
    assert all(value.isfinite().all() for value in heads.state_dict().values())


def test_void_pixels_do_not_count_in_scores() -> None:
    labels = np.array([[0, 1, 255, 255]], np.uint8)
    scores = SegmentationScores(ARMS[:1], (0,), labelled([labels]))
    scores.add(0, labels, [[np.array([[0, 1, 2, 0]])]])
    result = scores.results([0], 1, [0, 1])["good"]
    assert result.miou == [1.0]
    assert result.pixel_accuracy == [1.0]
    assert np.isnan(result.iou_per_class[0][2]), "class 2 was predicted on void pixels only"


def test_a_pixel_gets_the_best_of_its_upsampled_logits() -> None:
    H, W, K = 30, 52, 4
    image, map = FakeImage(np.zeros((H, W), np.uint8)), torch.randn(3, 5, 6)
    encoded = FakeEncoded([image], {"a": [map]})
    heads = LinearHeads([Arm("a", ("a",))], {"a": 6}, K, (0, 1))
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.normal_()
    statistics = standardizations(encoded)
    [(index, predicted)] = predict_segmentation(heads, encoded, statistics)
    assert index == 0
    for seed in range(2):
        logits = statistics["a"](map) @ heads.weights["a"][seed][:, 0] + heads.biases[seed][0]
        upsampled = F.interpolate(logits.detach().double().permute(2, 0, 1)[None], (H, W), mode="bilinear")[0]
        best = upsampled.topk(2, dim=0)
        clear = (best.values[0] - best.values[1] > 1e-4).numpy()
        assert clear.mean() > 0.99
        np.testing.assert_array_equal(predicted[0][seed][clear], best.indices[0].numpy()[clear])


def test_the_few_labelled_pixels_of_an_image_are_the_ones_drawn() -> None:
    train = planted(1, seed=1)
    train.images[0].classes[:] = 255
    train.images[0].classes[20, 30] = 1
    heads = train_segmentation(
        train, standardizations(train), ARMS, 3, (0,), tiny(segmentation_iterations=1, segmentation_warmup=0)
    )
    bias = heads.biases[0][0].detach()
    assert bias[1] > 0 > max(bias[0], bias[2])


def test_the_layer_before_or_after_the_interpolation_gives_the_same_heads() -> None:
    """48 patches per image: fewer pixels are interpolated first, more of them last."""
    train = planted(3, seed=1)
    statistics = standardizations(train)

    images = StandardizedImages(train, statistics)
    trained = train_segmentation(train, statistics, ARMS, 3, (0, 1), tiny(pixels_per_image=60))
    for seed in (0, 1):
        places = np.random.default_rng(seed).random((60, 2))
        many = [_Drawn(i, places, torch.zeros(60)) for i in range(3)]
        few = [replace(drawn, places=drawn.places[:30]) for drawn in many]
        last, first = (_logits(trained, images, batch, seed) for batch in (many, few))
        assert last.shape == (180, 3, 3)
        torch.testing.assert_close(last.unflatten(0, (3, 60))[:, :30].flatten(0, 1), first, atol=1e-4, rtol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.02, 0.6, 1.0]))
def test_pixels_are_drawn_as_from_a_list_of_the_labelled_ones(seed: int, share: float) -> None:
    random = np.random.default_rng(seed)
    labels = np.where(random.random((11, 17)) < share, random.integers(0, 3, (11, 17)), 255).astype(np.uint8)
    part = labels[2:9, 3:15]  # not contiguous
    valid = np.flatnonzero(part != 255)
    expected = np.random.default_rng(seed).choice(valid if len(valid) else np.arange(part.size), 40)
    np.testing.assert_array_equal(_labelled_pixels(part, 40, np.random.default_rng(seed)), expected)
