"""The bounded cache of remote files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fit3d_ns.common.errors import InputError
from fit3d_ns.remote.cache import RemoteCache


def writer(size: int, made: list[str] | None = None, name: str = "file") -> object:
    def make(folder: Path) -> None:
        (folder / name).write_bytes(b"x" * size)
        if made is not None:
            made.append(name)

    return make


def test_an_entry_is_made_once(tmp_path: Path) -> None:
    cache, made = RemoteCache(tmp_path / "cache", 1_000), list[str]()
    for _ in range(3):
        folder = cache.entry("one", 10, writer(10, made))  # type: ignore[arg-type]
        assert (folder / "file").read_bytes() == b"x" * 10
    assert made == ["file"]


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    cache = RemoteCache(tmp_path / "cache", 100)
    folders = {}
    for age, name in enumerate(("old", "middle", "new")):
        folders[name] = cache.entry(name, 30, writer(30))  # type: ignore[arg-type]
        os.utime(folders[name], (age, age))
    cache.entry("old", 30, writer(30))  # type: ignore[arg-type]
    cache.entry("another", 30, writer(30))  # type: ignore[arg-type]
    assert {name: folder.is_dir() for name, folder in folders.items()} == {"old": True, "middle": False, "new": True}
    cache.entry("huge", 500, writer(500))  # type: ignore[arg-type]
    assert len([path for path in (tmp_path / "cache").iterdir() if not path.name.startswith(".")]) == 1


def test_what_failed_half_way_is_not_there(tmp_path: Path) -> None:
    cache = RemoteCache(tmp_path / "cache", 1_000)

    def fail(folder: Path) -> None:
        (folder / "file").write_bytes(b"half")
        raise InputError("the network is gone")

    with pytest.raises(InputError, match="the network is gone"):
        cache.entry("one", 10, fail)
    folder = cache.entry("one", 10, writer(10))  # type: ignore[arg-type]
    assert (folder / "file").stat().st_size == 10


def test_a_folder_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be used .*: set FIT3D_CACHE_DIR"):
        RemoteCache(tmp_path / "file" / "cache", 10)
