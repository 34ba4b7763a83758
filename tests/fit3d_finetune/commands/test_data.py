"""fit3d-data: what is there, what is missing, what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from fit3d_finetune.commands.data import Check, List, parse, run
from fit3d_finetune.probing.data.datasets import READERS
from fit3d_finetune.probing.data.inspection import kinds
from fit3d_ns.common.errors import InputError
from tests.fit3d_finetune.probing.data.files import write_nyu, write_split


def test_the_command_line_has_two_words() -> None:
    assert parse(["check", "voc2012", "VOC/val"]) == Check("voc2012", Path("VOC/val"))
    assert parse(["list"]) == List()


def test_every_kind_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert kinds().keys() == READERS.keys()
    assert all(len(what) > 10 for what in kinds().values())
    run(List())
    assert "kitti-depth" in capsys.readouterr().err


def test_the_page_about_data_has_every_kind() -> None:
    page = (Path(__file__).parents[3] / "docs" / "data.md").read_text()
    assert {kind for kind in READERS if f"`{kind}`" not in page} == set()


def test_a_whole_data_set_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(Check("nyu-depth", write_nyu(tmp_path)))
    said = capsys.readouterr().err
    assert "scored up to 10 m, crops of nyu" in said
    assert "no labels" in said
    assert "depth, depth-patches" in said
    assert "segmentation" not in said


def test_missing_files_are_counted_by_what_they_are(tmp_path: Path) -> None:
    path = write_nyu(tmp_path)
    (tmp_path / "kitchen_0028b/sync_depth_00045.png").unlink()
    with pytest.raises(InputError, match=r"1 files of depth for 1 images are missing, the first is .*00045\.png: add"):
        run(Check("nyu-depth", path))


def test_labels_of_another_variant_are_found_before_probing(tmp_path: Path) -> None:
    split = write_split(tmp_path, [[[1, 27]]])
    with pytest.raises(InputError, match="holds class 27, but there are 13 classes"):
        run(Check("nyuv2", split))
    run(Check("nyuv2-40", split))


def test_a_kind_that_does_not_exist_names_those_that_do() -> None:
    with pytest.raises(InputError, match="no kind of data set “nyu”: choose from ade20k, camvid"):
        run(Check("nyu", Path()))
