"""Which parts of an image depth benchmarks train, test and score on, and how they augment it.

As in the configurations of FiT3D's published code, which are those of DINOv2's depth probes and of BTS and AdaBins
before them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from fit3d_finetune.probing.data.labelled_images import LabelledImages
from fit3d_finetune.probing.data.tasks import DepthBenchmarkName
from fit3d_ns.common.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]
Region = tuple[slice, slice]
T = TypeVar("T")

_KITTI = (352, 1216)
_ALL = (slice(None), slice(None))


def _whole(height: int, width: int) -> Region:
    return _ALL


def _without_border(height: int, width: int) -> Region:
    """NYUv2's images without their white border."""
    return slice(45, 472), slice(43, 608)


def _kitti(height: int, width: int) -> Region:
    """The lower middle of the image: 1216 x 352 pixels."""
    top, left = height - _KITTI[0], (width - _KITTI[1]) // 2
    return slice(top, height), slice(left, left + _KITTI[1])


def _eigen(height: int, width: int) -> Region:
    """Eigen et al. (2014), for images of 640 x 480 pixels."""
    return slice(45, 471), slice(41, 601)


def _garg(height: int, width: int) -> Region:
    """Garg et al. (2016): shares of KITTI's test region, which begins at its own corner."""
    rows, columns = _kitti(height, width)
    top, left, (h, w) = rows.start, columns.start, _KITTI
    return (
        slice(top + int(0.40810811 * h), top + int(0.99189189 * h)),
        slice(left + int(0.03594771 * w), left + int(0.96405229 * w)),
    )


@dataclass(frozen=True)
class DepthBenchmark:
    """Conventions of one benchmark."""

    name: DepthBenchmarkName
    crop: tuple[int, int] = (416, 544)
    """(height, width) of training crops."""
    brightness: tuple[float, float] = (0.75, 1.25)
    """Of the colour augmentation."""
    training_region: Callable[[int, int], Region] = _whole
    """What training crops are cut from, by (height, width) of the image."""
    test_region: Callable[[int, int], Region] = _whole
    """What is encoded at test time (paper protocol)."""
    scored_region: Callable[[int, int], Region] = _whole
    """Where predictions are compared with the truth (both protocols)."""
    size: tuple[int, int] | None = None
    """(height, width) that images must have, or at least have; None: any."""
    exact: bool = True

    def scored(self, depth: Array) -> Array:
        """Depth [H, W] with what is not scored unknown (0)."""
        region = self.scored_region(*depth.shape)
        if region == _ALL:
            return depth
        found = np.zeros_like(depth)
        found[region] = depth[region]
        return found

    def check(self, data: Sequence[LabelledImages]) -> None:
        """Check that the crops fit the images; only headers are read.

        Raises:
            InputError: an image has another size.
        """
        if self.size is None:
            return
        height, width = self.size
        for image in (image for part in data for image in part.images):
            h, w = image.size()
            if (h, w) != self.size if self.exact else h < height or w < width:
                least = "" if self.exact else "at least "
                raise InputError(
                    f"--depth-benchmark {self.name} is for images of {least}{width}x{height}, but {image.path} is "
                    f"{w}x{h}: leave the option out, or give the benchmark's images."
                )


_INDOOR = (480, 640)
DEPTH_BENCHMARKS: dict[DepthBenchmarkName, DepthBenchmark] = {
    "none": DepthBenchmark("none"),
    "scannet": DepthBenchmark("scannet", scored_region=_eigen, size=_INDOOR),
    "nyu": DepthBenchmark("nyu", training_region=_without_border, scored_region=_eigen, size=_INDOOR),
    "kitti": DepthBenchmark(
        "kitti",
        crop=(352, 704),
        brightness=(0.9, 1.1),
        training_region=_kitti,
        test_region=_kitti,
        scored_region=_garg,
        size=_KITTI,
        exact=False,
    ),
}


USUAL_LIMIT = 10.0
"""Metres, of data that say nothing else."""


def depth_benchmark(data: Sequence[LabelledImages], chosen: DepthBenchmarkName | None) -> DepthBenchmark:
    """What was chosen; if nothing was, what belongs to the data.

    Raises:
        InputError: the data belong to different ones, and nothing was chosen.
    """
    return DEPTH_BENCHMARKS[_chosen([part.benchmark for part in data], chosen, "--depth-benchmark")]


def depth_limit(data: Sequence[LabelledImages], chosen: float | None) -> float:
    """Metres; as `depth_benchmark`."""
    limits = [part.max_depth or USUAL_LIMIT for part in data]
    return _chosen(limits, chosen, "--max-depth")


def _chosen(found: Sequence[T], chosen: T | None, option: str) -> T:
    if chosen is not None:
        return chosen
    first, *others = dict.fromkeys(found)
    if others:
        raise InputError(
            f"the data have different conventions for depth ({', '.join(map(str, (first, *others)))}): say {option}, "
            "or probe them apart."
        )
    return first
