"""Labelled images: what is known about one image, and files of it that are checked when they are read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fit3d_finetune.probing.data.codings import AS_NUMBERED, MILLIMETRES, DepthCoding, LabelCoding
from fit3d_finetune.probing.data.tasks import DepthBenchmarkName
from fit3d_finetune.probing.data.views import ConsistencyView
from fit3d_ns.capture.images import load_image, read_header
from fit3d_ns.common.errors import InputError
from fit3d_ns.scene.normals import normals_from_depth

Array = np.ndarray[Any, np.dtype[Any]]


# Metres. Indoor and street scenes lie well within; millimetres read as metres do not, nor do the reverse.
PLAUSIBLE_DEPTH = (0.05, 200.0)
SAME_SHAPE = 0.02
"""By how much sides may differ, as a share, where labels or depth have another resolution than the image."""


@dataclass(frozen=True, eq=False)
class PinholeCamera:
    """Intrinsics [3, 3] in pixels (top-left pixel centre at (0.5, 0.5)) and pose [4, 4], OpenCV axes."""

    K: Array
    camera_to_world: Array
    size: tuple[int, int] | None = None
    """(height, width) of the images that K belongs to, if it is known."""


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """One image with what is known about it; files are read when asked for."""

    name: str
    path: Path
    label_path: Path | None = None
    depth_path: Path | None = None
    camera: PinholeCamera | None = None
    scene: str = ""
    """The part of its data set that hangs together, e.g. one drive of several; "": all of it does."""
    label_coding: LabelCoding = AS_NUMBERED
    depth_coding: DepthCoding = MILLIMETRES
    upright: bool = False
    """Whether its pixels are turned as its EXIF data ask; labels, depth and camera are of the turned image then."""

    @property
    def files(self) -> dict[str, Path]:
        """All that it is made from, by what it is: images, labels, depth."""
        named = {"images": self.path, "labels": self.label_path, "depth": self.depth_path}
        return {what: path for what, path in named.items() if path is not None}

    @property
    def has_geometry(self) -> bool:
        """Whether there is a `consistency_view`: depth, and a camera without distortion."""
        return self.depth_path is not None and self.camera is not None

    def image(self) -> Array:
        """uint8 [H, W, 3]."""
        return load_image(self.path, upright=self.upright)

    def size(self) -> tuple[int, int]:
        """(height, width), from the file's header."""
        header = read_header(self.path)
        turned = self.upright and header.exif_rotated
        return (header.width, header.height) if turned else (header.height, header.width)

    def labels(self, num_classes: int) -> Array:
        """Class indices uint8 [H, W], 255 where void; of the nearest pixel if the file has another resolution.

        Raises:
            InputError: of another shape than the image, not a class map, or a class that does not exist.
        """
        assert self.label_path is not None
        labels, wrong = self.label_coding.decode(read_numbers(self.label_path, "labels"), num_classes)
        if wrong is not None:
            numbers = self.label_coding.classes or range(num_classes)
            void = "".join(f", {number} = void" for number in self.label_coding.void)
            raise InputError(
                f"{self.label_path} holds class {wrong}, but there are {num_classes} classes "
                f"({min(numbers)} to {max(numbers)}{void}): check classes.json, or whether it is another data set's."
            )
        return self._at_image_size(labels, self.label_path)

    def depth(self) -> Array:
        """float32 [H, W] in metres along the camera's z axis, 0 where unknown; nearest pixels, as labels.

        Raises:
            InputError: of another shape than the image, or values that cannot be metres.
        """
        assert self.depth_path is not None
        stored = self._at_image_size(read_numbers(self.depth_path, "depth"), self.depth_path)
        depth = self.depth_coding.decode(stored)
        known = depth[depth > 0]
        low, high = PLAUSIBLE_DEPTH
        if len(known) and not low <= float(np.median(known)) <= high:
            raise InputError(
                f"{self.depth_path}: a median depth of {np.median(known):.3g} m is implausible; check its unit "
                f"(here {self.depth_coding.metres:g} m each: depth_unit_scale_factor in transforms.json)."
            )
        return depth

    def normals(self, max_depth: float = math.inf) -> Array:
        """Surface normals float32 [H, W, 3] in the camera's frame, by its depth; zero where unknown.

        Args:
            max_depth: metres; what is farther away is unknown.

        Raises:
            InputError: as `depth`, or the camera belongs to an image of another size.
        """
        view = self.consistency_view("")
        depth = torch.from_numpy(np.where(view.depth <= max_depth, view.depth, 0).astype(np.float64))
        normals, _ = normals_from_depth(depth, torch.from_numpy(np.asarray(view.K, np.float64)))
        return normals.numpy().astype(np.float32)

    def consistency_view(self, scene: str) -> ConsistencyView:
        """Its geometry, for multi-view consistency.

        Raises:
            InputError: the camera belongs to an image of another size, or the depth cannot be read.
        """
        assert self.camera is not None
        if self.camera.size not in (None, self.size()):
            raise InputError(
                f"{self.path} is {self.size()[1]}x{self.size()[0]}, but its camera in transforms.json is for "
                f"{self.camera.size[1]}x{self.camera.size[0]}: give the images that belong to it."
            )
        return ConsistencyView(self.depth(), self.camera.K, self.camera.camera_to_world, scene)

    def _at_image_size(self, values: Array, path: Path) -> Array:
        """The values of the pixels nearest to the image's, which may have another resolution."""
        height, width = self.size()
        h, w = values.shape
        if (h, w) == (height, width):
            return values
        if abs(h * width / (w * height) - 1) > SAME_SHAPE:
            raise InputError(
                f"{path} is {w}x{h}, but its image {self.path.name} is {width}x{height}: give labels and depth of the "
                "image's shape (its resolution may be another)."
            )
        rows, columns = ((np.arange(n) + 0.5) * size / n for n, size in ((height, h), (width, w)))
        found: Array = values[np.ix_(rows.astype(np.int64), columns.astype(np.int64))]
        return found


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """A data set: images of one list of classes."""

    name: str
    images: tuple[LabelledImage, ...]
    classes: tuple[str, ...] = ()
    """Empty if there are no labels."""
    benchmark: DepthBenchmarkName = "none"
    """Whose crops belong to it."""
    max_depth: float | None = None
    """Metres, up to which it is scored as a rule."""
    pairs: tuple[tuple[int, int], ...] | None = None
    """Of images that are to be compared, where the data set says which."""

    @property
    def has_labels(self) -> bool:
        return bool(self.classes) and all(image.label_path is not None for image in self.images)

    @property
    def has_depth(self) -> bool:
        return all(image.depth_path is not None for image in self.images)

    @property
    def has_geometry(self) -> bool:
        return all(image.has_geometry for image in self.images)


def given_pairs(data: Sequence[LabelledImages]) -> tuple[tuple[int, int], ...] | None:
    """The pairs that data sets give, by indices among all their images; None if none of them gives any.

    Raises:
        InputError: some do and others do not.
    """
    without = [part.name for part in data if part.pairs is None]
    if len(without) == len(data):
        return None
    if without:
        raise InputError(f"{without[0]} has no list of pairs, which other test data have: probe them apart.")
    found, first = list[tuple[int, int]](), 0
    for part in data:
        found += [(first + i, first + j) for i, j in part.pairs or ()]
        first += len(part.images)
    return tuple(found)


def scenes_of(data: Sequence[LabelledImages]) -> list[str]:
    """The scene of every image, data set by data set: what figures are averaged and compared over.

    A scene bears the last part of its data set's path, or the whole where two have the same, and the name of its part.
    """
    shorts = [Path(part.name).name or part.name for part in data]
    names = [part.name if shorts.count(short) > 1 else short for part, short in zip(data, shorts, strict=True)]
    return [
        f"{name}/{image.scene}" if image.scene else name
        for part, name in zip(data, names, strict=True)
        for image in part.images
    ]


def read_numbers(path: Path, what: str) -> Array:
    """The numbers that a single-channel file stores; of a palette image its indices, as annotations often are."""
    try:
        with Image.open(path) as image:
            values = np.asarray(image)
    except Exception as error:  # Pillow's plugins raise many types on broken files
        raise InputError(f"{path} cannot be read as an image of {what}: replace it.") from error
    if values.ndim != 2:
        raise InputError(f"{path} has {values.shape[2]} channels; {what} must have one.")
    return values
