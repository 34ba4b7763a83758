"""ScanNet's frames as its SensReader exports them, and test sets in that form (scannet_test_1500)."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np

from fit3d_finetune.probing.data.class_names import NYU40, SCANNET20
from fit3d_finetune.probing.data.codings import AS_NUMBERED, Array, LabelCoding
from fit3d_finetune.probing.data.files import by_stem
from fit3d_finetune.probing.data.labelled_images import LabelledImage, LabelledImages, PinholeCamera
from fit3d_ns.capture.cameras import pose_fault
from fit3d_ns.capture.images import read_header
from fit3d_ns.common.console import logger
from fit3d_ns.common.errors import InputError

TABLE = "scannetv2-labels.combined.tsv"
PAIRS_FILE = "test.npz"
LABELS = ("label-filt", "label")
CENTRE = 0.05
"""How far, as a share of the image, a principal point may lie from where the size of an image has its middle."""


def read_scannet_frames(path: Path) -> LabelledImages:
    """color/, depth/, pose/ and intrinsic/ of one scene, or of all scenes in a folder; label-filt/ where it is there.

    Depth is in millimetres, poses are camera to world with OpenCV's axes; frames whose pose is not finite (tracking was
    lost) are left out. Labels are ScanNet's own numbers, of which 20 classes count, by `TABLE` in the folder or one of
    the two above it.

    Raises:
        InputError: there are no frames, cameras cannot be read, or labels without that table.
    """
    scenes = [path] if (path / "color").is_dir() else sorted(folder.parent for folder in path.glob("*/color"))
    labelled = bool(scenes) and all(_labels_of(scene) is not None for scene in scenes)
    coding = _coding_of(path) if labelled else AS_NUMBERED
    images = [image for scene in scenes for image in _scene(scene, len(scenes) > 1, labelled, coding)]
    if not images:
        raise InputError(
            f"scannet-frames:{path}: no frames with a pose (looked for color/, depth/, pose/, intrinsic/)."
        )
    classes = tuple(NYU40[number - 1] for number in SCANNET20) if labelled else ()
    return LabelledImages(f"scannet-frames:{path}", tuple(images), classes, max_depth=10.0)


def read_scannet_1500(path: Path) -> LabelledImages:
    """scannet_test_1500: such scenes, and the 1,500 pairs of frames that matching is measured on.

    `PAIRS_FILE` lies in the folder or beside it: a scene's two numbers and two frames in each row of its array `name`.

    Raises:
        InputError: as `read_scannet_frames`; no such file, or frames in it that are not there.
    """
    data = replace(read_scannet_frames(path), name=f"scannet-1500:{path}")
    file = next(
        (folder / PAIRS_FILE for folder in (path, path.absolute().parent) if (folder / PAIRS_FILE).is_file()), None
    )
    if file is None:
        raise InputError(f"scannet-1500:{path}: no {PAIRS_FILE} with the pairs, there or one folder up: add it.")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            rows = arrays["name"].astype(np.int64).reshape(-1, 4)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{file} has no array “name” of four numbers a row ({error}): download it again.") from error
    places = {(image.path.parent.parent.name, image.path.stem): index for index, image in enumerate(data.images)}
    keys = [(f"scene{scene:04d}_{part:02d}", str(frame)) for scene, part, *frames in rows.tolist() for frame in frames]
    missing = [key for key in keys if key not in places]
    if missing:
        raise InputError(f"{path} lacks frame {missing[0][1]} of {missing[0][0]}, which {file} pairs: add it.")
    indices = [places[key] for key in keys]
    return replace(data, pairs=tuple(zip(indices[::2], indices[1::2], strict=True)))


def _scene(folder: Path, several: bool, labelled: bool, coding: LabelCoding) -> list[LabelledImage]:
    photos, depths = by_stem(folder / "color"), by_stem(folder / "depth")
    labels = by_stem(_labels_of(folder) or folder) if labelled else {}
    images, lost = [], 0
    for stem in sorted(photos, key=lambda stem: (len(stem), stem)):
        pose = _matrix(folder / "pose" / f"{stem}.txt")
        if not np.isfinite(pose).all():
            lost += 1
            continue
        if fault := pose_fault(pose.tolist(), 4, 4):
            raise InputError(f"{folder / 'pose' / stem}.txt {fault}: correct it, or remove this frame.")
        if stem not in depths or (labelled and stem not in labels):
            kind = "depth" if stem not in depths else "labels"
            raise InputError(f"{folder} has no {kind} of frame {stem}: export it, or take the image out.")
        images.append(
            LabelledImage(
                f"{folder.name}/{stem}",
                photos[stem],
                labels.get(stem),
                depth_path=depths[stem],
                camera=_camera(folder, photos[stem], pose),
                scene=folder.name if several else "",
                label_coding=coding,
            )
        )
    if lost:
        logger.info("%s: %d of %d frames left out, as their pose is not known", folder, lost, len(photos))
    return images


def _camera(folder: Path, photo: Path, pose: Array) -> PinholeCamera:
    """With the intrinsics, of colour or of depth, that belong to the size of the photo: some copies of it are resized
    to that of depth."""
    header = read_header(photo)
    for which in ("color", "depth"):
        path = folder / "intrinsic" / f"intrinsic_{which}.txt"
        if which == "depth" and not path.is_file():
            continue
        K = _matrix(path)[:3, :3]
        if abs(K[0, 2] / header.width - 0.5) < CENTRE and abs(K[1, 2] / header.height - 0.5) < CENTRE:
            return PinholeCamera(K, pose, (header.height, header.width))
    raise InputError(
        f"neither camera in {folder / 'intrinsic'} has its centre in the middle of {photo} ({header.width}x"
        f"{header.height}): give images of the size of ScanNet's colour or depth."
    )


def _matrix(path: Path) -> Array:
    try:
        matrix = np.loadtxt(path, dtype=np.float64)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a matrix ({error}): export it again.") from error
    if matrix.shape != (4, 4):
        raise InputError(f"{path} holds an array of shape {matrix.shape} instead of a 4x4 matrix: export it again.")
    return matrix


def _labels_of(folder: Path) -> Path | None:
    return next((folder / name for name in LABELS if (folder / name).is_dir()), None)


def _coding_of(path: Path) -> LabelCoding:
    """From ScanNet's numbers to the benchmark's classes; all others are void."""
    table = next(
        (folder / TABLE for folder in (path, *path.absolute().parents[:2]) if (folder / TABLE).is_file()), None
    )
    if table is None:
        raise InputError(f"{path} has labels but no {TABLE}, which says what they mean: put it there or one folder up.")
    index_of = {number: index for index, number in enumerate(SCANNET20)}
    classes = {}
    try:
        with table.open(newline="") as file:
            for line in csv.DictReader(file, delimiter="\t"):
                number = int(line["nyu40id"] or 0)
                if number in index_of:
                    classes[int(line["id"])] = index_of[number]
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{table} is no table with columns id and nyu40id ({error}): take ScanNet's own.") from error
    return LabelCoding(classes, void=(0,), others_are_void=True)
