"""Files of object storage on this machine's disk: of bounded size, the least recently used go first."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fit3d_ns.common.atomic import atomic_directory
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.output_place import prepare_cache_folder


class RemoteCache:
    """Entries are folders of files, each made once and then only read; may be used from several threads.

    Args:
        folder: made if it is not there; may be shared by processes.
        limit_bytes: of all entries; one that is larger by itself is kept alone.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self._lock = threading.Lock()
        prepare_cache_folder(folder)

    def entry(self, identity: str, size: int, make: Callable[[Path], None]) -> Path:
        """The folder of an entry; made by `make` in an empty folder, if it is not there.

        Args:
            identity: of the content: address and version.
            size: bytes that it will take.
        """
        path = self.folder / hashlib.sha256(identity.encode()).hexdigest()
        with self._lock:
            if not path.is_dir():
                self._make_room(size)
                try:
                    with atomic_directory(path) as temporary:
                        make(temporary)
                except InputError:
                    if not path.is_dir():  # another process was faster
                        raise
            with suppress(OSError):
                os.utime(path)
        return path

    def _make_room(self, size: int) -> None:
        entries = []
        for path in self.folder.iterdir():
            if not path.name.startswith("."):
                with suppress(OSError):
                    entries.append((path.stat().st_mtime, path, _size(path)))
        entries.sort(reverse=True)
        used = sum(entry[2] for entry in entries)
        while entries and used + size > self.limit_bytes:
            _, oldest, freed = entries.pop()
            shutil.rmtree(oldest, ignore_errors=True)
            used -= freed


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
