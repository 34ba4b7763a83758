"""Depth benchmarks whose images a text file lists: `nyu-depth:…/nyu/nyu_test.txt`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fit3d_finetune.probing.data.codings import MILLIMETRES, DepthCoding
from fit3d_finetune.probing.data.files import read_lines
from fit3d_finetune.probing.data.labelled_images import LabelledImage, LabelledImages
from fit3d_finetune.probing.data.tasks import DepthBenchmarkName
from fit3d_ns.common.errors import InputError

NONE = "None"
"""Instead of a depth file: KITTI has none of 45 of the 697 images of its test list."""


def read_nyu_depth(path: Path) -> LabelledImages:
    """NYUv2: millimetres, up to 10 m; a folder (room) is a scene."""
    return _read_list("nyu-depth", path, path.parent, path.parent, MILLIMETRES, "nyu", 10.0)


def read_scannet_depth(path: Path) -> LabelledImages:
    """ScanNet, in lists of NYU's form: millimetres, up to 10 m."""
    return _read_list("scannet-depth", path, path.parent, path.parent, MILLIMETRES, "scannet", 10.0)


def read_scannetpp_depth(path: Path) -> LabelledImages:
    """ScanNet++, in lists of NYU's form: millimetres, up to 20 m, whole images."""
    return _read_list("scannetpp-depth", path, path.parent, path.parent, MILLIMETRES, "none", 20.0)


def read_kitti_depth(path: Path) -> LabelledImages:
    """KITTI by Eigen's lists, input/ and gt_depth/ beside them: metres times 256, up to 80 m; a drive is a scene."""
    root = path.parent
    return _read_list("kitti-depth", path, root / "input", root / "gt_depth", DepthCoding(1 / 256), "kitti", 80.0)


def _read_list(
    kind: str,
    path: Path,
    images: Path,
    depths: Path,
    coding: DepthCoding,
    benchmark: DepthBenchmarkName,
    max_depth: float,
) -> LabelledImages:
    """Lines of an image, its depth and a focal length, which is not needed; files under two folders."""
    found = []
    for number, line in enumerate(read_lines(path), start=1):
        image, depth = _files_of(path, number, line.split())
        if depth == NONE:
            continue
        name = image.strip("/")
        scene = next((part for part in Path(name).parts[:-1] if "drive" in part), Path(name).parts[0])
        found.append(
            LabelledImage(
                f"{kind}/{name}",
                images / name,
                depth_path=depths / depth.strip("/"),
                depth_coding=coding,
                scene=scene if "/" in name else "",
            )
        )
    return LabelledImages(f"{kind}:{path}", tuple(found), benchmark=benchmark, max_depth=max_depth)


def _files_of(path: Path, number: int, words: Sequence[str]) -> tuple[str, str]:
    if len(words) not in (2, 3):
        raise InputError(
            f"line {number} of {path} has {len(words)} words; a list of depth has an image, its depth and a focal "
            "length on each."
        )
    image, depth = words[:2]
    if {".."} & {*Path(image).parts, *Path(depth).parts}:
        raise InputError(f"line {number} of {path} leads out of its folder: correct it.")
    return image, depth
