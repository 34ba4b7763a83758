"""Images to probe with: posed scenes, exports, plain folders, published data sets; the next one is one small reader.

A reader turns a path into `LabelledImages`: file names and cameras, nothing decoded. Register it in `READERS`, and
`kind:path` on the command line finds it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fit3d_finetune.probing.data import depth_lists, splits
from fit3d_finetune.probing.data.cityscapes import read_cityscapes
from fit3d_finetune.probing.data.export_views import read_export
from fit3d_finetune.probing.data.folders import read_folder
from fit3d_finetune.probing.data.labelled_images import LabelledImages
from fit3d_finetune.probing.data.navi import read_navi
from fit3d_finetune.probing.data.posed_scenes import read_posed_scene
from fit3d_finetune.probing.data.scannet_frames import read_scannet_1500, read_scannet_frames
from fit3d_finetune.probing.data.voc import read_voc
from fit3d_ns.common.errors import InputError
from fit3d_ns.scene.gaussians import SCENE_FILE

READERS: dict[str, Callable[[Path], LabelledImages]] = {
    "scene": read_posed_scene,
    "folder": read_folder,
    "export": read_export,
    "ade20k": splits.read_ade20k,
    "camvid": splits.read_camvid,
    "cityscapes": read_cityscapes,
    "kitti-depth": depth_lists.read_kitti_depth,
    "navi": read_navi,
    "nyu-depth": depth_lists.read_nyu_depth,
    "nyuv2": splits.read_nyuv2,
    "nyuv2-40": splits.read_nyuv2_40,
    "scannet-1500": read_scannet_1500,
    "scannet-20": splits.read_scannet_20,
    "scannet-40": splits.read_scannet_40,
    "scannet-depth": depth_lists.read_scannet_depth,
    "scannet-frames": read_scannet_frames,
    "scannetpp": splits.read_scannetpp,
    "scannetpp-depth": depth_lists.read_scannetpp_depth,
    "voc2012": read_voc,
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
    paths = [path for image in data.images for path in image.files.values()]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise InputError(f"{place}: {len(missing)} of {len(paths)} files are missing, the first is {missing[0]}.")
