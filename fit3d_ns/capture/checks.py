"""Checks of a capture before anything is computed from it: every fault is one sentence with its remedy.

Only headers are read here, so checking hundreds of images takes well under a second; that each image
decodes to its end is seen when it is loaded (`fit3d_ns.capture.images.load_image`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fit3d_ns.capture.cameras import LARGEST_DISTORTION, centre_fault, finite, focal_fault, pose_fault, transform_fault
from fit3d_ns.capture.images import ImageHeader, mask_has_channels, read_header, say_conversions
from fit3d_ns.capture.lens import CAMERA_MODELS, FISHEYE_MODELS
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.json_input import parse_json
from fit3d_ns.common.paths import path_fault

Array = np.ndarray[Any, np.dtype[Any]]

MIN_VIEWS = 3

_DISTORTION_KEYS = ("k1", "k2", "k3", "k4", "p1", "p2")


def check_transforms(path: Path) -> None:
    """Check a nerfstudio capture: a transforms.json or the folder that holds it.

    Raises:
        InputError: for whatever would make nerfstudio's dataparser fail, or train on nonsense.
    """
    path = _find_transforms(Path(path))
    meta = read_json(path)
    frames = meta.get("frames")
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise InputError(f'{path} has no list "frames"; create it with ns-process-data.')
    if not frames:
        raise InputError(f"{path} lists no images; create it with ns-process-data from a folder of photos.")
    check_camera_model(path, meta)

    names = [frame.get("file_path") for frame in frames]
    for index, name in enumerate(names):
        fault = "is missing" if name is None else path_fault(name)
        if fault:
            raise InputError(f'"file_path" of frame {index} of {path} {fault}; give the path of its image.')
    images = [path.parent / name for name in names]
    _check_count(path, len(images))
    _check_exist(path, "images", images, "restore them or remove their frames")
    _check_splits(path, meta, names)
    masks = _mask_paths(path, frames)
    if masks is not None:
        _check_exist(path, "masks", masks, "restore them or remove mask_path from all frames")
    cloud = meta.get("ply_file_path")
    if cloud is not None and (fault := path_fault(cloud)):
        raise InputError(f'"ply_file_path" in {path} {fault}; correct or remove it.')
    if cloud is not None and not (path.parent / cloud).is_file():
        raise InputError(
            f"{path} names the point cloud {path.parent / cloud}, which does not exist; "
            f'restore it or remove "ply_file_path" to start from random points.'
        )

    for index, (name, frame) in enumerate(zip(names, frames, strict=True)):
        fault = pose_fault(frame.get("transform_matrix"), 4)
        if fault:
            raise InputError(f"transform_matrix of frame {index} ({name}) in {path} {fault}; {_POSE_REMEDY}.")
    _check_applied_transform(path, meta)
    sizes = [check_intrinsics(path, meta, frame, f"frame {i} ({names[i]})") for i, frame in enumerate(frames)]
    widths, heights = zip(*sizes, strict=True)
    _check_headers(images, widths, heights, masks, f"{path} gives")


def check_posed_images(
    image_paths: Sequence[Path],
    widths: Sequence[int] | Array,
    heights: Sequence[int] | Array,
    camera_to_worlds: Array,
    mask_paths: Sequence[Path] | None = None,
) -> None:
    """Check what any dataparser returned: N image files, their sizes, poses [N, 3, 4] and, if given, N masks.

    Raises:
        InputError: a file is missing or of another size, a pose is not rigid, or fewer than 3 views.
    """
    images = [Path(image) for image in image_paths]
    if not images:
        raise InputError("the capture has no images; check the path given with --data.")
    where = images[0].parent
    _check_count(where, len(images))
    _check_exist(where, "images", images, "restore them or remove them from the capture")
    masks = None if mask_paths is None else [Path(mask) for mask in mask_paths]
    if masks is not None:
        if len(masks) != len(images):
            raise InputError(
                f"{where} has {len(masks)} masks for {len(images)} images; give one for each image or none."
            )
        _check_exist(where, "masks", masks, "restore them or train without masks")
    for image, pose in zip(images, np.asarray(camera_to_worlds, dtype=np.float64), strict=True):
        fault = pose_fault(pose, 3)
        if fault:
            raise InputError(f"pose of {image} {fault}; {_POSE_REMEDY}.")
    sizes = [np.asarray(side).reshape(-1).tolist() for side in (widths, heights)]
    _check_headers(images, sizes[0], sizes[1], masks, "its camera says")


_POSE_REMEDY = "correct it, or remove this image from the capture"


def _find_transforms(path: Path) -> Path:
    if path.suffix == ".json":
        if not path.is_file():
            raise InputError(f"{path} does not exist; give a transforms.json or the folder that holds it.")
        return path
    if not path.is_dir():
        raise InputError(f"capture folder {path} does not exist; give a folder with a transforms.json.")
    if (path / "transforms.json").is_file():
        return path / "transforms.json"
    if (path / "transforms_train.json").is_file():
        raise InputError(f"{path} is in Blender's format; add `blender-data` behind the other options of ns-train.")
    raise InputError(
        f"{path} has no transforms.json; create one with "
        f"`ns-process-data images --data <folder of photos> --output-dir {path}`."
    )


def read_json(path: Path) -> dict[str, Any]:
    """A file like transforms.json.

    Raises:
        InputError: it cannot be read, or is no JSON object.
    """
    try:
        meta = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check its permissions.") from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}); create it again with ns-process-data.") from error
    if not isinstance(meta, dict):
        raise InputError(f"{path} is not a JSON object; create it again with ns-process-data.")
    return meta


def check_camera_model(path: Path, meta: dict[str, Any]) -> None:
    """Check that the camera model of a transforms.json is one that images can be undistorted from.

    Raises:
        InputError: it is another one.
    """
    model = meta.get("camera_model", "OPENCV")
    if model not in CAMERA_MODELS:
        raise InputError(
            f"camera_model {model!r} in {path} is not supported; undistort the images to one of "
            f"{', '.join(CAMERA_MODELS)}."
        )


def _check_count(where: Path, count: int) -> None:
    if count < MIN_VIEWS:
        raise InputError(
            f"{where} has {count} view{'s' if count > 1 else ''}, but {MIN_VIEWS} are needed; add more images."
        )


def _examples(paths: Sequence[Any], shown: int = 3) -> str:
    rest = len(paths) - shown
    return ", ".join(map(str, paths[:shown])) + (f" and {rest} more" if rest > 0 else "")


def _check_exist(where: Path, what: str, paths: Sequence[Path], remedy: str) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(paths)} {what} of {where} do not exist ({_examples(missing)}); {remedy}."
        )


def _check_splits(path: Path, meta: dict[str, Any], names: Sequence[str]) -> None:
    given = [key for key in ("train_filenames", "val_filenames", "test_filenames") if key in meta]
    for key in given:
        if not isinstance(meta[key], list):
            raise InputError(f'"{key}" in {path} is not a list of file paths; correct or remove it.')
        unknown = [name for name in meta[key] if name not in names]
        if unknown:
            raise InputError(
                f'"{key}" in {path} names {len(unknown)} images without a frame ({_examples(unknown)}); '
                f"remove them or add their frames."
            )
    for key in ("train_filenames", "val_filenames"):
        if given and not meta.get(key):
            raise InputError(f'{path} has "{given[0]}" but no "{key}"; name the images of both splits, or of none.')


def _mask_paths(path: Path, frames: Sequence[dict[str, Any]]) -> list[Path] | None:
    names = [frame["mask_path"] for frame in frames if "mask_path" in frame]
    for name in names:
        if fault := path_fault(name):
            raise InputError(f'a "mask_path" in {path} {fault}; correct it, or remove it from all frames.')
    masks = [path.parent / name for name in names]
    if masks and len(masks) != len(frames):
        raise InputError(f"{path} gives {len(masks)} of {len(frames)} frames a mask_path; give one to all or none.")
    return masks or None


def _check_applied_transform(path: Path, meta: dict[str, Any]) -> None:
    """Check what a capture tool says that it did to all poses; nerfstudio undoes it."""
    fault = transform_fault(meta["applied_transform"]) if "applied_transform" in meta else None
    if fault:
        raise InputError(f"applied_transform in {path} {fault}; create the file again with ns-process-data.")
    scale = finite(meta.get("applied_scale", 1.0))
    if scale is None or scale <= 0:
        raise InputError(f"applied_scale in {path} is {meta['applied_scale']!r}, not a positive number; correct it.")


def check_intrinsics(path: Path, meta: dict[str, Any], frame: dict[str, Any], name: str) -> tuple[int, int]:
    """Check the intrinsics of a frame (nerfstudio prefers those of the whole file).

    Args:
        path: of the transforms.json, for messages.
        meta: all of it.
        frame: one of its frames.
        name: of that frame, for messages.

    Returns:
        Width and height.

    Raises:
        InputError: one is missing, or is no number of a camera for images of this size.
    """
    values: dict[str, float] = {}
    for key in ("w", "h", "fl_x", "fl_y", "cx", "cy"):
        holder, place = (meta, str(path)) if key in meta else (frame, f"{name} of {path}")
        if key not in holder:
            raise InputError(f'{path} gives no "{key}" for {name}; add it to the frame or to the whole file.')
        number = finite(holder[key])
        if number is None or (number <= 0 and key not in ("cx", "cy")):
            wanted = "finite" if key in ("cx", "cy") else "positive"
            raise InputError(f'"{key}" in {place} is {holder[key]!r}, not a {wanted} number; correct it.')
        values[key] = number
        if key in ("w", "h"):
            fault = None if number.is_integer() else f"is {number:g}, not a whole number of pixels"
        else:
            fault = (focal_fault if key in ("fl_x", "fl_y") else centre_fault)(number, values["w"], values["h"])
        if fault:
            raise InputError(f'"{key}" in {place} {fault}; correct it.')

    keys = (*_DISTORTION_KEYS, "distortion_params")
    # nerfstudio's rule: one distortion key at the top makes it ignore those of the frames.
    holder, place = (meta, str(path)) if any(key in meta for key in keys) else (frame, f"{name} of {path}")
    given = holder.get("distortion_params", [holder.get(key, 0.0) for key in _DISTORTION_KEYS])
    numbers = [finite(value) for value in given] if isinstance(given, list) else []
    if len(numbers) != 6 or any(number is None or abs(number) > LARGEST_DISTORTION for number in numbers):
        raise InputError(f"distortion in {place} is not six numbers k1, k2, k3, k4, p1, p2; correct it.")
    if numbers[3] and meta.get("camera_model") not in FISHEYE_MODELS:
        raise InputError(
            f'"k4" in {place} is {numbers[3]:g}, but only the camera_model OPENCV_FISHEYE has a k4; '
            f"correct it or the camera_model."
        )
    return int(values["w"]), int(values["h"])


def _check_headers(
    images: Sequence[Path],
    widths: Sequence[int],
    heights: Sequence[int],
    masks: Sequence[Path] | None,
    source: str,
) -> None:
    """Compare the sizes in the files' headers with those expected; `source` says by whom."""
    headers = [read_header(image) for image in images]
    expected = list(zip(widths, heights, strict=True))
    wrong = [i for i, header in enumerate(headers) if (header.width, header.height) != expected[i]]
    if wrong:
        first, (width, height) = headers[wrong[0]], expected[wrong[0]]
        raise InputError(
            f"{len(wrong)} of {len(images)} images do not have the size of their intrinsics: "
            f"{images[wrong[0]]} is {first.width}x{first.height} where {source} {width}x{height}; "
            f"{_size_remedy(first, width, height)}."
        )
    for image, header, mask in zip(images, headers, masks or (), strict=False):
        mask_header = read_header(mask)
        if (mask_header.width, mask_header.height) != (header.width, header.height):
            raise InputError(
                f"mask {mask} is {mask_header.width}x{mask_header.height} but its image {image} is "
                f"{header.width}x{header.height}; resize the mask (nearest neighbour) to match."
            )
        if mask_header.channels != 1:
            raise mask_has_channels(mask, mask_header.channels)
    say_conversions(header.kind for header in headers if header.kind is not None)


def _size_remedy(header: ImageHeader, width: int, height: int) -> str:
    if header.exif_rotated and (header.height, header.width) == (width, height):
        return "rotate the pixels of the images as their EXIF data ask, which is not done on loading"
    return "resize the images, or set w, h, fl_x, fl_y, cx and cy for the size that they have"
