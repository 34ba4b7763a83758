"""The published segmentation probe: learns what is linear, with the published loss, and tests by sliding windows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fit3d_finetune.probing.paper.heads import BatchNormHeads
from fit3d_finetune.probing.paper.segmentation import (
    backward,
    predict_segmentation,
    sliding_windows,
    train_segmentation,
)
from fit3d_finetune.probing.protocol import PAPER, PaperProtocol
from fit3d_finetune.probing.results import Arm
from fit3d_finetune.probing.segmentation import SegmentationScores
from tests.fit3d_finetune.probing.paper.encoders import ColourEncoder
from tests.fit3d_finetune.probing.scenes import FakeImage

ARMS = [Arm("colour", ("colour",)), Arm("noise", ("noise",)), Arm("both", ("colour", "noise"))]
TINY = replace(
    PAPER,
    batch=4,
    segmentation_iterations=60,
    segmentation_warmup=5,
    segmentation_lr=5e-2,
    segmentation_sides=(256, 64),
    segmentation_crop=64,
    segmentation_stride=43,
)


@dataclass
class Grey(FakeImage):
    """Bands of dark, middle and light grey, which are the classes 0, 1 and 2."""

    seed: int = 0

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        self.classes = np.sort(random.integers(0, 3, (1, 90)), axis=1).repeat(80, 0).astype(np.uint8)

    def image(self) -> np.ndarray:
        return np.repeat((30 + 90 * self.classes)[..., None], 3, axis=2).astype(np.uint8)


IMAGES = [Grey(seed=seed) for seed in range(5)]


def train(seeds: tuple[int, ...] = (0, 1), protocol: PaperProtocol = TINY) -> BatchNormHeads:
    return train_segmentation(ColourEncoder(), IMAGES, ARMS, 3, seeds, protocol)  # type: ignore[arg-type]


def test_a_linear_problem_is_learned_and_noise_is_not() -> None:
    heads = train()
    scores = SegmentationScores(ARMS, (0, 1), 3)
    tested = [Grey(seed=seed) for seed in (11, 12)]
    for index, predicted in predict_segmentation(ColourEncoder(), heads, tested, TINY):  # type: ignore[arg-type]
        assert predicted[0][0].shape == (80, 90)
        scores.add(tested[index].classes, predicted)
    miou = {name: result.miou for name, result in scores.results([0, 1, 2]).items()}
    assert min(miou["colour"]) > 0.75
    assert min(miou["both"]) > 0.7
    assert max(miou["noise"]) < 0.45


def test_the_same_seeds_give_the_same_heads_and_seeds_differ_in_their_start_alone() -> None:
    first, second = (train(protocol=replace(TINY, segmentation_iterations=3)).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["weights.colour.0"], first["weights.colour.1"])
    still = replace(TINY, segmentation_iterations=3, segmentation_lr=0.0)
    start = BatchNormHeads(ARMS, ColourEncoder.channels, 3, (0, 1)).state_dict()
    kept = train(protocol=still).state_dict()
    assert all(torch.equal(kept[name], start[name]) for name in start if not name.startswith("norms"))


def test_crops_and_batches_are_the_protocols() -> None:
    encoder = ColourEncoder()
    protocol = replace(TINY, segmentation_iterations=2)
    train_segmentation(encoder, IMAGES, ARMS, 3, (0,), protocol)  # type: ignore[arg-type]
    assert encoder.announced == [("Segmentation probes", 2, 4, (64, 64))]
    assert encoder.sizes == [(64, 64)] * 2


def test_the_loss_is_that_of_all_pixels_with_void_ones_counting_as_zero() -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 2, 5, generator=random).requires_grad_()
    labels = torch.randint(5, (2, 11, 14), generator=random)
    labels[:, :4] = 255
    found = backward(logits * 1.0, labels)
    gradient, logits.grad = logits.grad, None
    total = torch.zeros(())
    for arm in range(2):
        upsampled = F.interpolate(logits[:, :, :, arm].permute(0, 3, 1, 2), (11, 14), mode="bilinear")
        total = total + F.cross_entropy(upsampled, labels, ignore_index=255, reduction="none").mean()
    total.backward()
    assert found == pytest.approx(total.item(), rel=1e-5)
    torch.testing.assert_close(gradient, logits.grad, atol=1e-6, rtol=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 40), st.data())
def test_sliding_windows_cover_every_pixel_at_the_published_places(
    height: int, width: int, crop: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, crop))
    windows = sliding_windows(height, width, crop, stride)
    seen = np.zeros((height, width), int)
    for rows, columns in windows:
        assert (rows.stop - rows.start, columns.stop - columns.start) == (min(crop, height), min(crop, width))
        seen[rows, columns] += 1
    assert seen.min() >= 1
    # The published loops, counted out.
    places = []
    for row in range(max(height - crop + stride - 1, 0) // stride + 1):
        for column in range(max(width - crop + stride - 1, 0) // stride + 1):
            bottom, right = min(row * stride + crop, height), min(column * stride + crop, width)
            places.append((max(bottom - crop, 0), max(right - crop, 0)))
    assert [(rows.start, columns.start) for rows, columns in windows] == places


def test_logits_of_windows_are_averaged_at_the_resized_image_and_brought_to_the_images_own_size() -> None:
    heads = train(seeds=(0, 1), protocol=replace(TINY, segmentation_iterations=8))
    encoder, image = ColourEncoder(), IMAGES[0]
    [(_, predicted)] = predict_segmentation(encoder, heads, [image], TINY)  # type: ignore[arg-type]
    assert encoder.sizes == [(64, 64)]
    resized = np.asarray(cv2.resize(image.image(), (72, 64)))
    total, count = torch.zeros(3, 64, 72), torch.zeros(64, 72)
    with torch.no_grad():
        for left in (0, 8):
            maps = ColourEncoder()([resized[:, left : left + 64]], (64, 64)).maps
            blocks = heads.normalize({name: map.flatten(1, 2) for name, map in maps.items()})
            logits = heads(blocks, 1).unflatten(1, (8, 8))[0, :, :, 0].permute(2, 0, 1)
            total[:, :, left : left + 64] += F.interpolate(logits[None], (64, 64), mode="bilinear")[0]
            count[:, left : left + 64] += 1
        whole = F.interpolate((total / count)[None], (80, 90), mode="bilinear")[0].topk(2, dim=0)
    clear = (whole.values[0] - whole.values[1] > 1e-4).numpy()
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(predicted[0][1][clear], whole.indices[0].numpy()[clear])
