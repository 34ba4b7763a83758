"""The pictures of features: colours, clusters and similarity, each fitted once for all backbones and examples."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fit3d_finetune.probing.comparison import number
from fit3d_finetune.probing.results import Example
from fit3d_finetune.report.images import Array, framed, path_caption, photo, png_uri, scale_bar
from fit3d_finetune.report.markup import Markup, tag
from fit3d_finetune.report.pictures import (
    assign_clusters,
    cluster_colours,
    colour_features,
    colour_labels,
    colour_scale,
    colour_values,
    compress_directions,
    cosine_to_patch,
    fit_clusters,
    fit_colours,
)
from fit3d_ns.features.pca import ColorProjection

CLUSTERS = 8
DIRECTIONS = 96
"""Dimensions in which the page compares patches."""
DIRECTIONS_BYTES = 1_500_000
"""What all patches in the page may take; more of them (or larger grids) get fewer dimensions."""


@dataclass(frozen=True)
class FeatureViews:
    """What is drawn of the features, by example (None if it has none) and backbone name."""

    projection: ColorProjection
    centres: Tensor
    """[clusters, C]."""
    colours: list[dict[str, Array]]
    """uint8 [h, w, 3]."""
    clusters: list[dict[str, Array]]
    """uint8 [h, w]."""
    directions: list[dict[str, Array]]
    """int8 [h, w, D]: cosines between them are those between the features, nearly."""
    similarity: list[dict[str, Array]]
    """[h, w] cosine with the patch at `picked`."""
    picked: list[tuple[int, int]]
    """(row, column) of the patch that is shown first."""
    left_out: list[str]
    """Backbones whose features have another number of channels than the first one's: no projection fits both."""


def view_features(examples: Sequence[Example]) -> FeatureViews | None:
    """Fit colours, clusters and compressed directions to the features of all examples and backbones together.

    Returns:
        None if no example has features.
    """
    maps = [(index, name, map) for index, example in enumerate(examples) for name, map in example.features.items()]
    if not maps:
        return None
    channels = maps[0][2].shape[-1]
    left_out = sorted({name for _, name, map in maps if map.shape[-1] != channels})
    kept = [entry for entry in maps if entry[1] not in left_out]
    tensors = [map for _, _, map in kept]
    projection, centres = fit_colours(tensors), fit_clusters(tensors, CLUSTERS)
    patches = sum(map.shape[0] * map.shape[1] for map in tensors)
    compressed = compress_directions(tensors, max(8, min(DIRECTIONS, DIRECTIONS_BYTES // patches)))
    views = FeatureViews(
        projection=projection,
        centres=centres,
        colours=[{} for _ in examples],
        clusters=[{} for _ in examples],
        directions=[{} for _ in examples],
        similarity=[{} for _ in examples],
        picked=[(0, 0) for _ in examples],
        left_out=left_out,
    )
    for (index, name, map), small in zip(kept, compressed, strict=True):
        row, column = map.shape[0] // 2, map.shape[1] // 2
        views.picked[index] = (row, column)
        views.colours[index][name] = colour_features(map, projection)
        views.clusters[index][name] = assign_clusters(map, centres)
        views.directions[index][name] = small
        views.similarity[index][name] = cosine_to_patch(map, row, column).numpy()
    return views


def feature_rows(examples: Sequence[Example], views: FeatureViews) -> list[Markup]:
    """One row for each example: the photo, then colours and clusters of every backbone."""
    palette = cluster_colours(CLUSTERS)
    rows = []
    for index, example in enumerate(examples):
        cells = []
        for name, colours in views.colours[index].items():
            caption = ["PCA, ", tag("b", name)]
            cells.append(framed(png_uri(colours), example.image.shape, f"PCA of {name}", caption, "smooth"))
        for name, clusters in views.clusters[index].items():
            caption = ["k-means, ", tag("b", name)]
            uri = png_uri(colour_labels(clusters, palette))
            cells.append(framed(uri, example.image.shape, f"k-means of {name}", caption, "patches"))
        if cells:
            first = tag("figure", photo(index, example.name), path_caption(example.name), class_="photo-cell")
            rows.append(
                tag(
                    "div", first, cells, class_="row", style=f"--columns:{len(cells) + 1};--backbones:{len(cells) // 2}"
                )
            )
    return rows


def similarity_rows(examples: Sequence[Example], views: FeatureViews) -> list[Markup]:
    """One row for each example: the photo and, of every backbone, the cosine with the patch under the mark."""
    heat = colour_scale("heat")
    rows = []
    for index, example in enumerate(examples):
        maps = views.similarity[index]
        if not maps:
            continue
        low = min(float(values.min()) for values in maps.values())
        grid = next(iter(maps.values())).shape
        row, column = views.picked[index]
        # The mark is placed in fractions, since grids of different backbones may differ.
        place = f"left:{100 * (column + 0.5) / grid[1]:.2f}%;top:{100 * (row + 0.5) / grid[0]:.2f}%"
        mark = tag("i", class_="mark", style=place)
        cells = [
            tag(
                "figure",
                tag("div", photo(index, example.name), mark, class_="pick", tabindex=0),
                path_caption(example.name),
                class_="photo-cell",
            )
        ]
        for name, values in maps.items():
            small = views.directions[index][name]
            overlay = tag(
                "img",
                src=png_uri(colour_values(values, heat, low, 1.0)),
                alt=f"cosine with the marked patch, {name}",
                class_="heat",
                data_rows=small.shape[0],
                data_columns=small.shape[1],
                data_directions=base64.b64encode(np.ascontiguousarray(small).tobytes()).decode(),
            )
            frame = tag("div", photo(index, example.name, "grey"), overlay, mark, class_="pick", tabindex=0)
            cells.append(tag("figure", frame, tag("figcaption", tag("b", name))))
        scale = scale_bar(heat, number(low, 2), "1", "cosine")
        style = f"--columns:{len(cells)};--backbones:{len(maps)}"
        rows.append(tag("div", tag("div", cells, class_="row", style=style), scale, class_="similarity"))
    return rows


def heat_table() -> str:
    """The colours of the heat maps for the page's script: base64 of 256 RGB triples."""
    return base64.b64encode(colour_scale("heat").tobytes()).decode()
