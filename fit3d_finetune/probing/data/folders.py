"""Plain folders of images with labels and depth."""

from __future__ import annotations

from pathlib import Path

from fit3d_finetune.probing.data.files import by_stem, read_classes
from fit3d_finetune.probing.data.labelled_images import LabelledImage, LabelledImages
from fit3d_ns.common.errors import InputError


def read_folder(path: Path) -> LabelledImages:
    """images/, and of the same file stems annotations/ (class maps, with classes.json) and / or depth/ (in mm).

    All of a folder is one scene: nothing says which of its images were taken in the same place.
    """
    images = []
    labels, depths = by_stem(path / "annotations"), by_stem(path / "depth")
    for stem, image in by_stem(path / "images").items():
        images.append(LabelledImage(f"{path.name}/{stem}", image, labels.get(stem), depth_path=depths.get(stem)))
    for kind, files in (("annotations", labels), ("depth", depths)):
        missing = [image.path.stem for image in images if files and image.path.stem not in files]
        if missing:
            raise InputError(
                f"{path / kind} lacks {len(missing)} of {len(images)} files, the first for image {missing[0]}: "
                "add them, or take the images out."
            )
    return LabelledImages(str(path), tuple(images), read_classes(path, required=bool(labels)))
