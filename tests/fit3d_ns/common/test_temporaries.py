"""Leftovers of dead processes are swept; what a live process writes, and what others wrote, never."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fit3d_ns.common import temporaries as module
from fit3d_ns.common.atomic import atomic_file
from fit3d_ns.common.temporaries import sweep_leftovers, temporaries

WRITES = """
    import sys, time
    from pathlib import Path
    from fit3d_ns.common.temporaries import temporaries

    with temporaries(Path(sys.argv[1]) / "room") as names:
        names.new.mkdir()
        (names.new / "half.bin").write_text("ne")
        print("half", flush=True)
        time.sleep(60)
"""


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def writer(folder: Path, script: str = WRITES) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[3],
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "half\n"
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()


def test_a_live_writers_files_stay_and_a_dead_ones_go(tmp_path: Path) -> None:
    with writer(tmp_path):
        before = names_in(tmp_path)
        assert len(before) == 2
        sweep_leftovers(tmp_path)
        assert names_in(tmp_path) == before
    assert names_in(tmp_path) == before
    sweep_leftovers(tmp_path)
    assert names_in(tmp_path) == []


def test_a_sweep_by_the_writer_itself_spares_its_files(tmp_path: Path) -> None:
    with temporaries(tmp_path / "map.bin") as names:
        names.new.write_text("half")
        sweep_leftovers(tmp_path)
        assert names.new.read_text() == "half"
        with atomic_file(tmp_path / "other") as other:
            other.write_text("whole")
        sweep_leftovers(tmp_path)
        assert names.new.read_text() == "half"
    assert names_in(tmp_path) == ["other"]


FOREIGN = (
    *(".room.tmp", ".room.abc123.tmp", ".room.abc123.old", ".checkpoint.safetensors.x.tmp", ".saving", "room.tmp"),
    # Named as ours, but without the lock file that would say so.
    *(".room.fit3d-0123456789abcdef.tmp", ".room.fit3d-0123456789abcdef.old"),
)


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_what_others_wrote_stays(tmp_path: Path, name: str, folder: bool) -> None:
    if folder:
        (tmp_path / name / "room").mkdir(parents=True)
    else:
        (tmp_path / name).write_text("a user's")
    sweep_leftovers(tmp_path)
    assert names_in(tmp_path) == [name]


@pytest.mark.parametrize("kind", ["another content", "a link", "a folder"])
def test_a_lock_file_that_is_not_ours_takes_nothing_with_it(tmp_path: Path, kind: str) -> None:
    lock, beside = (tmp_path / f".room.fit3d-0123456789abcdef.{ending}" for ending in ("lock", "tmp"))
    beside.write_text("a user's")
    if kind == "a link":
        (tmp_path / "target").write_text("")
        lock.symlink_to("target")
    elif kind == "a folder":
        lock.mkdir()
    else:
        lock.write_text("a user's")
    before = names_in(tmp_path)
    sweep_leftovers(tmp_path)
    assert names_in(tmp_path) == before


def test_links_among_leftovers_are_removed_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "photo.jpg").write_text("a user's")
    folder = tmp_path / "runs"
    folder.mkdir()
    with writer(folder):
        pass
    (left,) = folder.glob(".*.tmp")
    (left / "link").symlink_to(outside)
    sweep_leftovers(folder)
    assert names_in(folder) == []
    assert names_in(outside) == ["photo.jpg"]


def test_a_folder_that_is_not_there_or_may_not_be_read_is_no_error(tmp_path: Path) -> None:
    sweep_leftovers(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    sweep_leftovers(tmp_path / "file")


def killed_between_the_renames(folder: Path, complete: bool) -> None:
    with temporaries(folder / "room") as names:
        names.old.mkdir()
        (names.old / "room").mkdir()
        (names.old / "room" / "scene.json").write_text("old")
        if complete:
            names.new.mkdir()
            (names.new / "scene.json").write_text("new")
        os._exit(9)


@pytest.mark.parametrize("complete", [True, False])
def test_what_stood_between_two_renames_is_put_right_and_reported(
    tmp_path: Path, complete: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = os.fork()
    if process == 0:
        killed_between_the_renames(tmp_path, complete)
    os.waitpid(process, 0)
    assert not (tmp_path / "room").exists()
    said: list[str] = []
    monkeypatch.setattr(module.logger, "warning", lambda text, *values: said.append(text % values))
    sweep_leftovers(tmp_path)
    assert names_in(tmp_path) == ["room"]
    assert (tmp_path / "room" / "scene.json").read_text() == ("new" if complete else "old")
    (line,) = said
    assert str(tmp_path / "room") in line
    assert ("the new one is complete" if complete else "the old one is back") in line


def test_a_name_as_long_as_the_file_system_takes_can_be_written(tmp_path: Path) -> None:
    for name in ("x" * 255, "é" * 127):
        with atomic_file(tmp_path / name) as temporary:
            temporary.write_text("whole")
        assert (tmp_path / name).read_text() == "whole"


def test_a_folder_that_vanishes_while_a_file_is_begun_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when another command tries the place for writing and takes its empty folder away."""
    real, vanished = os.open, []

    def vanishing(path: object, *arguments: int) -> int:
        if len(vanished) < 2:
            vanished.append(path)
            (tmp_path / "runs").rmdir()
        return real(path, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module.os, "open", vanishing)
    with temporaries(tmp_path / "runs" / "room") as names:
        names.new.write_text("")
    assert len(vanished) == 2
