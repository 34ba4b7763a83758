"""Pictures of features, labels and depth as arrays: one projection, one clustering, one palette for all maps shown.

Features of several backbones can be compared by eye only if equal features look equal. So every function that fits
something takes all maps at once, and what it fits is applied to each of them.
"""

from __future__ import annotations

import colorsys
import warnings
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from scipy.cluster.vq import kmeans2
from torch import Tensor

from fit3d_ns.features.pca import ColorProjection, fit_pca

Array = np.ndarray[Any, np.dtype[Any]]

VOID = 255
"""The label that means "not labelled"."""

_VOID_COLOUR = (43, 45, 49)

_CLASS_COLOURS = (
    *("#b9c0cb", "#c08a52", "#e6ddc6", "#8c3f2b", "#62b6f0", "#e0559a", "#7a4fd0", "#f2a33a", "#2f9e57", "#a7d13d"),
    *("#875f3c", "#1d8a99", "#ffe14d", "#32388f", "#1fb141", "#f3b6cf", "#3fe0d0", "#4a7dc9", "#e2552b", "#9a8a12"),
    *("#b5324a", "#c49be8", "#6f7682", "#0f5b46", "#ff8f7a", "#5c2a6e"),
)
_CLUSTER_COLOURS = (
    *("#4c78a8", "#f58518", "#54a24b", "#e45756", "#b79adf", "#eeca3b", "#72b7b2", "#9d755d"),
    *("#ff9da6", "#bab0ac", "#2f4b7c", "#1b9e77"),
)


def fit_colours(maps: Sequence[Tensor], spread: float = 2.0) -> ColorProjection:
    """One projection to colours for all maps: the first three principal components of their patches together.

    Args:
        maps: each [h, w, C], of one C.
        spread: standard deviations either side of the mean that fill the range of a colour channel.

    Raises:
        ValueError: if `maps` is empty.
    """
    return ColorProjection.from_basis(fit_pca((_plain(map) for map in maps), 3), spread)


def colour_features(map: Tensor, projection: ColorProjection) -> Array:
    """Features [h, w, C] to uint8 [h, w, 3]."""
    colours: Array = (projection(_plain(map)) * 255).round().byte().numpy()
    return colours


def fit_clusters(maps: Sequence[Tensor], count: int, seed: int = 0, iterations: int = 20) -> Tensor:
    """k-means (scipy's, started by k-means++) of the patches of all maps together.

    The result depends on the maps and the seed alone.

    Args:
        maps: each [h, w, C], of one C.
        count: number of clusters; fewer are found if there are fewer different patches.

    Returns:
        [count, C] centres, that of the largest cluster first.

    Raises:
        ValueError: if `maps` is empty.
    """
    if not maps:
        raise ValueError("no feature maps to cluster")
    samples = torch.cat([_plain(map).flatten(0, 1) for map in maps]).numpy()
    random = np.random.default_rng(seed)
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore")  # of empty clusters, which are dropped here
        centres, members = kmeans2(samples, count, iter=iterations, minit="++", seed=random)
    sizes = np.bincount(members, minlength=count)
    order = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
    return torch.from_numpy(centres[order])


def assign_clusters(map: Tensor, centres: Tensor) -> Array:
    """Index of the nearest centre (Euclidean) of each patch: [h, w, C] to uint8 [h, w]."""
    indices: Array = _nearest(_plain(map).flatten(0, 1), centres).view(map.shape[:2]).byte().numpy()
    return indices


def cosine_to_patch(map: Tensor, row: int, column: int) -> Tensor:
    """Cosine of every patch of [h, w, C] with the one at (row, column): [h, w] in -1..1."""
    unit = F.normalize(_plain(map), dim=-1)
    return unit @ unit[row, column]


def compress_directions(maps: Sequence[Tensor], dimensions: int) -> list[Array]:
    """Patch features as few bytes that keep the cosines between them.

    Patches are scaled to length one, projected on the `dimensions` directions that hold most of their (uncentred)
    second moment over all maps together, and each map is quantised with one step for all its entries: a cosine
    ignores the step.

    Args:
        maps: each [h, w, C], of one C.

    Returns:
        int8 [h, w, min(dimensions, C)] of each map.
    """
    units = [F.normalize(_plain(map), dim=-1) for map in maps]
    moment = torch.stack([unit.flatten(0, 1).double().T @ unit.flatten(0, 1).double() for unit in units]).sum(0)
    directions = torch.linalg.eigh(moment)[1].flip(1)[:, :dimensions].float()
    compressed = []
    for unit in units:
        reduced = unit @ directions
        step = float(reduced.abs().max()) / 127 or 1.0
        compressed.append((reduced / step).round().to(torch.int8).numpy())
    return compressed


def class_colours(count: int) -> Array:
    """A fixed colour for each class index: uint8 [count, 3]."""
    colours = [_rgb(colour) for colour in _CLASS_COLOURS[:count]]
    for index in range(len(colours), count):
        # Steps of the golden angle never repeat a hue; lightness alternates to keep neighbours in hue apart.
        red, green, blue = colorsys.hls_to_rgb(index * 0.618034 % 1, (0.45, 0.65, 0.3)[index % 3], 0.6)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return np.array(colours, dtype=np.uint8).reshape(count, 3)


def cluster_colours(count: int) -> Array:
    """Colours of cluster indices, unlike those of classes: uint8 [count, 3], count up to 12."""
    return np.array([_rgb(colour) for colour in _CLUSTER_COLOURS[:count]], dtype=np.uint8)


def colour_labels(labels: Array, palette: Array) -> Array:
    """Class indices [H, W] to uint8 [H, W, 3]; dark where void (or not in the palette)."""
    table = np.full((256, 3), _VOID_COLOUR, dtype=np.uint8)
    table[: min(len(palette), VOID)] = palette[:VOID]
    return table[np.clip(labels, 0, VOID)]


def mark_label_errors(image: Array, labels: Array, predicted: Array) -> Array:
    """The image in pale grey with the wrong pixels in red, the void ones dark: uint8 [H, W, 3].

    Args:
        image: uint8 [H, W, 3].
        labels: [H, W] class indices, 255 where void.
        predicted: [H, W] class indices.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None]
    picture = np.repeat(120 + 0.5 * grey, 3, axis=2)
    wrong = predicted != labels
    picture[wrong] = 0.35 * grey[wrong] + np.array([190, 10, 30], dtype=np.float32) * 0.85
    picture[labels == VOID] = _VOID_COLOUR
    marked: Array = picture.clip(0, 255).astype(np.uint8)
    return marked


def colour_scale(name: str) -> Array:
    """256 colours [256, 3], uint8, low to high: "depth" (viridis), "error" (magma), "heat" (turbo), "weight" (bone)."""
    scales = {
        "depth": cv2.COLORMAP_VIRIDIS,
        "error": cv2.COLORMAP_MAGMA,
        "heat": cv2.COLORMAP_TURBO,
        "weight": cv2.COLORMAP_BONE,
    }
    table = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], scales[name])
    return np.ascontiguousarray(table[0, :, ::-1])


def colour_values(values: Array, scale: Array, low: float, high: float, known: Array | None = None) -> Array:
    """Numbers [H, W] to colours of a scale [256, 3], uint8 [H, W, 3]; dark where not finite or not `known`."""
    finite = np.isfinite(values) if known is None else np.isfinite(values) & known
    share = (np.where(finite, values, low) - low) / max(high - low, 1e-12)
    picture = scale[np.rint(share.clip(0, 1) * 255).astype(np.uint8)]
    picture[~finite] = _VOID_COLOUR
    return picture


def usual_range(values: Array) -> tuple[float, float]:
    """What all finite values but 2 % at either end lie within; 0 to 1 if there are none."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = np.percentile(finite, (2, 98))
    return float(low), float(high)


def colour_normals(normals: Array) -> Array:
    """Unit normals [H, W, 3] in the camera's frame (x right, y down, z forward; zero: unknown) to uint8 [H, W, 3].

    To the right is red, upwards green, towards the camera blue; unknown is grey.
    """
    colours = 127.5 * (1 + normals * np.array([1.0, -1.0, -1.0]))
    picture: Array = colours.round().clip(0, 255).astype(np.uint8)
    return picture


def _plain(map: Tensor) -> Tensor:
    return map.detach().to("cpu", torch.float32)


def _nearest(samples: Tensor, centres: Tensor) -> Tensor:
    """Index of the nearest centre of each of [N, C] samples; the samples' own norm does not matter."""
    return (centres.square().sum(1) - 2 * samples @ centres.T).argmin(1)


def _rgb(code: str) -> tuple[int, int, int]:
    return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)
