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

import pytest

from fit3d_ns.common.atomic import atomic_directory, atomic_file


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


def write_half_an_export(path: Path, error: BaseException) -> None:
    with atomic_directory(path) as temporary:
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
    with atomic_directory(path) as temporary:
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


def test_a_kill_in_the_middle_leaves_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "room"
    write_export(path, "old")
    script = """
        import sys, time
        from pathlib import Path
        from fit3d_ns.common.atomic import atomic_directory

        with atomic_directory(Path(sys.argv[1]) / "room") as temporary:
            (temporary / "meta.json").write_text("ne")
            print("half", flush=True)
            time.sleep(60)
    """
    killed_while(script, tmp_path)
    assert content(path) == {"meta.json": "old", "images/0.png": "old"}
    with atomic_directory(path) as temporary:
        write_export(temporary, "new")
    assert content(path) == {"meta.json": "new", "images/0.png": "new"}


@pytest.mark.parametrize("write", [atomic_file, atomic_directory])
def test_a_folder_that_cannot_be_made_is_an_error_before_any_work(tmp_path: Path, write: Callable) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"), write(tmp_path / "file" / "below"):
        pytest.fail("the work was started")
