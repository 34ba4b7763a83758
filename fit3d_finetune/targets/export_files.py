"""Where the files of an export are: in a folder, with its images beside or elsewhere, or on object storage."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from fit3d_ns.common.errors import InputError
from fit3d_ns.common.json_input import parse_json
from fit3d_ns.remote.cache import RemoteCache
from fit3d_ns.remote.folder import RemoteFile, RemoteFolder
from fit3d_ns.scene.description import EXPORT_AGAIN, SceneInfo, ViewInfo, file_sha256, resolve
from fit3d_ns.scene.gaussians import GAUSSIANS_FILE, POSITION, SCENE_FILE, FeatureGaussians

LONGEST_HEADER = 100_000_000
"""Bytes: safetensors' own bound."""


class ExportFiles(Protocol):
    """The files of one export; its text, for messages, is where they are."""

    def load(self) -> FeatureGaussians:
        """The Gaussians; they were checked when the scene was found, or are now."""

    def position(self) -> Tensor | None:
        """The position term [rows, columns, C] (`fit3d_ns.features.position`), read from the file: only the control
        needs it, and that of all scenes would fill the memory. None: the features were lifted without one.
        """

    def image(self, view: ViewInfo) -> Path:
        """A view's image on this machine."""

    def mask(self, view: ViewInfo) -> Path | None:
        """A view's mask on this machine; None: it has none."""


@dataclass(frozen=True)
class LocalExport:
    """In a folder of this machine."""

    directory: Path
    images_root: Path

    def __str__(self) -> str:
        return str(self.directory)

    def load(self) -> FeatureGaussians:
        return FeatureGaussians.load(self.directory, images_root=self.images_root, check_images=False, sweep=False)

    def position(self) -> Tensor | None:
        with safe_open(str(self.directory / GAUSSIANS_FILE), "pt") as file:
            names = file.keys()
            return file.get_tensor(POSITION) if POSITION in names else None

    def image(self, view: ViewInfo) -> Path:
        return resolve(view.path, self.images_root)

    def mask(self, view: ViewInfo) -> Path | None:
        return None if view.mask_path is None else resolve(view.mask_path, self.images_root)


@dataclass(frozen=True)
class FilePart:
    """One float32 tensor in a file."""

    first: int
    """Byte."""
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class RemoteExport:
    """On object storage, read as far as it is needed: scene.json and the header of the Gaussians at first, everything
    else when it is asked for, into a cache.
    """

    name: str
    parent: RemoteFolder
    """The folder of all exports."""
    files: tuple[RemoteFile, RemoteFile]
    """scene.json and gaussians.safetensors, as they are on the store."""
    position_part: FilePart | None
    """Where the position term is, if there is one."""
    images: Path | RemoteFolder
    """What relative paths of images start from."""
    cache: RemoteCache

    def __str__(self) -> str:
        return self.parent.below(self.name)

    def load(self) -> FeatureGaussians:
        def fetch(folder: Path) -> None:
            for file, name in zip(self.files, (SCENE_FILE, GAUSSIANS_FILE), strict=True):
                self.parent.download(file, folder / name)

        identity = " ".join([str(self), *(file.version for file in self.files)])
        folder = self.cache.entry(identity, sum(file.size for file in self.files), fetch)
        root = self.images if isinstance(self.images, Path) else None
        try:
            return FeatureGaussians.load(folder, images_root=root, check_images=False, sweep=False)
        except InputError as error:
            raise InputError(f"{self}: {error}") from error

    def position(self) -> Tensor | None:
        if self.position_part is None:
            return None
        first, shape = self.position_part.first, self.position_part.shape
        content = self.parent.read_range(self.files[1].path, first, 4 * math.prod(shape))
        return torch.from_numpy(np.frombuffer(content, "<f4").reshape(shape).copy())

    def image(self, view: ViewInfo) -> Path:
        """Known by its hash: the store need not be asked whether it is still the same.

        Raises:
            InputError: it is not there, or another file than the one that the export was made from.
        """
        if isinstance(self.images, Path):
            return resolve(view.path, self.images)
        images, place = self.images, self.images.below(view.path)

        def fetch(folder: Path) -> None:
            target = folder / Path(view.path).name
            images.download(self._found(images, view.path, "an image"), target)
            if file_sha256(target) != view.sha256:
                raise InputError(
                    f"{place} is not the image that {self} was made from (its SHA-256 is another one): upload that "
                    "one, or train and export the scene again."
                )

        return self.cache.entry(f"{place} {view.sha256}", 0, fetch) / Path(view.path).name

    def mask(self, view: ViewInfo) -> Path | None:
        """Known by the store's version of it. Raises: InputError: it is not there."""
        if view.mask_path is None:
            return None
        if isinstance(self.images, Path):
            return resolve(view.mask_path, self.images)
        images, name = self.images, Path(view.mask_path).name
        file = self._found(images, view.mask_path, "a mask")
        identity = f"{images.below(file.path)} {file.version}"
        return self.cache.entry(identity, file.size, lambda folder: images.download(file, folder / name)) / name

    def _found(self, images: RemoteFolder, path: str, what: str) -> RemoteFile:
        file = images.find(path)
        if file is None:
            raise InputError(f"{images.below(path)}, {what} of {self}, is not there: upload it.")
        return file


@dataclass(frozen=True, eq=False)
class RemoteHead:
    """What is read of an export on object storage before its Gaussians are needed."""

    files: tuple[RemoteFile, RemoteFile]
    scene: SceneInfo
    identity: str
    """A hash of which Gaussians these are: their header, and the store's tag of the file."""
    position_part: FilePart | None


def read_head(parent: RemoteFolder, name: str) -> RemoteHead | None:
    """scene.json, and of gaussians.safetensors the header; None if it is no export.

    Raises:
        InputError: a part is damaged or missing, or the file is shorter or longer than its header says.
    """
    place = parent.below(name)
    found = [parent.find(f"{name}/{file}") for file in (SCENE_FILE, GAUSSIANS_FILE)]
    if found == [None, None]:
        return None
    scene_file, gaussians_file = found
    if scene_file is None or gaussians_file is None:
        missing = SCENE_FILE if scene_file is None else GAUSSIANS_FILE
        raise InputError(f"{place} has no {missing}: upload the whole export.")
    text = parent.read(scene_file.path)
    scene = SceneInfo.from_json(text, f"{place}/{SCENE_FILE}")
    header_bytes, header = _read_header(parent, gaussians_file, place)
    metadata = header.pop("__metadata__", {})
    if metadata.get("scene_sha256") != hashlib.sha256(text).hexdigest():
        raise InputError(f"{place}: {SCENE_FILE} and {GAUSSIANS_FILE} are of different exports; {EXPORT_AGAIN}.")
    start = 8 + len(header_bytes)
    size = start + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if size != gaussians_file.size:
        raise InputError(
            f"{place}/{GAUSSIANS_FILE} has {gaussians_file.size} bytes where its header says {size}: upload it again."
        )
    part = _part_of(header, start, POSITION, place) if scene.feature_view_dependence == "position" else None
    identity = hashlib.sha256(header_bytes + gaussians_file.version.encode() + str(size).encode()).hexdigest()
    return RemoteHead((scene_file, gaussians_file), scene, identity, part)


def _read_header(parent: RemoteFolder, file: RemoteFile, place: str) -> tuple[bytes, dict[str, Any]]:
    damaged = InputError(f"{place}/{GAUSSIANS_FILE} is truncated or damaged; {EXPORT_AGAIN}, or upload it again.")
    if file.size < 8:
        raise damaged
    length = int.from_bytes(parent.read_range(file.path, 0, 8), "little")
    if not 0 < length <= min(LONGEST_HEADER, file.size - 8):
        raise damaged
    content = parent.read_range(file.path, 8, length)
    try:
        header = parse_json(content)
        offsets = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
        if not all(len(pair) == 2 and 0 <= pair[0] <= pair[1] for pair in offsets):
            raise damaged
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise damaged from error
    return content, header


def _part_of(header: dict[str, Any], start: int, name: str, place: str) -> FilePart:
    """Where a float32 tensor is in a file whose data begin at byte `start`."""
    entry = header.get(name, {})
    shape, (first, last) = entry.get("shape", []), entry.get("data_offsets", (0, 0))
    if entry.get("dtype") != "F32" or last - first != 4 * math.prod(shape) or not shape or last == first:
        raise InputError(f"{place}/{GAUSSIANS_FILE}: tensor {name!r} is missing or damaged; {EXPORT_AGAIN}.")
    return FilePart(start + first, tuple(shape))
