"""The output folder of a capture: others' files stay, interrupted work goes on, results come whole."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest

from fit3d_ns.common.errors import InputError
from fit3d_ns.reconstruction.workplace import (
    SUMMARY_FILE,
    SUMMARY_FORMAT,
    WORK_FOLDER,
    Workplace,
    check_workplace,
    open_workplace,
)

MOVES = [
    ("result/points", "points"),
    ("result/capture.json", SUMMARY_FILE),
    ("result/transforms.json", "transforms.json"),
]


def write_result(place: Workplace, text: str) -> None:
    result = place.fresh_folder("result")
    (result / "points").mkdir()
    (result / "points" / "a").write_text(text)
    files = [name for _, name in MOVES]
    (result / SUMMARY_FILE).write_text(json.dumps({"format": SUMMARY_FORMAT, "files": files}))
    (result / "transforms.json").write_text(text)


def make(output: Path, key: str = "key", text: str = "new", overwrite: bool = False) -> None:
    with open_workplace(output, key, overwrite) as place:
        write_result(place, text)
        place.publish(MOVES)


def listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_results_come_and_the_work_goes(tmp_path: Path) -> None:
    make(tmp_path / "out")
    assert listing(tmp_path / "out") == [SUMMARY_FILE, "points", "points/a", "transforms.json"]


def test_interrupted_work_is_found_again_by_the_same_task_alone(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with suppress(KeyboardInterrupt), open_workplace(output, "key", False) as place:
        place.save(names=["a"])
        (place.folder / "database.db").write_text("half")
        raise KeyboardInterrupt
    with suppress(KeyboardInterrupt), open_workplace(output, "key", False) as place:
        assert place.state["names"] == ["a"]
        assert place.database.read_text() == "half"
        raise KeyboardInterrupt
    with open_workplace(output, "other", False) as place:
        assert "names" not in place.state
        assert not place.database.exists()


def test_bad_input_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(InputError), open_workplace(tmp_path / "out", "key", False):
        raise InputError("no")
    assert listing(tmp_path) == []
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError), open_workplace(tmp_path / "mine", "key", False):
        raise InputError("no")
    assert listing(tmp_path) == ["mine"]


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_a_run_that_is_killed_while_results_come_goes_on(
    tmp_path: Path, stop_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, left = os.rename, [stop_after]

    def killed(source: Path, target: Path) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        rename(source, target)

    output = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("fit3d_ns.reconstruction.workplace.os.rename", killed)
        with pytest.raises(KeyboardInterrupt):
            make(output)
    assert not (output / "transforms.json").exists()
    with open_workplace(output, "key", False) as place:
        assert place.finished
    assert listing(output) == [SUMMARY_FILE, "points", "points/a", "transforms.json"]


def test_others_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds notes\.txt"), open_workplace(tmp_path, "key", True):
        pass
    assert listing(tmp_path) == ["notes.txt"]
    make(tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds notes\.txt"), open_workplace(tmp_path / "out", "key", True):
        pass


def test_a_folder_of_the_work_folders_name_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / WORK_FOLDER).mkdir()
    (tmp_path / WORK_FOLDER / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not fit3d-capture's"), open_workplace(tmp_path, "key", True):
        pass
    assert listing(tmp_path) == [WORK_FOLDER, f"{WORK_FOLDER}/thesis.txt"]


def test_a_finished_capture_is_replaced_only_when_asked_for_and_only_at_the_end(tmp_path: Path) -> None:
    output = tmp_path / "out"
    make(output, text="old")
    with pytest.raises(InputError, match="--overwrite"):
        make(output)
    with open_workplace(output, "key", True) as place:
        write_result(place, "new")
        assert (output / "transforms.json").read_text() == "old"
        place.publish(MOVES)
    assert (output / "transforms.json").read_text() == "new"
    assert (output / "points" / "a").read_text() == "new"


def test_a_path_in_a_changed_summary_leads_nowhere(tmp_path: Path) -> None:
    make(tmp_path / "out")
    (tmp_path / "thesis.txt").write_text("mine")
    summary = tmp_path / "out" / SUMMARY_FILE
    summary.write_text(
        json.dumps(
            {**json.loads(summary.read_text()), "files": ["../thesis.txt", "points", "transforms.json", SUMMARY_FILE]}
        )
    )
    make(tmp_path / "out", overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_two_at_a_time_are_refused(tmp_path: Path) -> None:
    with open_workplace(tmp_path / "out", "key", False) as place:
        with pytest.raises(InputError, match="another fit3d-capture"), open_workplace(tmp_path / "out", "key", False):
            pass
        assert place.folder.is_dir()


def test_looking_finds_what_opening_would_and_changes_nothing(tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert check_workplace(output, "key", False) == ""
    assert listing(tmp_path) == []
    with suppress(KeyboardInterrupt), open_workplace(output, "key", False):
        with pytest.raises(InputError, match="another fit3d-capture"):
            check_workplace(output, "key", False)
        raise KeyboardInterrupt
    before = listing(tmp_path)
    assert check_workplace(output, "key", False).startswith("begun")
    assert check_workplace(output, "other", False) == ""
    assert listing(tmp_path) == before
    make(output)
    with pytest.raises(InputError, match="--overwrite"):
        check_workplace(output, "key", False)
    assert check_workplace(output, "key", True) == ""
    (output / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds notes\.txt"):
        check_workplace(output, "key", True)
