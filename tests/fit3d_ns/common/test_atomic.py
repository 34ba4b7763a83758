"""Atomic writes: the new content whole or the old content untouched, and nothing left lying about."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from fit3d_ns.common import atomic
from fit3d_ns.common.atomic import atomic_directory, atomic_file
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.temporaries import sweep_leftovers


@pytest.fixture(params=[0o022, 0o077, 0o002], ids=["022", "077", "002"])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def content(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def killed_while(script: str, folder: Path) -> None:
    """Run `script` until it says 'half', then kill it without a chance to tidy up."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=30) == -signal.SIGKILL
    process.stdout.close()


# ---- files


def write_half_a_file(path: Path, error: BaseException) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text("ne")
        raise error


def test_a_file_appears_under_its_name_only_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "deep" / "map.bin"
    with atomic_file(path) as temporary:
        assert temporary.parent == path.parent  # the same file system, so that the rename is atomic
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert names_in(path.parent) == ["map.bin"]


def test_a_file_that_was_there_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "map.bin"
    path.write_text("old")
    with atomic_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names_in(tmp_path) == ["map.bin"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), SystemExit(1)])
def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "map.bin"
    path.write_text("old")
    with pytest.raises(type(error)):
        write_half_a_file(path, error)
    assert content(tmp_path) == {"map.bin": "old"}


def test_an_error_while_writing_leaves_nothing_where_there_was_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="broken"):
        write_half_a_file(tmp_path / "map.bin", RuntimeError("broken"))
    assert names_in(tmp_path) == []


def test_a_writer_may_replace_the_temporary_file_itself(tmp_path: Path) -> None:
    path = tmp_path / "map.bin"
    with atomic_file(path) as temporary:
        other = tmp_path / "other"
        other.write_text("new")
        other.replace(temporary)
    assert content(tmp_path) == {"map.bin": "new"}


def test_a_file_is_as_readable_as_the_umask_says(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "map.bin"
    with atomic_file(path) as temporary:
        temporary.write_text("new")
    assert mode(path) == 0o666 & ~umask
    assert os.umask(umask) == umask  # asking for it has not changed it


def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "map.bin"
    path.write_text("old")
    script = """
        import sys, time
        from pathlib import Path
        from fit3d_ns.common.atomic import atomic_file

        with atomic_file(Path(sys.argv[1]) / "map.bin") as temporary:
            temporary.write_text("ne")
            print("half", flush=True)
            time.sleep(60)
    """
    killed_while(script, tmp_path)
    assert path.read_text() == "old"
    assert all(name.startswith(".") for name in names_in(tmp_path) if name != "map.bin")
    with atomic_file(path) as temporary:  # what the killed one left is in nobody's way
        temporary.write_text("new")
    assert path.read_text() == "new"


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "map.bin"
    with atomic_file(path) as first, atomic_file(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the last to finish
    assert names_in(tmp_path) == ["map.bin"]


# ---- folders


def write_export(folder: Path, text: str, names: tuple[str, ...] = ("meta.json", "images/0.png")) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def no_export(path: Path) -> str | None:
    """An obstacle that lets go of folders with a meta.json."""
    if not os.path.lexists(path) or (not path.is_symlink() and (path / "meta.json").is_file()):
        return None
    return "is no export"


def write_half_an_export(path: Path, error: BaseException) -> None:
    with atomic_directory(path, no_export) as temporary:
        write_export(temporary, "new")
        raise error


def test_a_folder_appears_under_its_name_only_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "room"
    with atomic_directory(path) as temporary:
        write_export(temporary, "new")
        assert not path.exists()
    assert content(path) == {"meta.json": "new", "images/0.png": "new"}
    assert names_in(path.parent) == ["room"]


def test_a_folder_that_was_there_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "room"
    write_export(path, "old", ("meta.json", "images/0.png", "images/stale.png"))
    with atomic_directory(path, no_export) as temporary:
        write_export(temporary, "new", ("meta.json", "splat.ply"))
        assert content(path)["meta.json"] == "old"
    assert content(path) == {"meta.json": "new", "splat.ply": "new"}
    assert names_in(tmp_path) == ["room"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), SystemExit(1)])
def test_an_error_while_writing_leaves_the_old_folder_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "room"
    write_export(path, "old")
    with pytest.raises(type(error)):
        write_half_an_export(path, error)
    assert content(tmp_path) == {"room/meta.json": "old", "room/images/0.png": "old"}
    assert names_in(tmp_path) == ["room"]


def test_an_error_while_writing_leaves_no_folder_where_there_was_none(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="broken"):
        write_half_an_export(tmp_path / "room", RuntimeError("broken"))
    assert names_in(tmp_path) == []


def test_a_folder_and_all_in_it_are_as_readable_as_the_umask_says(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "room"
    with atomic_directory(path) as temporary:
        write_export(temporary, "new")
        (temporary / "meta.json").chmod(0o600)  # as safetensors makes its files
        (temporary / "images").chmod(0o700)
    assert mode(path) == mode(path / "images") == 0o777 & ~umask
    assert mode(path / "meta.json") == mode(path / "images/0.png") == 0o666 & ~umask


# ---- nobody's files


def a_file(path: Path) -> None:
    path.write_text("a user's")


def a_link_to_an_export(path: Path) -> None:
    write_export(path.parent / "elsewhere", "a user's")
    path.symlink_to("elsewhere")


def a_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def a_folder_of_photos(path: Path) -> None:
    write_export(path, "a user's", ("1.jpg", "2.jpg"))


def an_empty_folder(path: Path) -> None:
    path.mkdir()


VICTIMS = [a_file, a_link_to_an_export, a_dangling_link, a_folder_of_photos, an_empty_folder]


def everything(folder: Path) -> dict[str, str]:
    """All names below a folder with what stands there."""
    return {
        str(path.relative_to(folder)): f"-> {os.readlink(path)}"
        if path.is_symlink()
        else path.read_text()
        if path.is_file()
        else "folder"
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("victim", VICTIMS)
def test_what_is_not_ours_is_refused_before_the_work(tmp_path: Path, victim: Callable[[Path], None]) -> None:
    victim(tmp_path / "room")
    before = everything(tmp_path)
    with pytest.raises(InputError, match="room is no export"), atomic_directory(tmp_path / "room", no_export):
        pytest.fail("the work was started")
    assert everything(tmp_path) == before


@pytest.mark.parametrize("swaps", [True, False], ids=["exchange", "two renames"])
@pytest.mark.parametrize("victim", VICTIMS)
def test_what_came_to_stand_there_during_the_work_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: Callable[[Path], None], swaps: bool
) -> None:
    if not swaps:
        monkeypatch.setattr(atomic, "exchange", lambda *_: False)
    path = tmp_path / "room"
    before: dict[str, str] = {}

    def write_while_somebody_comes() -> None:
        with atomic_directory(path, no_export) as temporary:
            write_export(temporary, "new")
            victim(path)
            before.update({name: text for name, text in everything(tmp_path).items() if not name.startswith(".")})

    with pytest.raises(InputError, match="room is no export"):
        write_while_somebody_comes()
    assert everything(tmp_path) == before


@pytest.mark.parametrize("swaps", [True, False], ids=["exchange", "two renames"])
@pytest.mark.parametrize("victim", VICTIMS)
def test_what_came_to_stand_there_in_the_last_moment_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: Callable[[Path], None], swaps: bool
) -> None:
    if not swaps:
        monkeypatch.setattr(atomic, "exchange", lambda *_: False)
    path, asked = tmp_path / "room", []
    write_export(path, "old")

    def obstacle(asked_of: Path) -> str | None:
        found = no_export(asked_of)
        asked.append(asked_of)
        if len(asked) == 2:  # the last look before the replacement
            path.rename(tmp_path / "moved by its owner")
            victim(path)
        return found

    with pytest.raises(InputError, match="room is no export"), atomic_directory(path, obstacle) as temporary:
        write_export(temporary, "new")
    assert asked[2] != path
    found = everything(tmp_path)
    victim(tmp_path / "again")
    assert found["room"] == everything(tmp_path)["again"]
    assert content(path) == content(tmp_path / "again")
    assert content(tmp_path / "moved by its owner")["meta.json"] == "old"
    assert not [name for name in names_in(tmp_path) if name.startswith(".")]


def test_without_an_obstacle_of_its_own_nothing_is_replaced(tmp_path: Path) -> None:
    write_export(tmp_path / "room", "old")
    with pytest.raises(InputError, match="there already"), atomic_directory(tmp_path / "room"):
        pytest.fail("the work was started")


# ---- killed between any two lines

WATCHED = ("fit3d_ns/common/atomic.py", "fit3d_ns/common/temporaries.py", "fit3d_ns/common/exchange.py", "shutil.py")


def child_killed_at_line(write: Callable[[], None], line: int) -> bool:
    """Do `write` in a process that dies before the so-manieth line of our modules; False if it came to its end."""
    process = os.fork()
    if process == 0:
        lines = 0

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal lines
            if not frame.f_code.co_filename.endswith(WATCHED):
                return None
            if event == "line":
                if lines == line:
                    os.kill(os.getpid(), signal.SIGKILL)
                lines += 1
            return trace

        os.fsync = lambda _: None  # a kill is no power cut, and hundreds of them take a minute
        try:
            sys.settrace(trace)
            write()
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("swaps", [True, False], ids=["exchange", "two renames"])
def test_a_kill_at_any_line_loses_neither_the_old_nor_the_new_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swaps: bool
) -> None:
    if not swaps:
        monkeypatch.setattr(atomic, "exchange", lambda *_: False)
    old = {"meta.json": "old", "images/0.png": "old", "images/1.png": "old"}
    new = {"meta.json": "new", "splat.ply": "new"}

    def write(path: Path) -> None:
        with atomic_directory(path, no_export) as temporary:
            write_export(temporary, "new", tuple(new))

    line, seen = 0, []
    killed = True
    while killed:
        folder = tmp_path / str(line)
        write_export(folder / "room", "old", tuple(old))
        (folder / ".room.notes.tmp").write_text("a user's")
        killed = child_killed_at_line(lambda folder=folder: write(folder / "room"), line)  # type: ignore[misc]
        if swaps:
            assert content(folder / "room") in (old, new), line
        sweep_leftovers(folder)
        assert names_in(folder) == [".room.notes.tmp", "room"], line
        assert content(folder / "room") in (old, new), line
        seen.append(content(folder / "room"))
        line += 1
    assert seen[0] == old
    assert seen[-1] == new
    assert seen == sorted(seen, key=lambda found: found == new)  # old up to some line, new from there on
    assert len(seen) > 50


def test_a_kill_at_any_line_leaves_a_whole_file_and_nothing_else(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        with atomic_file(path) as temporary:
            temporary.write_text("new")

    line, seen = 0, set()
    killed = True
    while killed:
        path = tmp_path / str(line) / "map.bin"
        path.parent.mkdir()
        path.write_text("old")
        killed = child_killed_at_line(lambda path=path: write(path), line)  # type: ignore[misc]
        seen.add(path.read_text())
        sweep_leftovers(path.parent)
        assert names_in(path.parent) == ["map.bin"], line
        line += 1
    assert seen == {"old", "new"}


@pytest.mark.parametrize("write", [atomic_file, atomic_directory])
def test_a_folder_that_cannot_be_made_is_an_error_before_any_work(tmp_path: Path, write: Callable) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"), write(tmp_path / "file" / "below"):
        pytest.fail("the work was started")
