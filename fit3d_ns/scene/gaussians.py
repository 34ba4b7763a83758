"""A scene of feature Gaussians as data: in memory, and on disk in the export format, versions 1 to 3.

A folder `runs/<scene>/` holds `scene.json` (see `fit3d_ns.scene.description`), `gaussians.safetensors`, `splat.ply`
for other viewers, and perhaps previews. It is written whole or not at all, and read only after every part of it was
checked: what a reader gets has the shapes, ranges and images that it says.

gaussians.safetensors holds the tensors of `FeatureGaussians`, float32 but for the features: float16 [N, D] where
`SceneInfo.feature_storage` is "fp16" (version 1), and for "int8" (version 2) int8 [N, D] with "features_scale" float32
[D], to be multiplied (`fit3d_ns.scene.storage`). Version 3 may have "position", float32. Its metadata have
"format_version" and the SHA-256 of scene.json.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fit3d_ns.common.atomic import atomic_directory
from fit3d_ns.common.errors import InputError, one_line
from fit3d_ns.common.temporaries import sweep_leftovers
from fit3d_ns.rasterization import RasterizeMode
from fit3d_ns.scene.description import EXPORT_AGAIN, SceneInfo, readable_versions
from fit3d_ns.scene.images import check_scene_images
from fit3d_ns.scene.place import GAUSSIANS_FILE, SCENE_FILE, SPLAT_FILE, not_an_export, require_same_export
from fit3d_ns.scene.ply import write_splat_ply
from fit3d_ns.scene.splats import SH_DEGREES, TENSORS, Splats
from fit3d_ns.scene.storage import FeatureStorage, dequantize, quantize

_DECODER_PREFIX = "decoder."
_SCALE = "features_scale"
POSITION = "position"
_UNIT_TOLERANCE = 1e-3
_TRAIN_AGAIN = "training diverged or was set up wrongly: train again, perhaps with a lower learning rate"


@dataclass(frozen=True, eq=False)
class FeatureGaussians(Splats):
    """N Gaussians that carry colour and D feature channels each, with their decoder and their scene.

    All tensors are float32 on one device. On disk the features are as `SceneInfo.feature_storage` says, and quaternions
    are of unit length. The Gaussians lie in the frame that `SceneInfo.transform` leads to.
    """

    features: Tensor
    """[N, D]."""
    decoder: dict[str, Tensor]
    """State of a `fit3d_ns.features.decoder.FeatureDecoder`, by kind:
    "linear" has weight [C, D] and bias [C]; "conv3x3" has weight [C, D, 3, 3] and no bias."""
    scene: SceneInfo
    position: Tensor | None = None
    """[rows, columns, C]: the position term (`fit3d_ns.features.position`), which a view adds to its decoded features;
    None where `SceneInfo.feature_view_dependence` is "none"."""
    rasterize_mode: RasterizeMode = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rasterize_mode", self.scene.rasterize_mode)

    @property
    def num_gaussians(self) -> int:
        return len(self)

    @property
    def splats(self) -> Splats:
        """The Gaussians without their features."""
        return self._each(lambda values: values)

    def to(self, device: torch.device | str) -> FeatureGaussians:
        """The same scene on another device."""
        moved = {name: tensor.to(device) for name, tensor in self._tensors().items()}
        return _from_tensors(moved, self.scene)

    def stored_as(self, storage: FeatureStorage) -> FeatureGaussians:
        """The same scene, for `save` to keep its features so."""
        return dataclasses.replace(self, scene=dataclasses.replace(self.scene, feature_storage=storage))

    def save(self, directory: Path, extra_files: Mapping[str, bytes] | None = None, overwrite: bool = False) -> None:
        """Write the export to `directory`, atomically: an older export there stays until the new one is complete.

        Quaternions are normalised.

        Args:
            directory: must be free, or hold an export. Nothing but an export is ever replaced.
            extra_files: file name -> content, written beside the others.
            overwrite: whether an export with another scene.json or other tensors may be replaced.

        Raises:
            InputError: the Gaussians are not fit to be exported, e.g. NaN from a diverged training; or something
                stands at `directory` that must stay.
        """
        if set(extra_files or ()) & {SCENE_FILE, GAUSSIANS_FILE, SPLAT_FILE}:
            raise ValueError(f"extra_files must not replace {SCENE_FILE}, {GAUSSIANS_FILE} or {SPLAT_FILE}")
        directory = Path(directory)
        tensors = {name: tensor.detach().cpu() for name, tensor in self._tensors().items()}
        # Where the length is 0 or NaN this leaves it so, for the validation to refuse.
        tensors["quats"] = tensors["quats"] / tensors["quats"].norm(dim=-1, keepdim=True).clamp_min(1e-12)
        # Values that are not finite have no level: the validation below would not see them.
        if not _is_finite(tensors["features"]):
            raise InputError(f"cannot export to {directory}: {_not_finite('features')}; {_TRAIN_AGAIN}.")
        tensors = _as_stored(tensors, self.scene.feature_storage)
        text = self.scene.to_json().encode("utf-8")
        scene = SceneInfo.from_json(text.decode("utf-8"), directory / SCENE_FILE, _TRAIN_AGAIN)
        _validate(tensors, scene, f"cannot export to {directory}:", _TRAIN_AGAIN)

        obstacle = functools.partial(not_an_export, extra_files=tuple(extra_files or ()))
        with atomic_directory(directory, obstacle) as temporary:
            if not overwrite:
                require_same_export(directory, text, tensors)
            (temporary / SCENE_FILE).write_bytes(text)
            metadata = {
                "format": "pt",
                "format_version": str(scene.format_version),
                "scene_sha256": hashlib.sha256(text).hexdigest(),
            }
            save_file(tensors, temporary / GAUSSIANS_FILE, metadata=metadata)
            write_splat_ply(temporary / SPLAT_FILE, Splats(*(tensors[name] for name in TENSORS)))
            for name, content in (extra_files or {}).items():
                (temporary / name).write_bytes(content)

    @staticmethod
    def load(
        directory: Path, images_root: Path | None = None, check_images: bool = True, sweep: bool = True
    ) -> FeatureGaussians:
        """Read an export and validate all of it.

        Args:
            directory: a folder that `save` wrote.
            images_root: where the images are now, if not where they were at export. It takes the place of
                `scene.images_root` in the result.
            check_images: whether to verify that every image and mask is there and that no image changed.
            sweep: whether to tidy up first what killed writers left beside it; not for each of ten thousand neighbours.

        Raises:
            InputError: whatever is wrong, and what to do.
        """
        directory = Path(directory)
        if sweep:
            sweep_leftovers(Path(os.path.abspath(directory)).parent)
        for name in (SCENE_FILE, GAUSSIANS_FILE):
            if not (directory / name).is_file():
                raise InputError(f"{directory} has no {name}; give a folder written by fit3d-export.")
        scene_path, gaussians_path = directory / SCENE_FILE, directory / GAUSSIANS_FILE
        text = scene_path.read_bytes()
        scene = SceneInfo.from_json(text, scene_path)
        tensors = _read_tensors(gaussians_path, hashlib.sha256(text).hexdigest(), scene.format_version)
        _validate(tensors, scene, f"{gaussians_path}:", EXPORT_AGAIN)
        if images_root is not None:
            scene = dataclasses.replace(scene, images_root=str(images_root))
        if check_images:
            check_scene_images(scene, directory)
        if _SCALE in tensors:
            tensors["features"] = dequantize(tensors["features"], tensors.pop(_SCALE))
        return _from_tensors({name: tensor.float() for name, tensor in tensors.items()}, scene)

    def _tensors(self) -> dict[str, Tensor]:
        named = {name: getattr(self, name) for name in _GAUSSIAN_FIELDS}
        if self.position is not None:
            named[POSITION] = self.position
        return named | {_DECODER_PREFIX + name: tensor for name, tensor in self.decoder.items()}


_GAUSSIAN_FIELDS = (*TENSORS, "features")


def _from_tensors(tensors: Mapping[str, Tensor], scene: SceneInfo) -> FeatureGaussians:
    prefix = _DECODER_PREFIX
    decoder = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    ours = {name: tensors[name] for name in _GAUSSIAN_FIELDS}
    return FeatureGaussians(**ours, decoder=decoder, scene=scene, position=tensors.get(POSITION))


_FEATURE_DTYPES: dict[FeatureStorage, torch.dtype] = {"fp16": torch.float16, "int8": torch.int8}


def _disk_dtype(name: str, storage: FeatureStorage) -> torch.dtype:
    return _FEATURE_DTYPES[storage] if name == "features" else torch.float32


def _as_stored(tensors: dict[str, Tensor], storage: FeatureStorage) -> dict[str, Tensor]:
    """The tensors of the file, contiguous."""
    if storage == "int8":
        levels, scales = quantize(tensors["features"])
        tensors = tensors | {"features": levels, _SCALE: scales}
    return {name: tensor.to(_disk_dtype(name, storage)).contiguous() for name, tensor in tensors.items()}


def _read_tensors(path: Path, scene_hash: str, expected_version: int) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            version = metadata.get("format_version")
            if version != str(expected_version):
                raise InputError(
                    f"{path} has export format version {version}, but {SCENE_FILE} beside it has {expected_version} "
                    f"(this program reads {readable_versions()}); {EXPORT_AGAIN}."
                )
            if metadata.get("scene_sha256") != scene_hash:
                raise InputError(
                    f"{path.parent / SCENE_FILE} was changed after the export (its SHA-256 is not the one in "
                    f"{path.name}); {EXPORT_AGAIN}, and use --images-root if only the images moved."
                )
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        reason = one_line(error)
        raise InputError(f"{path} is truncated or damaged ({reason}); {EXPORT_AGAIN}.") from error


def _is_finite(tensor: Tensor) -> bool:
    # The sum is finite only if all terms are (or the sum itself overflows): one fast pass in the usual case.
    return bool(tensor.sum(dtype=torch.float64).isfinite()) or bool(tensor.isfinite().all())


def _not_finite(name: str) -> str:
    return f"tensor {name!r} has NaN or infinite values"


def _validate(tensors: Mapping[str, Tensor], scene: SceneInfo, subject: str, remedy: str) -> None:
    """Check tensors in their dtypes on disk against each other and against the scene."""

    def require(holds: bool, complaint: str) -> None:
        if not holds:
            raise InputError(f"{subject} {complaint}; {remedy}.")

    N, D, C = scene.num_gaussians, scene.feature_dim, scene.channels
    shapes: dict[str, tuple[int | None, ...]] = {
        "means": (N, 3),
        "quats": (N, 4),
        "scales": (N, 3),
        "opacities": (N,),
        "sh": (N, None, 3),
        "features": (N, D),
        "decoder.weight": (C, D) if scene.decoder == "linear" else (C, D, 3, 3),
    }
    if scene.decoder == "linear":
        shapes["decoder.bias"] = (C,)
    if scene.feature_storage == "int8":
        shapes[_SCALE] = (D,)
    if scene.feature_view_dependence == "position":
        shapes[POSITION] = (None, None, C)
    for name, shape in shapes.items():
        require(name in tensors, f"tensor {name!r} is missing")
        tensor = tensors[name]
        expected = [actual if side is None else side for side, actual in zip(shape, tensor.shape, strict=False)]
        require(
            tensor.ndim == len(shape) and list(tensor.shape) == expected,
            f"tensor {name!r} has shape {list(tensor.shape)} where {SCENE_FILE} implies "
            f"[{', '.join('K' if side is None else str(side) for side in shape)}]",
        )
        dtype = _disk_dtype(name, scene.feature_storage)
        require(tensor.dtype == dtype, f"tensor {name!r} is {tensor.dtype}, not {dtype}")
        require(_is_finite(tensor), _not_finite(name))
    unknown = sorted(set(tensors) - set(shapes))
    require(
        not unknown,
        f"tensor {unknown[:1]} is not part of the format for a {scene.decoder!r} decoder, {scene.feature_storage} "
        f"features and view dependence {scene.feature_view_dependence!r}",
    )
    if scene.feature_view_dependence == "position":
        require(tensors[POSITION].numel() > 0, f"{POSITION!r} has no knots")
    if scene.feature_storage == "int8":
        scales = tensors[_SCALE]
        fit = (scales > 0) & (128 * scales).isfinite()
        require(bool(fit.all()), f"some values of {_SCALE!r} are not positive, or beyond float32 when multiplied")

    require(tensors["sh"].shape[1] in SH_DEGREES, "the number of SH coefficients is not 1, 4, 9 or 16")
    low, high = tensors["opacities"].aminmax()
    require(bool(low >= 0) and bool(high <= 1), f"opacities lie in {low:g}..{high:g} instead of 0..1")
    require(bool(tensors["scales"].min() > 0), "some scales are not positive")
    lengths = tensors["quats"].norm(dim=-1)
    require(bool(((lengths - 1).abs() <= _UNIT_TOLERANCE).all()), "some quaternions are not of unit length")
