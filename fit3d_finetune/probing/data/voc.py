"""PASCAL VOC 2012: `voc2012:…/VOC2012/val`."""

from __future__ import annotations

from pathlib import Path

from fit3d_finetune.probing.data.class_names import VOC
from fit3d_finetune.probing.data.files import read_lines
from fit3d_finetune.probing.data.labelled_images import LabelledImage, LabelledImages


def read_voc(path: Path) -> LabelledImages:
    """The images that ImageSets/Segmentation/SPLIT.txt lists; 21 classes, 255 (outlines) = void.

    Raises:
        InputError: there is no such list.
    """
    root, split = path.parent, path.name
    images = [
        LabelledImage(
            f"voc2012-{split}/{stem}", root / f"JPEGImages/{stem}.jpg", root / f"SegmentationClass/{stem}.png"
        )
        for stem in read_lines(root / "ImageSets" / "Segmentation" / f"{split}.txt")
    ]
    return LabelledImages(f"voc2012:{path}", tuple(images), VOC)
