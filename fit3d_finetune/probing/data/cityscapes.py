"""Cityscapes: `cityscapes:…/cityscapes/val`."""

from __future__ import annotations

from pathlib import Path

from fit3d_finetune.probing.data.class_names import CITYSCAPES
from fit3d_finetune.probing.data.codings import listed
from fit3d_finetune.probing.data.labelled_images import LabelledImage, LabelledImages
from fit3d_ns.common.errors import InputError

IMAGE, LABEL = "leftImg8bit", "gtFine"


def read_cityscapes(path: Path) -> LabelledImages:
    """leftImg8bit/SPLIT and gtFine/SPLIT with labelIds, which need no converting; 19 classes, all others void.

    A city is a scene.

    Raises:
        InputError: there are no images.
    """
    root, split = path.parent, path.name
    coding = listed(tuple(CITYSCAPES), others_are_void=True)
    images = []
    for image in sorted((root / IMAGE / split).glob(f"*/*_{IMAGE}.png")):
        city, stem = image.parent.name, image.name.removesuffix(f"_{IMAGE}.png")
        label = root / LABEL / split / city / f"{stem}_{LABEL}_labelIds.png"
        images.append(LabelledImage(f"cityscapes-{split}/{stem}", image, label, scene=city, label_coding=coding))
    if not images:
        raise InputError(f"cityscapes:{path}: there are no images (looked for {root / IMAGE / split}/CITY/*.png).")
    return LabelledImages(f"cityscapes:{path}", tuple(images), tuple(CITYSCAPES.values()))
