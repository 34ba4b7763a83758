"""Data sets that lie as images/SPLIT and annotations/SPLIT: `kind:…/ADEChallengeData2016/validation`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from fit3d_finetune.probing.data.class_names import CAMVID, NYU13, NYU40, SCANNET20, numbered
from fit3d_finetune.probing.data.codings import LabelCoding, from_one, listed
from fit3d_finetune.probing.data.files import by_stem, read_lines
from fit3d_finetune.probing.data.labelled_images import LabelledImage, LabelledImages
from fit3d_finetune.probing.data.scannetpp import coding_of, names_of
from fit3d_ns.common.errors import InputError

CAMVID_VOID = 11


def read_split(
    kind: str, path: Path, classes: tuple[str, ...], coding: LabelCoding | Callable[[Mapping[str, Path]], LabelCoding]
) -> LabelledImages:
    """One split.

    Args:
        kind: as on the command line.
        path: `root/split`, for root/images/split and root/annotations/split.
        classes: names.
        coding: of its labels; or what finds it, from the files by their stems.

    Raises:
        InputError: there are no images, or annotations are missing.
    """
    root, split = path.parent, path.name
    files, found = by_stem(root / "images" / split), by_stem(root / "annotations" / split)
    # Some are called like the image with its ending: DSC0001.JPG.png.
    labels = {stem: found.get(stem) or found.get(image.name) for stem, image in files.items()}
    missing = [stem for stem, label in labels.items() if label is None]
    if not files or missing:
        what = f"{len(missing)} of {len(files)} annotations are missing" if files else "there are no images"
        raise InputError(f"{kind}:{path}: {what} (looked in {root}/images/{split} and {root}/annotations/{split}).")
    there = {stem: label for stem, label in labels.items() if label is not None}
    decoding = coding if isinstance(coding, LabelCoding) else coding(there)
    images = [
        LabelledImage(f"{kind}-{split}/{stem}", files[stem], label, label_coding=decoding)
        for stem, label in there.items()
    ]
    return LabelledImages(f"{kind}:{path}", tuple(images), classes)


def read_camvid(path: Path) -> LabelledImages:
    """A split of CamVid, 11 classes.

    Its files are named drive_frame (0016E5_07959, Seq05VD_f00000); a drive is a scene. All of val is one drive.
    """
    data = read_split("camvid", path, CAMVID, LabelCoding(void=(CAMVID_VOID, 255)))
    drives = [image.path.stem.rpartition("_")[0] for image in data.images]
    if len({*drives}) == 1:
        return data
    return replace(data, images=tuple(replace(i, scene=drive) for i, drive in zip(data.images, drives, strict=True)))


def read_ade20k(path: Path) -> LabelledImages:
    """ADE20K's scene parsing challenge, 150 classes (1 to 150, 0 = void); names by its objectInfo150.txt."""
    names = path.parent / "objectInfo150.txt"
    classes = tuple(line.split("\t")[-1] for line in read_lines(names)[1:]) if names.is_file() else numbered(150)
    if len(classes) != 150:
        raise InputError(f"{names} has {len(classes)} classes instead of 150: take ADE20K's own file, or none.")
    return read_split("ade20k", path, classes, from_one(150))


def read_nyuv2(path: Path) -> LabelledImages:
    """NYUv2, 13 classes (1 to 13, 0 = void)."""
    return read_split("nyuv2", path, NYU13, from_one(13))


def read_nyuv2_40(path: Path) -> LabelledImages:
    """NYUv2, 40 classes (1 to 40, 0 = void)."""
    return read_split("nyuv2-40", path, NYU40, from_one(40))


def read_scannet_40(path: Path) -> LabelledImages:
    """ScanNet by NYU's 40 classes (1 to 40, 0 = void), as FiT3D evaluates it."""
    return read_split("scannet-40", path, NYU40, from_one(40))


def read_scannet_20(path: Path) -> LabelledImages:
    """ScanNet by the 20 classes of its benchmark, in files with NYU's 40; all others are void."""
    names = tuple(NYU40[number - 1] for number in SCANNET20)
    return read_split("scannet-20", path, names, listed(SCANNET20, void=(0,), others_are_void=True))


def read_scannetpp(path: Path) -> LabelledImages:
    """ScanNet++, its 100 most frequent classes; see `scannetpp.coding_of` for its two numberings."""
    return read_split("scannetpp", path, names_of(path.parent), lambda labels: coding_of(list(labels.values())))
