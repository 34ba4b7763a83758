"""What a probing run found, as data: the one thing that the table, the figures and the report are made from.

Every figure is kept per seed, and where it is compared per image, so that spreads and paired tests can be
computed afterwards. On disk it is `results.json`.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fit3d_ns.common.atomic import atomic_file
from fit3d_ns.common.errors import InputError

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Arm:
    """One row of the comparison: the channels of one or more backbones, concatenated."""

    name: str
    """E.g. "original", "fine-tuned", "original + fine-tuned", "original + 2D control"."""
    backbones: tuple[str, ...]
    """Names of the backbones whose maps are concatenated, in this order."""


@dataclass(frozen=True)
class SegmentationResult:
    """One arm's semantic segmentation, by probe seed."""

    miou: list[float]
    """Per seed, in 0..1, over `ProbeResults.counted_classes`."""
    pixel_accuracy: list[float]
    class_accuracy: list[float]
    """Per seed: mean over counted classes of the share of their pixels that were found."""
    iou_per_class: list[list[float]]
    """[seeds][classes]; NaN (null in JSON) where a class is neither in the labels nor predicted."""
    accuracy_per_image: list[list[float]]
    """[seeds][test images]: pixel accuracy, what paired tests compare."""


@dataclass(frozen=True)
class DepthResult:
    """One arm's depth estimation, by probe seed. Metres; deltas are shares in 0..1."""

    rmse: list[float]
    abs_rel: list[float]
    log10: list[float]
    delta1: list[float]
    delta2: list[float]
    delta3: list[float]
    rmse_per_image: list[list[float]]
    """[seeds][test images]."""


@dataclass(frozen=True)
class NearestNeighbourResult:
    """k-nearest-neighbour segmentation of one arm: no training, so no seeds."""

    k: int
    miou: float
    pixel_accuracy: float
    iou_per_class: list[float]
    accuracy_per_image: list[float]


@dataclass(frozen=True)
class ConsistencyResult:
    """Multi-view consistency of one arm over pairs of views, binned by the angle between them (Probe3D)."""

    angle_edges: list[float]
    """Degrees, one more than there are bins."""
    cosine: list[float]
    """Per bin: mean cosine between features of pixels that show the same point; NaN in empty bins."""
    recall: list[float]
    """Per bin: share of pixels whose nearest neighbour in the other view lies within `recall_patches`."""
    pairs: list[int]
    """Per bin: number of view pairs."""
    recall_patches: float
    recall_per_pair: list[tuple[float, float]]
    """(angle in degrees, recall) of every pair, in the same order for every arm."""


@dataclass(frozen=True)
class Comparison:
    """A paired comparison of an arm with the first one, over test images (or view pairs)."""

    metric: str
    """E.g. "pixel accuracy", "RMSE", "correspondence recall"."""
    arm: str
    baseline: str
    mean_difference: float
    """Arm minus baseline."""
    confidence_low: float
    """95 % bootstrap interval of the mean difference."""
    confidence_high: float
    p_value: float
    """Two-sided Wilcoxon signed-rank."""
    count: int
    """Images or pairs compared."""
    statement: str
    """The same in words."""


@dataclass(frozen=True)
class ProbeResults:
    """Everything a probing run measured."""

    protocol: str
    seeds: list[int]
    arms: list[Arm]
    backbones: dict[str, dict[str, Any]]
    """By name: description, layer, weights_sha256, ..."""
    train_data: list[str]
    test_data: list[str]
    test_images: list[str]
    classes: list[str]
    counted_classes: list[int]
    """Indices of the classes with at least 0.2 % of the labelled test pixels; mIoU averages these."""
    segmentation: dict[str, SegmentationResult] = field(default_factory=dict)
    """By arm name; empty if the data has no labels. The same for the others."""
    depth: dict[str, DepthResult] = field(default_factory=dict)
    nearest_neighbours: dict[str, NearestNeighbourResult] = field(default_factory=dict)
    consistency: dict[str, ConsistencyResult] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall-clock time by stage."""
    format_version: int = FORMAT_VERSION

    def save(self, path: Path) -> None:
        """Write as JSON, atomically; NaN becomes null."""
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(_without_nan(dataclasses.asdict(self)), indent=1) + "\n")

    @staticmethod
    def load(path: Path) -> ProbeResults:
        """Read what `save` wrote.

        Raises:
            InputError: no such file, or not a results file of this version.
        """
        try:
            data = json.loads(path.read_text())
            if data["format_version"] != FORMAT_VERSION:
                raise InputError(
                    f"{path} has results version {data['format_version']}, but this program reads version "
                    f"{FORMAT_VERSION}: run fit3d-probe again."
                )
            data["arms"] = [Arm(arm["name"], tuple(arm["backbones"])) for arm in data["arms"]]
            for name, kind in _PARTS.items():
                data[name] = {arm: kind(**_with_nan(values)) for arm, values in data[name].items()}
            for arm, found in data["consistency"].items():
                pairs = [(angle, recall) for angle, recall in found.recall_per_pair]  # JSON knows no tuples
                data["consistency"][arm] = dataclasses.replace(found, recall_per_pair=pairs)
            data["comparisons"] = [Comparison(**_with_nan(values)) for values in data["comparisons"]]
            return ProbeResults(**data)
        except OSError as error:
            raise InputError(
                f"{path} cannot be read ({error.strerror}): give the results.json of fit3d-probe."
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} is not a results.json of fit3d-probe ({error}): run fit3d-probe again."
            ) from error


_PARTS: dict[str, Any] = {
    "segmentation": SegmentationResult,
    "depth": DepthResult,
    "nearest_neighbours": NearestNeighbourResult,
    "consistency": ConsistencyResult,
}


@dataclass(frozen=True, eq=False)
class Example:
    """One test image with what the probes made of it, for the report's pictures."""

    name: str
    image: np.ndarray
    """uint8 [H, W, 3]."""
    features: dict[str, Tensor]
    """By backbone name: [h, w, C] float."""
    labels: np.ndarray | None = None
    """[H, W] class indices, 255 where void."""
    predicted_labels: dict[str, np.ndarray] = field(default_factory=dict)
    """By arm name: [H, W], of the first seed."""
    depth: np.ndarray | None = None
    """[H, W] metres, 0 where unknown."""
    predicted_depth: dict[str, np.ndarray] = field(default_factory=dict)
    """By arm name: [H, W] metres, of the first seed."""


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value


def _with_nan(value: Any) -> Any:
    """None back to NaN, in the values of one part."""
    if value is None:
        return float("nan")
    if isinstance(value, dict):
        return {key: _with_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_nan(item) for item in value]
    return value
