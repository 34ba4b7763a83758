"""VOC, Cityscapes, and depth by lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fit3d_finetune.probing.data.class_names import CITYSCAPES
from fit3d_finetune.probing.data.datasets import read_data
from fit3d_finetune.probing.data.depth_benchmarks import depth_benchmark, depth_limit
from fit3d_finetune.probing.data.labelled_images import scenes_of
from fit3d_ns.common.errors import InputError
from tests.fit3d_finetune.probing.data.files import write_numbers, write_nyu, write_photo, write_text


def test_voc_reads_the_images_of_its_list_and_palettes_as_numbers(tmp_path: Path) -> None:
    for stem in ("2007_1", "2007_2"):
        write_photo(tmp_path / f"JPEGImages/{stem}.jpg", 3, 1)
        label = Image.fromarray(np.array([[0, 20, 255]], np.uint8), mode="P")
        label.putpalette([0, 0, 0, 128, 0, 0] * 128)
        (tmp_path / "SegmentationClass").mkdir(exist_ok=True)
        label.save(tmp_path / f"SegmentationClass/{stem}.png")
    write_text(tmp_path / "ImageSets/Segmentation/val.txt", "2007_2\n")
    [data] = read_data([f"voc2012:{tmp_path}/val"])
    assert [image.path.stem for image in data.images] == ["2007_2"]
    assert (data.classes[0], data.classes[20]) == ("background", "tvmonitor")
    assert data.images[0].labels(21).tolist() == [[0, 20, 255]]
    with pytest.raises(InputError, match=r"train\.txt cannot be read \(No such file"):
        read_data([f"voc2012:{tmp_path}/train"])


def test_cityscapes_takes_labelids_and_counts_nineteen_classes(tmp_path: Path) -> None:
    stem = "frankfurt_000000_000294"
    write_photo(tmp_path / f"leftImg8bit/val/frankfurt/{stem}_leftImg8bit.png", 5, 1)
    write_numbers(tmp_path / f"gtFine/val/frankfurt/{stem}_gtFine_labelIds.png", [[7, 33, 0, 4, 29]])
    [data] = read_data([f"cityscapes:{tmp_path}/val"])
    assert data.classes == tuple(CITYSCAPES.values())
    assert data.images[0].labels(19).tolist() == [[0, 18, 255, 255, 255]]
    assert data.images[0].scene == "frankfurt"
    with pytest.raises(InputError, match=r"there are no images .*leftImg8bit/train"):
        read_data([f"cityscapes:{tmp_path}/train"])


def test_nyus_list_gives_metres_rooms_and_its_benchmark(tmp_path: Path) -> None:
    data = read_data([f"nyu-depth:{write_nyu(tmp_path)}"])
    assert data[0].images[0].depth().tolist() == np.full((4, 6), np.float32(2.5)).tolist()
    assert scenes_of(data) == ["nyu_test.txt/kitchen_0028b"]
    assert depth_benchmark(data, None).name == "nyu"
    assert depth_benchmark(data, "none").name == "none"
    assert (depth_limit(data, None), depth_limit(data, 5.0)) == (10.0, 5.0)


def test_kittis_list_leaves_out_lines_without_depth_and_scales_by_256(tmp_path: Path) -> None:
    drive = "2011_09_26/2011_09_26_drive_0002_sync/image_02/data"
    truth = "2011_09_26_drive_0002_sync/proj_depth/groundtruth/image_02"
    write_photo(tmp_path / f"input/{drive}/0000000069.png")
    write_numbers(tmp_path / f"gt_depth/{truth}/0000000069.png", np.full((4, 6), 256 * 20), np.uint16)
    lines = [f"{drive}/0000000069.png {truth}/0000000069.png 721.5377", f"{drive}/0000000054.png None 721.5377"]
    data = read_data([f"kitti-depth:{write_text(tmp_path / 'kitti_eigen_test.txt', chr(10).join(lines))}"])
    [image] = data[0].images
    assert image.depth().max() == 20.0
    assert image.scene == "2011_09_26_drive_0002_sync"
    assert (depth_benchmark(data, None).name, depth_limit(data, None)) == ("kitti", 80.0)


@pytest.mark.parametrize("kind", ["scannet-depth", "scannetpp-depth"])
def test_lists_of_nyus_form_have_their_own_limits(tmp_path: Path, kind: str) -> None:
    data = read_data([f"{kind}:{write_nyu(tmp_path)}"])
    expected = {"scannet-depth": ("scannet", 10.0), "scannetpp-depth": ("none", 20.0)}[kind]
    assert (depth_benchmark(data, None).name, depth_limit(data, None)) == expected


def test_data_of_different_conventions_are_refused_unless_one_is_chosen(tmp_path: Path) -> None:
    path = write_nyu(tmp_path)
    data = read_data([f"nyu-depth:{path}", f"scannetpp-depth:{path}"])
    with pytest.raises(InputError, match=r"different conventions for depth \(nyu, none\): say --depth-benchmark"):
        depth_benchmark(data, None)
    with pytest.raises(InputError, match=r"\(10\.0, 20\.0\): say --max-depth"):
        depth_limit(data, None)
    assert depth_benchmark(data, "nyu").name == "nyu"


@pytest.mark.parametrize(
    ("line", "fault"), [("a.jpg", "line 1 of .* has 1 words"), ("../a.jpg b.png", "line 1 of .* leads out of its")]
)
def test_a_list_that_is_none_is_refused(tmp_path: Path, line: str, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        read_data([f"nyu-depth:{write_text(tmp_path / 'list.txt', line)}"])


def test_labels_and_depth_of_another_resolution_are_those_of_the_nearest_pixel(tmp_path: Path) -> None:
    write_photo(tmp_path / "images/a.jpg", 6, 4)
    write_numbers(tmp_path / "depth/a.png", [[1000, 2000, 3000], [4000, 5000, 6000]], np.uint16)
    write_numbers(tmp_path / "annotations/a.png", np.kron([[0, 1, 0], [1, 0, 1]], np.ones((4, 4), int)))
    write_text(tmp_path / "classes.json", '["one", "other"]')
    [image] = read_data([str(tmp_path)])[0].images
    expected = [[1, 1, 2, 2, 3, 3]] * 2 + [[4, 4, 5, 5, 6, 6]] * 2
    np.testing.assert_allclose(image.depth(), expected, rtol=1e-6)
    assert image.labels(2).tolist() == [[0, 0, 1, 1, 0, 0]] * 2 + [[1, 1, 0, 0, 1, 1]] * 2
    write_numbers(tmp_path / "depth/a.png", np.full((4, 4), 1000), np.uint16)
    with pytest.raises(InputError, match=r"a\.png is 4x4, but its image a\.jpg is 6x4: give labels and depth of the"):
        image.depth()
