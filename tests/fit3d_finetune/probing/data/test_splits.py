"""images/SPLIT and annotations/SPLIT: which number is which class, by data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fit3d_finetune.probing.data.datasets import read_data
from fit3d_ns.common.errors import InputError
from tests.fit3d_finetune.probing.data.files import write_split, write_text


@pytest.mark.parametrize(
    ("kind", "count", "numbers", "classes"),
    [
        ("ade20k", 150, [0, 1, 150], [255, 0, 149]),
        ("nyuv2", 13, [0, 1, 13], [255, 0, 12]),
        ("nyuv2-40", 40, [0, 1, 40], [255, 0, 39]),
        ("scannet-40", 40, [0, 1, 40], [255, 0, 39]),
        ("scannet-20", 20, [0, 1, 13, 14, 39, 40], [255, 0, 255, 12, 19, 255]),
    ],
)
def test_numbers_become_classes(tmp_path: Path, kind: str, count: int, numbers: list[int], classes: list[int]) -> None:
    [data] = read_data([f"{kind}:{write_split(tmp_path, [[numbers]])}"])
    assert len(data.classes) == len({*data.classes}) == count
    labels = data.images[0].labels(count)
    assert labels.dtype == np.uint8
    assert labels.tolist() == [classes]


def test_names_of_scannets_classes_are_those_of_its_benchmark(tmp_path: Path) -> None:
    [data] = read_data([f"scannet-20:{write_split(tmp_path, [[[1, 2]]])}"])
    assert data.classes[:2] == ("wall", "floor")
    assert data.classes[-4:] == ("toilet", "sink", "bathtub", "other furniture")


def test_a_number_beyond_the_classes_is_refused_and_says_so(tmp_path: Path) -> None:
    [data] = read_data([f"nyuv2:{write_split(tmp_path, [[[0, 1, 27]]])}"])
    with pytest.raises(InputError, match=r"a0\.png holds class 27, but there are 13 classes \(1 to 13, 0 = void\)"):
        data.images[0].labels(13)


def test_ade20k_has_its_names_from_its_own_file(tmp_path: Path) -> None:
    split = write_split(tmp_path, [[[1]]])
    lines = ["Idx\tRatio\tTrain\tVal\tStuff\tName", *(f"{i}\t0.1\t1\t1\t0\tthing {i}, stuff" for i in range(1, 151))]
    write_text(tmp_path / "objectInfo150.txt", "\n".join(lines))
    assert read_data([f"ade20k:{split}"])[0].classes[149] == "thing 150, stuff"
    write_text(tmp_path / "objectInfo150.txt", "\n".join(lines[:-1]))
    with pytest.raises(InputError, match="has 149 classes instead of 150"):
        read_data([f"ade20k:{split}"])


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        ([[[5, 5, 5]], [[0, 99, 255]]], [0, 99, 255]),
        ([[[5, 5, 5]], [[0, 1, 100]]], [255, 0, 99]),
    ],
)
def test_scannetpp_tells_its_two_numberings_apart(
    tmp_path: Path, values: list[list[list[int]]], classes: list[int]
) -> None:
    [data] = read_data([f"scannetpp:{write_split(tmp_path, values)}"])
    assert data.images[1].labels(100).tolist() == [classes]


def test_scannetpp_is_refused_where_nothing_tells_them_apart_or_both_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing says which numbering these labels have: add an image"):
        read_data([f"scannetpp:{write_split(tmp_path / 'neither', [[[0, 1, 99]]])}"])
    [data] = read_data([f"scannetpp:{write_split(tmp_path / 'both', [[[0, 255]], [[1, 100]]])}"])
    with pytest.raises(InputError, match=r"a1\.png holds class 100"):
        data.images[1].labels(100)


def test_scannetpps_toolkit_names_labels_after_the_whole_file(tmp_path: Path) -> None:
    split = write_split(tmp_path, [[[0, 255]]], suffix=".JPG", label="{}.JPG.png")
    [data] = read_data([f"scannetpp:{split}"])
    assert data.images[0].label_path == tmp_path / "annotations/validation/a0.JPG.png"


def test_missing_annotations_are_counted(tmp_path: Path) -> None:
    split = write_split(tmp_path, [[[1]], [[1]]])
    (tmp_path / "annotations/validation/a1.png").unlink()
    with pytest.raises(InputError, match=r"ade20k:.*1 of 2 annotations are missing .*annotations/validation"):
        read_data([f"ade20k:{split}"])
