"""What a probing run found, as data: the one thing that the table, the figures and the report are made from.

Every figure is the mean over the test scenes of the scene's own figure, and what it is made of is kept by seed and test
image, so that what is tested (see `significance`) is what is shown. On disk it is `results.json`.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fit3d_finetune.probing.comparison import Comparison, SceneFigures
from fit3d_finetune.probing.counts import Array, ClassCounts, from_sparse, no_pixels, to_sparse
from fit3d_ns.common.atomic import atomic_file
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.json_input import parse_json

FORMAT_VERSION = 2


@dataclass(frozen=True)
class Arm:
    """One row of the comparison: the channels of one or more backbones, concatenated."""

    name: str
    """E.g. "original", "fine-tuned", "original + fine-tuned", "original + 2D control"."""
    backbones: tuple[str, ...]
    """Names of the backbones whose maps are concatenated, in this order; one may stand there twice."""


@dataclass(frozen=True, eq=False)
class SegmentationResult:
    """One arm's semantic segmentation, by probe seed. Shares in 0..1."""

    miou: list[float]
    """Mean over scenes of the mean over those of `ProbeResults.counted_classes` that the scene's labels hold."""
    pooled_miou: list[float]
    """Over all pixels of all scenes together, as published tables have it."""
    pixel_accuracy: list[float]
    class_accuracy: list[float]
    """Mean over the same classes of the share of their pixels that were found."""
    iou_per_class: list[list[float]]
    """[seeds][classes], pixels of all scenes together; NaN (null in JSON) where a class is neither in the labels nor
    predicted."""
    counts: ClassCounts
    """Pixels [seeds, images, classes]."""


@dataclass(frozen=True)
class DepthResult:
    """One arm's depth estimation, by probe seed: means over scenes of means over images. Metres; deltas in 0..1."""

    rmse: list[float]
    abs_rel: list[float]
    log10: list[float]
    delta1: list[float]
    delta2: list[float]
    delta3: list[float]
    squared_error: list[list[float]]
    """[seeds][images]: sum over the pixels of known depth, m^2."""
    pixels: list[int]
    """[images]: how many these are; an image without any does not count."""


@dataclass(frozen=True)
class NormalsResult:
    """One arm's surface normals, by probe seed: means over scenes of means over images. Degrees; shares in 0..1."""

    rmse: list[float]
    mean: list[float]
    within_11: list[float]
    """Of the pixels, those less than 11.25 degrees off; the others 22.5 and 30."""
    within_22: list[float]
    within_30: list[float]
    image_rmse: list[list[float]]
    """[seeds][images] in degrees; NaN (null in JSON) where no normal is known."""


@dataclass(frozen=True, eq=False)
class NearestNeighbourResult:
    """k-nearest-neighbour segmentation of one arm: no training, so no seeds. Figures as in `SegmentationResult`."""

    k: int
    miou: float
    pooled_miou: float
    pixel_accuracy: float
    iou_per_class: list[float]
    counts: ClassCounts
    """Pixels [1, images, classes]."""


@dataclass(frozen=True)
class ConsistencyResult:
    """Multi-view consistency of one arm over pairs of views, binned by the angle between them (Probe3D)."""

    angle_edges: list[float]
    """Degrees, one more than there are bins."""
    cosine: list[float]
    """Per bin: mean over scenes of the mean over their pairs of the mean cosine between features of pixels that show
    the same point; NaN in empty bins."""
    recall: list[float]
    """Per bin: the same of the share of pixels whose nearest neighbour in the other view lies within
    `recall_patches`."""
    pairs: list[int]
    """Per bin: number of view pairs."""
    recall_patches: float
    pair_scenes: list[int]
    """[pairs]: index into `ProbeResults.scenes`. Pairs are the same for every arm, ordered by their first view."""
    pair_bins: list[int]
    pair_recall: list[float]


@dataclass(frozen=True)
class MatchingResult:
    """Geometric matching of one arm over pairs of views, binned by the angle between them (Probe3D)."""

    angle_edges: list[float]
    """Degrees, one more than there are bins."""
    metres: list[float]
    """Thresholds in space."""
    recall_metres: list[list[float]]
    """[thresholds][bins]: mean over scenes of the mean over their pairs of the share of matches within; NaN in empty
    bins."""
    pixels: list[float]
    """Thresholds in the second image."""
    recall_pixels: list[list[float]]
    pairs: list[int]
    """Per bin: number of view pairs."""
    pair_scenes: list[int]
    """[pairs]: index into `ProbeResults.scenes`. Pairs are the same for every arm."""
    pair_bins: list[int]
    pair_recall: list[float]
    """Within the largest of `metres`."""


@dataclass(frozen=True, eq=False)
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
    scenes: list[str]
    """Names of the test scenes: the units of every comparison."""
    image_scenes: list[int]
    """[images]: index into `scenes`."""
    classes: list[str]
    counted_classes: list[int]
    """Indices of the classes that means go over: under the fast protocol those with at least 0.2 % of the labelled test
    pixels, under the paper's all."""
    labelled_pixels: Array = field(default_factory=no_pixels)
    """[images, classes] int64: labelled test pixels, empty without labels."""
    segmentation: dict[str, SegmentationResult] = field(default_factory=dict)
    """By arm name; empty if the data has no labels. The same for the others."""
    depth: dict[str, DepthResult] = field(default_factory=dict)
    depth_patches: dict[str, DepthResult] = field(default_factory=dict)
    """Heads without class tokens."""
    normals: dict[str, NormalsResult] = field(default_factory=dict)
    nearest_neighbours: dict[str, NearestNeighbourResult] = field(default_factory=dict)
    nearest_neighbours_across: dict[str, NearestNeighbourResult] = field(default_factory=dict)
    """In other views of the scene, from other angles; see `other_angles`."""
    pixels_across: Array = field(default_factory=no_pixels)
    """[images, classes] int64: the labelled pixels that count in it."""
    consistency: dict[str, ConsistencyResult] = field(default_factory=dict)
    matching: dict[str, MatchingResult] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall-clock time by stage."""
    format_version: int = FORMAT_VERSION

    def save(self, path: Path) -> None:
        """Write as JSON, atomically, one field a line; NaN becomes null, and of counts those that are not 0 stay."""
        data = {name: _plain(value) for name, value in vars(self).items()}
        lines = [f" {json.dumps(name)}: {json.dumps(value, separators=(',', ':'))}" for name, value in data.items()]
        with atomic_file(path) as temporary:
            temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n")

    @staticmethod
    def load(path: Path) -> ProbeResults:
        """Read what `save` wrote.

        Raises:
            InputError: no such file, or not a results file of this version.
        """
        try:
            data = parse_json(path.read_text())
            if data["format_version"] != FORMAT_VERSION:
                raise InputError(
                    f"{path} has results version {data['format_version']}, but this program reads version "
                    f"{FORMAT_VERSION}: run fit3d-probe again."
                )
            num_classes = len(data["classes"])
            for name in ("labelled_pixels", "pixels_across"):
                counts = data.get(name)
                data[name] = from_sparse(counts, 1, num_classes, 1)[..., 0] if counts else no_pixels()
            data["arms"] = [Arm(arm["name"], tuple(arm["backbones"])) for arm in data["arms"]]
            for name, kind in _PARTS.items():
                data.setdefault(name, {})  # a task that came after the file
                for values in data[name].values():
                    if "counts" in values:
                        values["counts"] = ClassCounts.from_sparse(values["counts"], num_classes)
                data[name] = {arm: kind(**_with_nan(values)) for arm, values in data[name].items()}
            data["comparisons"] = [_comparison(_with_nan(values)) for values in data["comparisons"]]
            return ProbeResults(**data)
        except OSError as error:
            raise InputError(
                f"{path} cannot be read ({error.strerror}): give the results.json of fit3d-probe."
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
            raise InputError(
                f"{path} is not a results.json of fit3d-probe ({error}): run fit3d-probe again."
            ) from error


_PARTS: dict[str, Any] = {
    "segmentation": SegmentationResult,
    "depth": DepthResult,
    "depth_patches": DepthResult,
    "normals": NormalsResult,
    "nearest_neighbours": NearestNeighbourResult,
    "nearest_neighbours_across": NearestNeighbourResult,
    "consistency": ConsistencyResult,
    "matching": MatchingResult,
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
    normals: np.ndarray | None = None
    """[H, W, 3] in the camera's frame, zero where unknown."""
    predicted_normals: dict[str, np.ndarray] = field(default_factory=dict)
    """By arm name: [H, W, 3], of the first seed."""


def _comparison(values: dict[str, Any]) -> Comparison:
    return Comparison(**{**values, "scenes": [SceneFigures(**scene) for scene in values["scenes"]]})


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, ClassCounts):
        return value.to_sparse()
    if isinstance(value, np.ndarray):
        return to_sparse(value[..., None])
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
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
