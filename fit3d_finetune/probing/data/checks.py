"""Is the data fit for the tasks? Asked before the first image is encoded, so that hours are not lost on it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from fit3d_finetune.probing.data.labelled_images import LabelledImages
from fit3d_finetune.probing.data.tasks import NEEDS, TaskName
from fit3d_ns.common.console import logger, progress
from fit3d_ns.common.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]


def require_data(tasks: Collection[TaskName], train: Sequence[LabelledImages], test: Sequence[LabelledImages]) -> None:
    """Check that there are files of what every task needs; none is opened.

    Raises:
        InputError: a task lacks labels, depth or cameras.
    """
    for task in tasks:
        for data in [*(train if NEEDS[task].trains else []), *test]:
            if not NEEDS[task].met_by(data):
                words = NEEDS[task].words
                raise InputError(
                    f"--tasks {task} needs {words}, which {data.name} lacks: leave the task or the data out."
                )


def warn_of_shared_images(train: Sequence[LabelledImages], test: Sequence[LabelledImages]) -> None:
    """Say so if probes are tested on images that they were trained on."""
    known = {image.path.resolve() for data in train for image in data.images}
    images = [image for data in test for image in data.images]
    shared = [image.name for image in images if image.path.resolve() in known]
    if shared:
        logger.warning(
            "%d of %d test images are training images too (the first is %s): their figures say nothing about new "
            "images.",
            len(shared),
            len(images),
            shared[0],
        )


def count_labels(data: Sequence[LabelledImages], num_classes: int, use: str) -> Array:
    """Labelled pixels [images, num_classes], int64; reads and so checks every label file.

    Args:
        data: with labels.
        num_classes: number of classes.
        use: what it is for, in messages: "training" or "test".

    Raises:
        InputError: a file is not fit for its image or the classes, or there is no labelled pixel.
    """
    images = [image for part in data for image in part.images]
    counts = np.zeros((len(images), 256), np.int64)
    with progress("files") as bar:
        for index, image in enumerate(bar.track(images, description=f"Checking {use} labels")):
            counts[index] = np.bincount(image.labels(num_classes).ravel(), minlength=256)
    if not counts[:, :num_classes].any():
        raise InputError(f"no {use} image has a labelled pixel: give {use} data with labels.")
    return counts[:, :num_classes]


def check_depth(data: Sequence[LabelledImages], max_depth: float, use: str) -> None:
    """Read and so check every depth file; arguments as `count_labels`, `max_depth` in metres.

    Raises:
        InputError: a file is not fit for its image, is in another unit, or no pixel has a depth up to `max_depth`.
    """
    images = [image for part in data for image in part.images]
    found = False
    with progress("files") as bar:
        for image in bar.track(images, description=f"Checking {use} depth"):
            depth = image.depth()
            found |= bool(((depth > 0) & (depth <= max_depth)).any())
    if not found:
        raise InputError(
            f"no {use} image has a depth of at most {max_depth:g} m: raise --max-depth or give {use} data with depth."
        )
