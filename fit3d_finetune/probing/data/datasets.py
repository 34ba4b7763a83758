"""Images to probe with: posed scenes, exports, plain folders, CamVid; the next data set is one small reader.

A reader turns a path into `LabelledImages`: file names and cameras, nothing decoded. Register it in `READERS`, and
`kind:path` on the command line finds it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fit3d_finetune.probing.data.export_views import read_export
from fit3d_finetune.probing.data.labelled_images import VOID, LabelledImage, LabelledImages, PinholeCamera
from fit3d_ns.capture.cameras import finite, pose_fault
from fit3d_ns.capture.checks import check_intrinsics
from fit3d_ns.capture.lens import PERSPECTIVE_MODELS
from fit3d_ns.common.errors import InputError
from fit3d_ns.scene.gaussians import SCENE_FILE

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def read_posed_scene(path: Path) -> LabelledImages:
    """A nerfstudio scene: transforms.json with depth_file_path and / or semantic_file_path, classes.json beside it.

    Cameras are kept where there is no lens distortion: correspondences need pinhole images.
    """
    transforms = _read_json(path / "transforms.json")
    frames = transforms.get("frames") if isinstance(transforms, dict) else None
    if not isinstance(frames, list) or not all(isinstance(frame, dict) and "file_path" in frame for frame in frames):
        raise InputError(f"{path / 'transforms.json'} is no nerfstudio capture: it must list frames with a file_path.")
    scale = finite(transforms.get("depth_unit_scale_factor", 1e-3))
    if scale is None or scale <= 0:
        raise InputError(
            f"depth_unit_scale_factor in {path / 'transforms.json'} is {transforms['depth_unit_scale_factor']!r}, no "
            "positive number of metres: correct it."
        )
    images = []
    for frame in sorted(frames, key=lambda frame: str(frame["file_path"])):
        label, depth = frame.get("semantic_file_path"), frame.get("depth_file_path")
        images.append(
            LabelledImage(
                name=f"{path.name}/{Path(frame['file_path']).stem}",
                path=path / frame["file_path"],
                label_path=None if label is None else path / label,
                depth_path=None if depth is None else path / depth,
                depth_scale=scale,
                camera=_pinhole(path / "transforms.json", transforms, frame),
            )
        )
    labelled = any(image.label_path is not None for image in images)
    return LabelledImages(str(path), tuple(images), _read_classes(path, required=labelled))


def read_folder(path: Path) -> LabelledImages:
    """images/, and of the same file stems annotations/ (class maps, with classes.json) and / or depth/ (in mm).

    All of a folder is one scene: nothing says which of its images were taken in the same place.
    """
    images = []
    labels, depths = _by_stem(path / "annotations"), _by_stem(path / "depth")
    for stem, image in _by_stem(path / "images").items():
        images.append(LabelledImage(f"{path.name}/{stem}", image, labels.get(stem), depth_path=depths.get(stem)))
    for kind, files in (("annotations", labels), ("depth", depths)):
        missing = [image.path.stem for image in images if files and image.path.stem not in files]
        if missing:
            raise InputError(
                f"{path / kind} lacks {len(missing)} of {len(images)} files, the first for image {missing[0]}: "
                "add them, or take the images out."
            )
    return LabelledImages(str(path), tuple(images), _read_classes(path, required=bool(labels)))


CAMVID_CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree"),
    *("sign", "fence", "car", "pedestrian", "bicyclist"),
)
CAMVID_VOID = 11


def read_camvid(path: Path) -> LabelledImages:
    """A split of CamVid: `…/camvid/train` for …/camvid/images/train and …/camvid/annotations/train.

    Its files are named drive_frame (0016E5_07959, Seq05VD_f00000); a drive is a scene. All of val is one drive.
    """
    root, split = path.parent, path.name
    files, labels = _by_stem(root / "images" / split), _by_stem(root / "annotations" / split)
    missing = sorted(set(files) - set(labels))
    if not files or missing:
        what = f"{len(missing)} of {len(files)} annotations are missing" if files else "there are no images"
        raise InputError(f"camvid:{path}: {what} (looked in {root}/images/{split} and {root}/annotations/{split}).")
    drives = {stem: stem.rpartition("_")[0] for stem in files}
    several = len({*drives.values()}) > 1
    images = [
        LabelledImage(
            *(f"camvid-{split}/{stem}", image, labels[stem], CAMVID_VOID), scene=drives[stem] if several else ""
        )
        for stem, image in files.items()
    ]
    return LabelledImages(f"camvid:{path}", tuple(images), CAMVID_CLASSES)


READERS: dict[str, Callable[[Path], LabelledImages]] = {
    "scene": read_posed_scene,
    "folder": read_folder,
    "camvid": read_camvid,
    "export": read_export,
}


def read_data(places: Sequence[str], images_root: Path | None = None) -> list[LabelledImages]:
    """Data sets from `PATH` or `kind:PATH`, all of the same classes.

    A path without a kind is a scene if it has a transforms.json, an export if it has a scene.json, else a folder.

    Args:
        places: as on the command line.
        images_root: where the images of exports are now, if they moved.

    Raises:
        InputError: no such data, files that are missing, or class lists that differ.
    """
    found = []
    for place in places:
        kind, colon, rest = place.partition(":")
        if not colon or kind not in READERS:
            kind, rest = _kind_of(Path(place)), place
        data = read_export(Path(rest), images_root) if kind == "export" else READERS[kind](Path(rest))
        if not data.images:
            raise InputError(f"{place} holds no images: give a scene (transforms.json) or a folder with images/.")
        _require_files(data, place)
        found.append(data)
    for data in found[1:]:
        if data.classes != found[0].classes:
            raise InputError(f"{data.name} and {found[0].name} have different class lists: probe them apart.")
    return found


def _kind_of(path: Path) -> str:
    if (path / "transforms.json").is_file():
        return "scene"
    return "export" if (path / SCENE_FILE).is_file() else "folder"


def _require_files(data: LabelledImages, place: str) -> None:
    paths = [path for image in data.images for path in (image.path, image.label_path, image.depth_path) if path]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise InputError(f"{place}: {len(missing)} of {len(paths)} files are missing, the first is {missing[0]}.")


def _pinhole(path: Path, transforms: dict[str, Any], frame: dict[str, Any]) -> PinholeCamera | None:
    """The camera of a frame; None if it has no pose, no focal length, or a lens that is no pinhole.

    Raises:
        InputError: numbers that cannot be a camera's.
    """
    camera = {**frame, **transforms}  # as nerfstudio, which prefers what the whole file says
    if "transform_matrix" not in frame or "fl_x" not in camera:
        return None
    name = f"frame {frame['file_path']}"
    fault = pose_fault(frame["transform_matrix"], 3, 4)
    if fault:
        raise InputError(f"transform_matrix of {name} in {path} {fault}: correct it, or remove this image.")
    width, height = check_intrinsics(path, transforms, frame, name)
    if camera.get("camera_model", "OPENCV") not in PERSPECTIVE_MODELS:
        return None
    distortion = camera.get("distortion_params", [camera.get(key, 0) for key in ("k1", "k2", "k3", "k4", "p1", "p2")])
    if any(float(value) != 0 for value in distortion):
        return None
    fx, fy, cx, cy = (float(camera[key]) for key in ("fl_x", "fl_y", "cx", "cy"))
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64)
    pose = np.vstack([np.array(frame["transform_matrix"], np.float64)[:3], [0, 0, 0, 1]])
    # From nerfstudio's axes (y up, looking along -z) to OpenCV's.
    return PinholeCamera(K, pose @ np.diag([1.0, -1.0, -1.0, 1.0]), (height, width))


def _read_classes(folder: Path, required: bool) -> tuple[str, ...]:
    path = folder / "classes.json"
    if not path.is_file():
        if required:
            raise InputError(f"{folder} has labels but no classes.json: write the list of class names in index order.")
        return ()
    names = _read_json(path)
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path} must be a list of class names in index order.")
    if len(names) > VOID:
        raise InputError(f"{path} lists {len(names)} classes; at most {VOID} can be probed (index {VOID} is void).")
    return tuple(names)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}).") from error


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES}
