"""Pictures of a photo's features: whatever is fitted is fitted to both backbones together, so that colours compare.

All are uint8 [h, w, 3] on the patch grid, the original's first; `enlarge` makes them as large as the photo.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch

from fit3d_finetune.page.features import PhotoFeatures
from fit3d_finetune.report.pictures import (
    assign_clusters,
    cluster_colours,
    colour_features,
    colour_labels,
    colour_scale,
    colour_values,
    cosine_to_patch,
    fit_clusters,
    fit_colours,
    usual_range,
)
from fit3d_ns.features.patch_grid import as_squares

Array = np.ndarray[Any, np.dtype[Any]]
Pair = tuple[Array, Array]

FEWEST_CLUSTERS, MOST_CLUSTERS = 2, 12
"""There are as many colours."""


@dataclass(frozen=True, eq=False)
class Similarity:
    """Cosines with one patch, drawn on one scale for both backbones."""

    pictures: Pair
    lowest: float
    """The cosine that has the scale's first colour; 1 has its last."""


@dataclass(frozen=True, eq=False)
class DepthPicture:
    """Depth on a scale of its own."""

    picture: Array
    ratio: float
    """How many times as far the brightest colour is as the darkest."""


def colour_pictures(features: PhotoFeatures) -> Pair:
    """The first three principal components of both maps together as red, green and blue."""
    projection = fit_colours(features.maps)
    return colour_features(features.original, projection), colour_features(features.finetuned, projection)


def cluster_pictures(features: PhotoFeatures, count: int) -> Pair:
    """k-means of the patches of both maps together; the result depends on the features and `count` alone.

    Args:
        features: of one photo.
        count: of clusters, brought into `FEWEST_CLUSTERS` to `MOST_CLUSTERS`.
    """
    count = min(max(int(count), FEWEST_CLUSTERS), MOST_CLUSTERS)
    centres, palette = fit_clusters(features.maps, count), cluster_colours(count)
    original, finetuned = (colour_labels(assign_clusters(map, centres), palette) for map in features.maps)
    return original, finetuned


def similarity_pictures(features: PhotoFeatures, row: int, column: int) -> Similarity:
    """Of each backbone, the cosine of every patch with that backbone's own feature of one patch."""
    scale = colour_scale("heat")
    original, finetuned = (cosine_to_patch(map, row, column).numpy() for map in features.maps)
    lowest = float(min(original.min(), finetuned.min()))
    pictures = colour_values(original, scale, lowest, 1.0), colour_values(finetuned, scale, lowest, 1.0)
    return Similarity(pictures, lowest)


def depth_picture(depth: Array) -> DepthPicture:
    """Positive depths [h, w], near to far as dark to bright; all but 2 % at either end fill the scale."""
    low, high = usual_range(depth)
    return DepthPicture(colour_values(depth, colour_scale("depth"), low, high), high / max(low, 1e-12))


def patch_at(x: float, y: float, size: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int]:
    """(row, column) of the patch under a pixel; places outside count as the nearest inside.

    Args:
        x, y: pixel from the left and from the top.
        size: (height, width) of the picture in pixels.
        grid: (h, w) patches.
    """
    row, column = (int(place * cells // side) for place, side, cells in ((y, size[0], grid[0]), (x, size[1], grid[1])))
    return min(max(row, 0), grid[0] - 1), min(max(column, 0), grid[1] - 1)


def enlarge(picture: Array, size: tuple[int, int]) -> Array:
    """A picture [h, w, 3] on the patch grid as flat squares [height, width, 3]; `patch_at` finds each pixel's patch."""
    enlarged: Array = as_squares(torch.from_numpy(picture), *size).numpy()
    return enlarged


def mark(picture: Array, row: int, column: int, grid: tuple[int, int]) -> Array:
    """A copy of a picture [H, W, 3] with a ring around the middle of a patch."""
    height, width = picture.shape[:2]
    centre = int((column + 0.5) * width / grid[1]), int((row + 0.5) * height / grid[0])
    radius = max(4, round(0.75 * max(height / grid[0], width / grid[1])))
    marked = picture.copy()
    for colour, thickness in (((0, 0, 0), 4), ((255, 255, 255), 2)):
        cv2.circle(marked, centre, radius, colour, thickness, cv2.LINE_AA)
    return marked
