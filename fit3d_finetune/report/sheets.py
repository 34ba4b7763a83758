"""Pictures beside each other in one PNG: what fine-tuning learned from, and what the heads that it kept predict.

Depths that are to be compared are on one colour scale, and features in the colours of one projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fit3d_finetune.backbone.geometry import GeometryReader
from fit3d_finetune.probing.data.labelled_images import LabelledImage
from fit3d_finetune.report.pictures import (
    Array,
    colour_features,
    colour_normals,
    colour_scale,
    colour_values,
    fit_colours,
    usual_range,
)
from fit3d_finetune.targets.files import TargetFolder
from fit3d_finetune.targets.scenes import Scene
from fit3d_finetune.targets.store import StoreKind, TargetStore
from fit3d_ns.common.atomic import atomic_file
from fit3d_ns.common.output_place import default_cache_dir
from fit3d_ns.features.backbone import BackboneConfig

PANEL_WIDTH = 320
"""Pixels of one picture of a sheet."""
GAP = 4
"""White pixels between pictures."""


@dataclass(frozen=True, eq=False)
class Shape:
    """Depth and normals of what an image shows."""

    depth: Array
    """[H, W] along the camera's z axis, 0 where unknown."""
    normals: Array
    """Unit normals [H, W, 3] in the camera's frame, zero where unknown."""


def sheet(rows: Sequence[Sequence[Array]], width: int = PANEL_WIDTH) -> Array:
    """Rows of pictures, each uint8 [H, W, 3], as one; every picture is brought to `width` and to its row's height.

    Maps of the patch grid are enlarged patch by patch, so that nothing is shown that they do not hold.

    Raises:
        ValueError: there are no pictures.
    """
    if not rows or not all(rows):
        raise ValueError("a sheet needs rows of at least one picture")
    drawn = []
    for row in rows:
        height = max(1, round(width * row[0].shape[0] / row[0].shape[1]))
        panels = [_resized(panel, (height, width)) for panel in row]
        drawn.append(_joined(panels, axis=1))
    widest = max(row.shape[1] for row in drawn)
    padded = [np.pad(row, ((0, 0), (0, widest - row.shape[1]), (0, 0)), constant_values=255) for row in drawn]
    return _joined(padded, axis=0)


def save_png(picture: Array, path: Path) -> None:
    """Write uint8 [H, W, 3], atomically."""
    with atomic_file(path) as temporary:
        Image.fromarray(picture).save(temporary, "png", optimize=True)


def colour_depths(depths: Sequence[Array]) -> list[Array]:
    """Depth maps [H, W] (0: unknown) as colours of one scale, which the first of them spans; dark: unknown.

    Raises:
        ValueError: if `depths` is empty.
    """
    if not depths:
        raise ValueError("no depth maps to colour")
    low, high = usual_range(depths[0][depths[0] > 0])
    return [colour_values(depth, colour_scale("depth"), low, high, depth > 0) for depth in depths]


def true_shape(image: LabelledImage) -> Shape | None:
    """Of the data; None where it has no depth or no pinhole camera."""
    return Shape(image.depth(), image.normals()) if image.has_geometry else None


def predicted_shape(reader: GeometryReader, image: LabelledImage) -> Shape:
    """By the heads that a fine-tuning kept, at the image's size; depth is up to a factor without the image's camera."""
    pixels = _pixels(image)
    focal = None if image.camera is None else float(image.camera.K[1, 1])
    depth, normals = reader.depth(pixels, focal)[:, None], reader.normals(pixels).permute(0, 3, 1, 2)

    def enlarged(map: Tensor) -> Tensor:
        return F.interpolate(map.cpu(), pixels.shape[-2:], mode="bilinear", align_corners=False)[0]

    directions = F.normalize(enlarged(normals), dim=0).permute(1, 2, 0)
    return Shape(enlarged(depth)[0].numpy(), directions.numpy())


def predictions_sheet(reader: GeometryReader, images: Sequence[LabelledImage]) -> Array:
    """Rows of photo | depth | true depth | normals | true normals, one for each image; uint8 [H, W, 3].

    Depths of a row are on the scale of the true one. Without the truth a row has no place for it.
    """
    rows = []
    for image in images:
        predicted, truth = predicted_shape(reader, image), true_shape(image)
        # The first spans the scale.
        shapes = [predicted] if truth is None else [truth, predicted]
        depths = colour_depths([shape.depth for shape in shapes])[::-1]
        normals = [colour_normals(shape.normals) for shape in shapes[::-1]]
        rows.append([image.image(), *depths, *normals])
    return sheet(rows)


@torch.no_grad()
def comparison_sheet(readers: Sequence[GeometryReader], image: LabelledImage) -> Array:
    """Backbones of one number of channels side by side on one image: uint8 [H, W, 3], a column for each reader.

    Rows: photo and features, all in one projection; true depth and predicted depths, all on one scale; true normals
    and predicted ones.

    Raises:
        ValueError: the image has no depth or no camera.
    """
    truth = true_shape(image)
    if truth is None:
        raise ValueError(f"{image.name} has no depth and camera to compare with")
    pixels = _pixels(image)
    features = [reader.backbone(pixels)[0].permute(1, 2, 0) for reader in readers]
    projection = fit_colours(features)
    shapes = [truth, *(predicted_shape(reader, image) for reader in readers)]
    return sheet(
        [
            [image.image(), *(colour_features(map, projection) for map in features)],
            colour_depths([shape.depth for shape in shapes]),
            [colour_normals(shape.normals) for shape in shapes],
        ]
    )


def targets_sheet(scene: Scene, view: int, backbone: BackboneConfig) -> Array:
    """What one view teaches: uint8 [H, W, 3] with two rows of three pictures.

    Above: photo | the original backbone's features of it | the scene's features, re-rendered. Below: how much each
    patch counts for depth and normals (black: not at all) | log depth | normals, both dark where patches do not count.

    Args:
        scene: an export.
        view: which of its photographs.
        backbone: the original one, which the scene was made with.
    """
    folder = TargetFolder(default_cache_dir() / "targets", limit_bytes=0)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def store(kind: StoreKind) -> TargetStore:
        return TargetStore([scene], folder, device, kind, backbone)

    own, target, geometry = (store(kind).get(0, view) for kind in ("original", "gaussians", "geometry"))
    counts = geometry.weights.numpy()
    log_depth, normals = geometry.features[..., 0].numpy(), geometry.features[..., 1:4].numpy()
    known = counts > 0
    projection = fit_colours([own.features, target.features])
    photo = (store("gaussians").image(0, view).permute(1, 2, 0) * 255).round().byte().numpy()
    above = [photo, colour_features(own.features, projection), colour_features(target.features, projection)]
    below = [
        colour_values(counts, colour_scale("weight"), 0.0, 1.0),
        colour_values(log_depth, colour_scale("depth"), *usual_range(log_depth[known]), known),
        colour_normals(np.where(known[..., None], normals, 0.0)),
    ]
    return sheet([above, below])


def _pixels(image: LabelledImage) -> Tensor:
    """[1, 3, H, W] in 0..1."""
    return torch.from_numpy(image.image().copy()).permute(2, 0, 1)[None].float() / 255


def _resized(picture: Array, size: tuple[int, int]) -> Array:
    larger = size[0] > picture.shape[0]
    interpolation = cv2.INTER_NEAREST_EXACT if larger else cv2.INTER_AREA
    resized: Array = cv2.resize(picture, size[::-1], interpolation=interpolation)
    return resized


def _joined(pictures: Sequence[Array], axis: int) -> Array:
    shape = list(pictures[0].shape)
    shape[axis] = GAP
    gap = np.full(shape, 255, np.uint8)
    return np.concatenate([part for picture in pictures for part in (gap, picture)][1:], axis=axis)
