"""A folder on object storage or a web server, through obstore; every failure is one sentence."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from fit3d_ns.common.errors import InputError
from fit3d_ns.common.json_input import parse_json
from fit3d_ns.common.optional import require_package

SCHEMES = ("s3", "gs", "az", "http", "https")
PATIENCE = 60.0
"""Seconds for one answer, which the environment variable `PATIENCE_VARIABLE` overrules."""
PATIENCE_VARIABLE = "FIT3D_REMOTE_TIMEOUT"
TRIES = 3
INDEX_FILE = "scenes.json"
"""Of fit3d-scenes: what a web server, which lists no folders, is asked for."""
_DENIED = ("ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "AccessDenied")


def is_url(place: str) -> bool:
    """Whether a place is on object storage or a web server; else it is a path."""
    return place.partition("://")[0] in SCHEMES and "://" in place


@dataclass(frozen=True)
class RemoteFile:
    """A file as the store knows it."""

    path: str
    """Below the folder."""
    size: int
    """Bytes."""
    version: str
    """The store's tag of its content, or when it was changed."""


class RemoteFolder:
    """s3://BUCKET/PATH, gs://…, az://CONTAINER/PATH or http(s)://HOST/PATH.

    Credentials and the like come from the environment, by each cloud's own names (AWS_ACCESS_KEY_ID, AWS_ENDPOINT, …).
    """

    def __init__(self, url: str) -> None:
        """Raises: InputError: no obstore, or no such kind of address."""
        self.url = url.rstrip("/")
        self._scheme = self.url.partition("://")[0]
        self._obstore = require_package("obstore", "places on object storage need", "obstore>=0.8")
        self._faults = importlib.import_module("obstore.exceptions")
        stores = importlib.import_module("obstore.store")
        with self._said(""):
            self._store = stores.from_url(
                self.url,
                client_options={"timeout": timedelta(seconds=_patience()), "allow_http": True},
                retry_config={"max_retries": TRIES - 1, "retry_timeout": timedelta(seconds=TRIES * _patience())},
            )

    def __str__(self) -> str:
        return self.url

    def below(self, path: str) -> str:
        """The address of what lies in the folder."""
        return f"{self.url}/{path}" if path else self.url

    def folders(self) -> list[str]:
        """Names of the folders directly in it, sorted.

        Raises:
            InputError: it cannot be listed; of a web server, it has no scenes.json.
        """
        if self._scheme in ("http", "https"):
            return self._indexed()
        with self._said(""):
            found = self._obstore.list_with_delimiter(self._store)["common_prefixes"]
        return sorted(prefix.rstrip("/").rpartition("/")[2] for prefix in found)

    def _indexed(self) -> list[str]:
        try:
            index = parse_json(self.read(INDEX_FILE))
            return sorted(str(scene["scene"]) for scene in index["scenes"] if scene["state"] == "done")
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{self.below(INDEX_FILE)} is no summary of fit3d-scenes: upload its scenes.json."
            ) from error

    def find(self, path: str) -> RemoteFile | None:
        """What the store knows of a file; None if it is not there."""
        try:
            with self._said(path):
                meta = self._obstore.head(self._store, path)
        except _Missing:
            return None
        version = meta.get("e_tag") or str(meta["last_modified"])
        return RemoteFile(path, int(meta["size"]), f"{version} {meta.get('version') or ''}".strip())

    def read(self, path: str) -> bytes:
        """All of a file."""
        with self._said(path):
            return bytes(self._obstore.get(self._store, path).bytes())

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """A part of a file, or less where it ends before."""
        with self._said(path):
            found = bytes(self._obstore.get_range(self._store, path, start=start, length=length))
        if len(found) != length:
            raise InputError(f"{self.below(path)} ends after {start + len(found)} bytes: upload it again.")
        return found

    def download(self, file: RemoteFile, target: Path) -> None:
        """All of a file to a path, piece by piece.

        Raises:
            InputError: it is gone, or came shorter or in another version than the store said.
        """
        size = 0
        with self._said(file.path), open(target, "wb") as out:
            for piece in self._obstore.get(self._store, file.path).stream(min_chunk_size=1 << 20):
                out.write(piece)
                size += len(piece)
        if size != file.size:
            raise InputError(
                f"{self.below(file.path)} came with {size} bytes instead of {file.size}: it was replaced meanwhile, or "
                "the transfer broke off; start again."
            )

    def require_writable(self) -> None:
        """Raises: InputError: nothing can be written here; asked before long work."""
        if self._scheme in ("http", "https"):
            raise InputError(f"{self.url} is a web server, which is only read from: give s3://, gs:// or az://.")
        self.write(".fit3d-write-test", b"fit3d")
        self.remove(".fit3d-write-test")

    def write(self, path: str, content: bytes | Path) -> None:
        """A file, in the place of one of the same name."""
        with self._said(path):
            self._obstore.put(self._store, path, content)

    def remove(self, path: str) -> None:
        """A file, if it is there."""
        try:
            with self._said(path):
                self._obstore.delete(self._store, path)
        except _Missing:
            pass

    @contextmanager
    def _said(self, path: str) -> Iterator[None]:
        """Turns what the store raises into a sentence."""
        faults, where = self._faults, self.below(path)
        try:
            yield
        except FileNotFoundError as error:
            raise _Missing(f"{where} is not there: check the address, and whether the upload has ended.") from error
        except (faults.UnauthenticatedError, faults.PermissionDeniedError) as error:
            raise InputError(_denied(where)) from error
        except (faults.BaseError, OSError, ValueError) as error:
            words = str(error)
            if any(code in words for code in _DENIED):
                raise InputError(_denied(where)) from error
            raise InputError(
                f"{where} cannot be reached ({_first_line(words)}): check the address and the network; "
                f"{PATIENCE_VARIABLE} gives more than {_patience():g} seconds."
            ) from error


class _Missing(InputError):  # noqa: N818 (what happened, for `find`)
    """A file is not there."""


def _denied(where: str) -> str:
    return f"{where} may not be read or written with these credentials, or they have expired: renew them."


def _first_line(words: str) -> str:
    line = " ".join(words.split())
    return line if len(line) <= 200 else f"{line[:200]} …"


def _patience() -> float:
    given = os.environ.get(PATIENCE_VARIABLE)
    try:
        seconds = PATIENCE if given is None else float(given)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise InputError(f"{PATIENCE_VARIABLE}={given} is no positive number of seconds: correct or unset it.")
    return seconds


def upload_whole(folder: RemoteFolder, files: Mapping[str, bytes | Path], last: str) -> None:
    """Upload files that belong together, whole or not at all for whoever takes `last` for the sign of a whole.

    That one is removed first and written at the end, so at every moment a reader finds the old files, none, or the new.
    """
    folder.remove(last)
    for path in [*(path for path in files if path != last), last]:
        folder.write(path, files[path])
