"""A place that cannot be written is refused at once, with nothing left behind; a user's files are never taken."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from fit3d_ns.common import output_place as module
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.output_place import mark_own_folder, require_own_files, require_writable


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("place", [".", "runs", "runs/deep/er"])
def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path: Path, place: str) -> None:
    require_writable(tmp_path / place)
    assert everything(tmp_path) == []


def a_file(folder: Path) -> Path:
    (folder / "file").write_text("a user's")
    return folder / "file"


def below_a_file(folder: Path) -> Path:
    return a_file(folder) / "runs"


def a_dangling_link(folder: Path) -> Path:
    (folder / "link").symlink_to("nowhere")
    return folder / "link"


def a_name_too_long(folder: Path) -> Path:
    return folder / "runs" / ("x" * 256)


def a_path_too_long(folder: Path) -> Path:
    return folder / "/".join(["x" * 200] * 30)


def a_null_byte(folder: Path) -> Path:
    return folder / "a\0b"


PLACES = {
    "a file": (a_file, "is a file, not a folder"),
    "below a file": (below_a_file, "file is a file, not a folder"),
    "a dangling link": (a_dangling_link, "dangling link"),
    "a name too long": (a_name_too_long, "name too long"),
    "a path too long": (a_path_too_long, "name too long"),
    "a null byte": (a_null_byte, "null"),
    "/proc": (lambda _: Path("/proc"), "no files can be made"),
    "below /proc": (lambda _: Path("/proc/fit3d/runs"), "no files can be made"),
    "below the own process": (lambda _: Path("/proc/self/runs"), "no files can be made"),
    "/dev/null": (lambda _: Path("/dev/null"), "is a file"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_place_that_cannot_be_written_is_one_sentence_and_leaves_nothing(tmp_path: Path, place: str) -> None:
    make, reason = PLACES[place]
    path = make(tmp_path)
    before = everything(tmp_path)
    with pytest.raises(InputError, match=f"--output-dir .*{reason}.*give another place") as refused:
        require_writable(path)
    assert "\n" not in str(refused.value)
    assert everything(tmp_path) == before


def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from fit3d_ns.common.errors import InputError\n"
        "from fit3d_ns.common.output_place import require_writable\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "try: require_writable(Path(sys.argv[1]) / 'locked')\n"
        "except InputError as error: print(error)\n"
    )
    for folder in (tmp_path, *tmp_path.parents):  # pytest's folders are private
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
        if folder.name.startswith("pytest-of"):
            break
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
    assert "Permission denied" in done.stdout, done.stderr
    assert everything(tmp_path) == ["locked"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_a_disk_that_takes_no_more_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(InputError, match=os.strerror(number)):
        require_writable(tmp_path / "runs")
    assert everything(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_the_error_of_a_device_that_is_really_full_is_understood(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught, open("/dev/full", "wb", buffering=0) as file:
        file.write(b"0")
    assert "No space left" in module._explained(caught.value, tmp_path)


def test_too_little_room_for_what_is_to_come_is_refused(tmp_path: Path) -> None:
    require_writable(tmp_path, needed_bytes=1)
    with pytest.raises(InputError, match="MB are free"):
        require_writable(tmp_path / "runs", needed_bytes=10**18)
    assert everything(tmp_path) == []


def test_a_name_in_the_folder_that_is_too_long_is_refused(tmp_path: Path) -> None:
    require_writable(tmp_path, name="x" * 255)
    with pytest.raises(InputError, match="too long"):
        require_writable(tmp_path, name="x" * 256)


def test_many_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    children = []
    for _ in range(8):
        process = os.fork()
        if process == 0:
            try:
                for _ in range(25):
                    require_writable(tmp_path / "runs" / "deep")
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(process)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
    # Each leaves a folder that another one is trying at that moment; files never stay.
    assert everything(tmp_path) in ([], ["runs"], ["runs", "runs/deep"])


# ---- files of the user's

WRITES = ("README.md", "figures/arms.csv")


def never(_: Path) -> bool:
    return False


def refused(folder: Path, is_ours: Callable[[Path], bool] = never) -> str:
    with pytest.raises(InputError) as error:
        require_own_files(folder, WRITES, "fit3d-probe", is_ours)
    return str(error.value)


def test_a_folder_with_other_files_is_fine(tmp_path: Path) -> None:
    require_own_files(tmp_path / "nowhere", WRITES, "fit3d-probe", never)
    (tmp_path / "notes.txt").write_text("a user's")
    require_own_files(tmp_path, WRITES, "fit3d-probe", never)


@pytest.mark.parametrize("name", WRITES)
def test_a_users_file_that_would_be_replaced_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("a user's")
    assert str(tmp_path / name) in refused(tmp_path)
    assert str(tmp_path / name) in refused(tmp_path)
    require_own_files(tmp_path, WRITES, "fit3d-probe", lambda _: True)
    mark_own_folder(tmp_path, "fit3d-finetune")
    assert "fit3d-probe did not write it" in refused(tmp_path)
    mark_own_folder(tmp_path, "fit3d-probe")
    require_own_files(tmp_path, WRITES, "fit3d-probe", never)


def test_a_link_or_a_folder_at_a_name_is_refused_even_in_a_folder_of_ours(tmp_path: Path) -> None:
    mark_own_folder(tmp_path, "fit3d-probe")
    (tmp_path / "README.md").symlink_to("elsewhere")
    assert "README.md is no regular file" in refused(tmp_path, lambda _: True)
    (tmp_path / "README.md").unlink()
    (tmp_path / "README.md").mkdir()
    assert "README.md is no regular file" in refused(tmp_path, lambda _: True)
