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

from fit3d_finetune.probing.data.views import ConsistencyView
from fit3d_ns.capture.images import load_image, read_header
from fit3d_ns.common.errors import InputError
from fit3d_ns.scene.normals import normals_from_depth

Array = np.ndarray[Any, np.dtype[Any]]

VOID = 255
"""Label of pixels that do not count."""

# Metres. Indoor and street scenes lie well within; millimetres read as metres do not, nor do the reverse.
PLAUSIBLE_DEPTH = (0.05, 200.0)


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
    void_label: int = VOID
    depth_path: Path | None = None
    depth_scale: float = 1e-3
    """Metres per unit of the depth file."""
    camera: PinholeCamera | None = None
    scene: str = ""
    """The part of its data set that hangs together, e.g. one drive of several; "": all of it does."""

    @property
    def has_geometry(self) -> bool:
        """Whether there is a `consistency_view`: depth, and a camera without distortion."""
        return self.depth_path is not None and self.camera is not None

    def image(self) -> Array:
        """uint8 [H, W, 3]."""
        return load_image(self.path)

    def size(self) -> tuple[int, int]:
        """(height, width), from the file's header."""
        header = read_header(self.path)
        return header.height, header.width

    def labels(self, num_classes: int) -> Array:
        """Class indices uint8 [H, W], 255 where void.

        Raises:
            InputError: of another size than the image, not a class map, or a class that does not exist.
        """
        assert self.label_path is not None
        labels = _read(self.label_path, "labels")
        self._require_size(labels, self.label_path)
        labels = np.where(labels == self.void_label, VOID, labels)
        wrong = np.setdiff1d(np.unique(labels), [*range(num_classes), VOID])
        if len(wrong):
            raise InputError(
                f"{self.label_path} holds class {int(wrong[0])}, but there are {num_classes} classes "
                f"(0 to {num_classes - 1}, {VOID} = void): check classes.json."
            )
        return labels.astype(np.uint8)

    def depth(self) -> Array:
        """float32 [H, W] in metres along the camera's z axis, 0 where unknown.

        Raises:
            InputError: of another size than the image, or values that cannot be metres.
        """
        assert self.depth_path is not None
        depth = _read(self.depth_path, "depth").astype(np.float32) * np.float32(self.depth_scale)
        self._require_size(depth, self.depth_path)
        known = depth[np.isfinite(depth) & (depth > 0)]
        low, high = PLAUSIBLE_DEPTH
        if len(known) and not low <= float(np.median(known)) <= high:
            raise InputError(
                f"{self.depth_path}: a median depth of {np.median(known):.3g} m is implausible; check its unit "
                f"(here {self.depth_scale:g} m each: depth_unit_scale_factor in transforms.json)."
            )
        return np.where(np.isfinite(depth) & (depth > 0), depth, 0).astype(np.float32)

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

    def _require_size(self, values: Array, path: Path) -> None:
        height, width = self.size()
        if values.shape != (height, width):
            raise InputError(
                f"{path} is {values.shape[1]}x{values.shape[0]}, but its image {self.path.name} is {width}x{height}: "
                "give labels and depth at the images' size."
            )


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """A data set: images of one list of classes."""

    name: str
    images: tuple[LabelledImage, ...]
    classes: tuple[str, ...] = ()
    """Empty if there are no labels."""

    @property
    def has_labels(self) -> bool:
        return bool(self.classes) and all(image.label_path is not None for image in self.images)

    @property
    def has_depth(self) -> bool:
        return all(image.depth_path is not None for image in self.images)

    @property
    def has_geometry(self) -> bool:
        return all(image.has_geometry for image in self.images)


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


def _read(path: Path, what: str) -> Array:
    """The numbers that a single-channel file stores; of a palette image its indices, as annotations often are."""
    try:
        with Image.open(path) as image:
            values = np.asarray(image)
    except Exception as error:  # Pillow's plugins raise many types on broken files
        raise InputError(f"{path} cannot be read as an image of {what}: replace it.") from error
    if values.ndim != 2:
        raise InputError(f"{path} has {values.shape[2]} channels; {what} must have one.")
    return values
