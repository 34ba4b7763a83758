"""Targets on disk: one safetensors file per scene, in a folder of bounded size."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fit3d_ns.common.atomic import atomic_file
from fit3d_ns.common.console import logger
from fit3d_ns.common.temporaries import sweep_leftovers

LEAST_CLAIMS_PER_LOOK = 256


@dataclass(frozen=True, eq=False)
class Target:
    """What the backbone should give for one view."""

    features: Tensor
    """[h, w, C] float32."""
    weights: Tensor
    """[h, w] in 0..1: 0 where the scene or the mask leaves the patch uncovered, else the unmasked share."""


@dataclass(frozen=True, eq=False)
class StoredTarget:
    """A target as it is kept: fp16 and, where the decoder is linear, before decoding."""

    features: Tensor
    """[h, w, D] with a decoder, else [h, w, C]."""
    weights: Tensor
    """[h, w]."""
    decoder: tuple[Tensor, Tensor] | None
    """Weight [C, D] and bias [C] of the scene's linear decoder, if it is still to be applied."""
    image: Tensor | None = None
    """uint8 [3, H, W]: the input image, where there is no photograph to load."""

    def decoded(self) -> Target:
        features = self.features.float()
        return Target(features if self.decoder is None else F.linear(features, *self.decoder), self.weights.float())


def write_targets(path: Path, targets: Sequence[StoredTarget]) -> None:
    """Write the targets of all views of one scene, atomically; they share their decoder."""
    tensors: dict[str, Tensor] = {}
    for view, target in enumerate(targets):
        tensors[f"features.{view}"], tensors[f"weights.{view}"] = target.features, target.weights
        if target.image is not None:
            tensors[f"image.{view}"] = target.image
        if target.decoder is not None:
            tensors["decoder.weight"], tensors["decoder.bias"] = target.decoder
    with atomic_file(path) as temporary:
        save_file(tensors, temporary)


def read_target(path: Path, view: int) -> StoredTarget:
    """One view of what `write_targets` wrote.

    Raises:
        FileNotFoundError: the file was removed.
    """
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())

        def tensor(name: str) -> Tensor | None:
            return file.get_tensor(name) if name in names else None

        weight, bias = tensor("decoder.weight"), tensor("decoder.bias")
        return StoredTarget(
            features=file.get_tensor(f"features.{view}"),
            weights=file.get_tensor(f"weights.{view}"),
            decoder=None if weight is None or bias is None else (weight, bias),
            image=tensor(f"image.{view}"),
        )


def is_whole(path: Path, views: int) -> bool:
    """Whether the file is there and holds the targets of so many views."""
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
    except FileNotFoundError:
        return False
    except (OSError, SafetensorError) as error:
        logger.warning("The cached targets %s cannot be read (%s): making them again", path, error)
        return False
    return {f"features.{view}" for view in range(views)} <= names


class TargetFolder:
    """A folder of target files that together stay within a number of bytes; the least recently used go first.

    All stores of a run share one, so that none drops the files of another.
    """

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self.path = path
        self.limit_bytes = limit_bytes
        self.used = 0
        """Bytes of the files that this run uses."""
        self._claimed: dict[Path, int] = {}
        self._others: dict[Path, int] = {}
        """Of earlier runs and of other processes, the least recently used first, as they were when last looked at."""
        self._others_size = 0
        self._until_look = 0
        sweep_leftovers(path)

    def claim(self, file: Path, size: int) -> bool:
        """Reserve `size` bytes for a file of this run, removing files of earlier runs; False if it does not fit."""
        more = size - self._claimed.get(file, 0)
        if self.used + more > self.limit_bytes:
            return False
        self._claimed[file] = size
        self.used += more
        if self._until_look == 0:
            self._look()
        self._until_look -= 1
        self._others_size -= self._others.pop(file, 0)
        while self._others and self.used + self._others_size > self.limit_bytes:
            other = next(iter(self._others))
            other.unlink(missing_ok=True)
            self._others_size -= self._others.pop(other)
        if file.is_file():
            os.utime(file)
        return True

    def _look(self) -> None:
        """See which other files there are; again only after as many claims as there are files, as these may be many."""
        found, files = [], list(self.path.glob("*.safetensors"))
        for other in files:
            if other not in self._claimed:
                with suppress(FileNotFoundError):  # another process removes files, too
                    status = other.stat()
                    found.append((status.st_mtime, other, status.st_size))
        self._others = {other: size for _, other, size in sorted(found)}
        self._others_size = sum(self._others.values())
        self._until_look = max(LEAST_CLAIMS_PER_LOOK, len(files))


def as_stored(features: Tensor, weights: Tensor, decoder: tuple[Tensor, Tensor] | None) -> StoredTarget:
    """Move to the CPU, in the precision on disk."""
    half = [tensor.to("cpu", torch.float16).contiguous() for tensor in (features, weights)]
    kept = None if decoder is None else (decoder[0].detach().cpu(), decoder[1].detach().cpu())
    return StoredTarget(half[0], half[1], kept)
