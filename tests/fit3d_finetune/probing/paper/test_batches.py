"""Batches: every image once per epoch, the same crops for the same seed, and truth that stays with its pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from fit3d_finetune.probing.data.depth_benchmarks import DEPTH_BENCHMARKS
from fit3d_finetune.probing.paper.batches import Sample, depth_sample, draw_batches, segmentation_sample
from fit3d_finetune.probing.protocol import PAPER
from tests.fit3d_finetune.probing.scenes import FakeImage

PROTOCOL = replace(PAPER, segmentation_crop=64, segmentation_sides=(256, 64))


@dataclass
class Striped(FakeImage):
    """Left half black, class 0, 1 m; right half white, class 1, 2 m; but for a void margin of 5 pixels at the top."""

    height: int = 90
    width: int = 120

    def __post_init__(self) -> None:
        right = np.arange(self.width) >= self.width // 2
        self.classes = np.broadcast_to(right, (self.height, self.width)).astype(np.uint8)
        self.classes[:5] = 255
        self.metres = np.broadcast_to(1.0 + right, (self.height, self.width)).astype(np.float32)

    def image(self) -> np.ndarray:
        return np.repeat(255 * (self.metres > 1.5)[..., None], 3, axis=2).astype(np.uint8)


def numbers(images: int, size: int, iterations: int, seed: int) -> list[list[tuple[int, float]]]:
    def draw(index: int, random: np.random.Generator) -> Sample:
        return Sample(np.array(index), np.array(random.random()))

    return [
        [(int(sample.image), float(sample.truth)) for sample in batch]
        for batch in draw_batches(draw, images, size, iterations, seed)
    ]


@pytest.mark.parametrize(("images", "size"), [(10, 4), (3, 8), (1, 2)])
def test_every_image_comes_once_before_any_comes_again(images: int, size: int) -> None:
    batches = numbers(images, size, 11, seed=0)
    assert [len(batch) for batch in batches] == [size] * 11
    order = [index for batch in batches for index, _ in batch]
    epochs = [order[start : start + images] for start in range(0, len(order) - images + 1, images)]
    assert all(sorted(epoch) == list(range(images)) for epoch in epochs)
    if images == 10:
        assert epochs[0] != epochs[1], "each epoch has its own order"


def test_crops_depend_on_the_seed_and_their_place_alone() -> None:
    first = numbers(5, 4, 6, seed=1)
    assert numbers(5, 4, 6, seed=1) == first
    assert numbers(5, 4, 3, seed=1) == first[:3]
    assert numbers(5, 4, 6, seed=2) != first
    draws = [draw for batch in first for _, draw in batch]
    assert len(set(draws)) == len(draws), "an image is cropped anew whenever it comes"


def test_an_error_while_drawing_reaches_the_caller() -> None:
    def draw(index: int, random: np.random.Generator) -> Sample:
        raise ValueError("broken file")

    with pytest.raises(ValueError, match="broken file"):
        next(draw_batches(draw, 3, 2, 2, 0))


def test_segmentation_crops_keep_labels_on_their_pixels_and_void_beyond_the_image() -> None:
    sizes, flips = set(), set()
    for seed in range(40):
        sample = segmentation_sample(Striped(), 2, PROTOCOL, np.random.default_rng(seed))
        height, width = sample.image.shape[:2]
        assert sample.image.dtype == np.uint8
        assert sample.truth.shape == (64, 64)
        assert (sample.truth[height:] == 255).all()
        assert (sample.truth[:, width:] == 255).all()
        shown = sample.truth[:height, :width]
        white, black = (sample.image[shown == label].mean() for label in (1, 0))
        assert white > black + 50, "whatever the photometric distortion"
        sizes.add(height)
        columns = np.argmax(shown == 1, axis=1), np.argmax(shown == 0, axis=1)
        flips.add(bool(columns[0].max() > columns[1].max()))
    assert min(sizes) < 40, "half the size: smaller than the crop"
    assert max(sizes) == 64
    assert flips == {False, True}


def test_scale_is_drawn_between_half_and_double() -> None:
    """Seen in the stripes' middle: the void margin of 5 of 90 rows is as high as the image is scaled."""
    heights = []
    for seed in range(80):
        image = Striped(height=40, width=40)
        sample = segmentation_sample(image, 2, replace(PROTOCOL, category_tries=0), np.random.default_rng(seed))
        heights.append(sample.image.shape[0])
    # The image's sides are 64 before scaling: below a factor of one it is whole, above it is cut to 64.
    assert 32 <= min(heights) < 36
    assert 0.55 < np.mean(np.array(heights) == 64) < 0.8, "two thirds of 0.5 to 2 lie above 1"


def test_depth_crops_have_the_benchmarks_size_and_keep_depth_on_its_pixels() -> None:
    kinds, unknown = set(), 0
    for seed in range(60):
        image = Striped(height=480, width=640)
        sample = depth_sample(image, DEPTH_BENCHMARKS["nyu"], PAPER, np.random.default_rng(seed))
        assert sample.image.shape == (416, 544, 3)
        assert sample.truth.shape == (416, 544)
        assert set(np.unique(sample.truth)) <= {0, 1, 2}
        assert sample.image[sample.truth == 2].mean() > 90 > 20 > sample.image[sample.truth == 1].mean()
        kinds.add(sample.image.dtype)
        unknown += (sample.truth == 0).any()
    assert kinds == {np.dtype(np.uint8), np.dtype(np.float32)}, "colours change in some, and stay fractions"
    assert 10 < unknown < 50, "some are turned: beyond their corners nothing is known"


def test_images_smaller_than_the_crop_are_taken_whole() -> None:
    sample = depth_sample(Striped(), DEPTH_BENCHMARKS["none"], PAPER, np.random.default_rng(0))
    assert sample.truth.shape == (90, 120)
