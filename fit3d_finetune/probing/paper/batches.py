"""Training crops, drawn and augmented anew in every iteration: what the published data loaders yield."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import numpy as np

from fit3d_finetune.probing.augmentation import (
    coloured,
    fitted_size,
    mirrored,
    padded,
    photometric_distortion,
    random_region,
    resize,
    resize_labels,
    rotated,
    scaled_sides,
    size_of,
    varied_region,
)
from fit3d_finetune.probing.data.codings import VOID
from fit3d_finetune.probing.data.depth_benchmarks import DepthBenchmark
from fit3d_finetune.probing.data.labelled_images import LabelledImage
from fit3d_finetune.probing.protocol import PaperProtocol

Array = np.ndarray[Any, np.dtype[Any]]

_AHEAD = 2
"""Batches that are prepared while one is trained on."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One training crop."""

    image: Array
    """[h, w, 3] in 0..255."""
    truth: Array
    """Labels (of the whole crop, void where there is no image) or depth [h, w]."""


def segmentation_sample(
    image: LabelledImage, num_classes: int, protocol: PaperProtocol, random: np.random.Generator
) -> Sample:
    """Random scale, varied crop, mirror image and photometric distortion; labels are padded to the crop's size."""
    pixels, labels = image.image(), image.labels(num_classes)
    size = fitted_size(size_of(labels), scaled_sides(protocol.segmentation_sides, protocol.segmentation_scales, random))
    pixels, labels = resize(pixels, size), resize_labels(labels, size)
    crop = (protocol.segmentation_crop, protocol.segmentation_crop)
    region = varied_region(labels, crop, protocol.category_share, protocol.category_tries, VOID, random)
    pixels, labels = pixels[region], labels[region]
    if random.random() < 0.5:
        pixels, labels = mirrored(pixels, labels)
    return Sample(photometric_distortion(pixels, random), padded(labels, crop, VOID))


def depth_sample(
    image: LabelledImage, benchmark: DepthBenchmark, protocol: PaperProtocol, random: np.random.Generator
) -> Sample:
    """Random rotation, mirror image, crop and colours."""
    pixels, depth = image.image(), image.depth()
    region = benchmark.training_region(*size_of(depth))
    pixels, depth = pixels[region], depth[region]
    if random.random() < 0.5:
        pixels, depth = rotated(pixels, depth, random.uniform(-protocol.rotation, protocol.rotation))
    if random.random() < 0.5:
        pixels, depth = mirrored(pixels, depth)
    region = random_region(size_of(depth), benchmark.crop, random)
    pixels, depth = pixels[region], depth[region]
    if random.random() < 0.5:
        pixels = coloured(pixels, benchmark.brightness, random)
    return Sample(pixels, depth)


def draw_batches(
    draw: Callable[[int, np.random.Generator], Sample], images: int, size: int, iterations: int, seed: int
) -> Iterator[list[Sample]]:
    """`iterations` batches of `size` crops; every image comes once before any comes again.

    Crops are made by threads, a few batches ahead. Each has a generator of its own, made from the seed and its place
    in training, so that the batches do not depend on the threads.

    Args:
        draw: makes a crop of the image of an index.
        images: how many there are.
        size: crops per batch.
        iterations: batches.
        seed: of the order and of all crops.
    """
    order = _orders(images, seed)
    pending: deque[list[Future[Sample]]] = deque()
    with ThreadPoolExecutor(min(size, os.cpu_count() or 1)) as pool:
        for step in range(iterations):
            pending.append(
                [
                    pool.submit(draw, index, np.random.default_rng([seed, 1, step, place]))
                    for place, index in enumerate(islice(order, size))
                ]
            )
            if len(pending) > _AHEAD:
                yield [future.result() for future in pending.popleft()]
        while pending:
            yield [future.result() for future in pending.popleft()]


def _orders(images: int, seed: int) -> Iterator[int]:
    """One random order of all images after the other, without end."""
    for epoch in count():
        yield from np.random.default_rng([seed, 0, epoch]).permutation(images).tolist()
