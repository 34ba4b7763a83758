"""Swapping two names, and renaming without replacing, against what `ls` would say."""

from __future__ import annotations

from pathlib import Path

import pytest

from fit3d_ns.common import exchange as module
from fit3d_ns.common.exchange import exchange, rename_to_free_name


@pytest.fixture(params=[True, False], ids=["renameat2", "without"])
def system_call(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if not request.param:
        monkeypatch.setattr(module, "_system_call", lambda: None)
    return bool(request.param)


def test_two_folders_swap_places_or_stay_where_they_are(tmp_path: Path, system_call: bool) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a/was_a").write_text("")
    (tmp_path / "b/was_b").write_text("")
    done = exchange(tmp_path / "a", tmp_path / "b")
    assert done == system_call, "Linux, on a common file system"
    assert (tmp_path / "b/was_a").exists() == done
    assert (tmp_path / "a/was_b").exists() == done


def test_a_folder_and_a_file_swap_places(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").write_text("")
    assert exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").is_file()
    assert (tmp_path / "b").is_dir()


def test_nothing_to_swap_with_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(FileNotFoundError, match="b"):
        exchange(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("kind", ["empty folder", "file", "dangling link"])
def test_a_rename_to_a_name_that_is_taken_is_an_error(tmp_path: Path, system_call: bool, kind: str) -> None:
    (tmp_path / "new").mkdir()
    taken = tmp_path / "taken"
    {"empty folder": taken.mkdir, "file": taken.touch, "dangling link": lambda: taken.symlink_to("nowhere")}[kind]()
    with pytest.raises(FileExistsError):
        rename_to_free_name(tmp_path / "new", taken)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "taken"]
    rename_to_free_name(tmp_path / "new", tmp_path / "free")
    assert (tmp_path / "free").is_dir()
