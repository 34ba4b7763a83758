"""Folders on object storage: what is there, what is not, and every way in which a store can fail."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fit3d_ns.common.errors import InputError
from fit3d_ns.remote.folder import PATIENCE_VARIABLE, RemoteFolder, is_url, upload_whole
from tests.object_storage import (
    NEEDED,
    Answer,
    credentials,
    folder_server,
    upload,
    web_server,
)

pytest.importorskip("obstore", reason=NEEDED)


@pytest.fixture
def bucket(bucket: str) -> str:
    """A folder in it."""
    return f"{bucket}/runs"


@pytest.mark.parametrize(
    ("place", "expected"),
    [("s3://bucket/runs", True), ("https://host/x", True), ("runs", False), ("/a/s3:/b", False), ("C://x", False)],
)
def test_what_is_an_address(place: str, expected: bool) -> None:
    assert is_url(place) == expected


def test_what_is_written_is_read_whole_and_in_parts(bucket: str, tmp_path: Path) -> None:
    folder = RemoteFolder(bucket)
    folder.require_writable()
    assert folder.folders() == []
    content = bytes(range(256)) * 5_000
    folder.write("room/big.bin", content)
    folder.write("hall/small.txt", b"small")
    assert folder.folders() == ["hall", "room"]
    assert folder.read("hall/small.txt") == b"small"
    assert folder.read_range("room/big.bin", 1_000, 20) == content[1_000:1_020]
    found = folder.find("room/big.bin")
    assert found is not None
    assert found.size == len(content)
    folder.download(found, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    assert folder.find("room/none") is None


def test_a_version_is_of_the_content(bucket: str) -> None:
    folder = RemoteFolder(bucket)
    versions = []
    for content in (b"one", b"two", b"one"):
        folder.write("file", content)
        found = folder.find("file")
        assert found is not None
        versions.append(found.version.split()[0])
    assert versions[0] == versions[2] != versions[1]


def test_an_object_that_vanished_is_said(bucket: str, tmp_path: Path) -> None:
    folder = RemoteFolder(bucket)
    folder.write("file", b"here")
    found = folder.find("file")
    assert found is not None
    folder.remove("file")
    folder.remove("file")  # what is gone is gone
    with pytest.raises(InputError, match=r"runs/file is not there: check the address"):
        folder.download(found, tmp_path / "copy")
    with pytest.raises(InputError, match="is not there"):
        folder.read("file")


def test_a_range_beyond_the_end_is_no_short_answer(bucket: str) -> None:
    folder = RemoteFolder(bucket)
    folder.write("file", b"0123456789")
    with pytest.raises(InputError, match=r"ends after 10 bytes|cannot be reached"):
        folder.read_range("file", 5, 100)


def test_what_belongs_together_is_whole_or_not_there(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RemoteFolder(bucket)
    old = {"room/a": b"old a", "room/b": b"old b", "room/scene.json": b"old"}
    upload_whole(folder, old, "room/scene.json")
    assert [folder.read(path) for path in old] == list(old.values())

    def interrupted(self: RemoteFolder, path: str, content: bytes) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            upload_whole(folder, {**old, "room/a": b"new a"}, "room/scene.json")
    assert folder.find("room/scene.json") is None, "no reader takes a mixture for an export"
    upload_whole(folder, {**old, "room/a": b"new a"}, "room/scene.json")
    assert folder.read("room/a") == b"new a"


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidAccessKeyId", "AccessDenied"])
def test_expired_credentials_are_said(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body = f"<Error><Code>{code}</Code><Message>The provided token has expired.</Message></Error>".encode()
    status = {"ExpiredToken": 400}.get(code, 403)
    with web_server(lambda *_: (status, {"Content-Type": "application/xml"}, body)) as address:
        for name, value in credentials(address).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(
            InputError, match=r"may not be read or written with these credentials, or they have expired"
        ):
            RemoteFolder("s3://bucket/runs").folders()


def test_a_truncated_body_is_never_taken_for_a_whole_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100_000)

    def cut(path: str, answer: Answer) -> Answer:
        status, headers, body = answer
        return status, headers, body[: len(body) // 2]

    with web_server(folder_server(tmp_path, cut)) as address:
        folder = RemoteFolder(address)
        found = folder.find("file")
        assert found is not None
        with pytest.raises(InputError, match=r"file (cannot be reached|came with)"):
            folder.download(found, tmp_path / "copy")


def test_a_replaced_file_is_not_taken_for_the_one_that_was_found(bucket: str, tmp_path: Path) -> None:
    folder = RemoteFolder(bucket)
    folder.write("file", b"first")
    found = folder.find("file")
    assert found is not None
    folder.write("file", b"another one")
    with pytest.raises(InputError, match="came with 11 bytes instead of 5"):
        folder.download(found, tmp_path / "copy")


def test_a_slow_network_ends_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATIENCE_VARIABLE, "0.5")
    (tmp_path / "file").write_bytes(b"x")

    def slow(path: str, answer: Answer) -> Answer:
        time.sleep(3)
        return answer

    with web_server(folder_server(tmp_path, slow)) as address:
        start = time.monotonic()
        with pytest.raises(InputError, match=rf"cannot be reached .*{PATIENCE_VARIABLE} gives more than 0.5 seconds"):
            RemoteFolder(address).read("file")
        assert time.monotonic() - start < 30


def test_a_wrong_number_of_seconds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("soon", "-1", "nan"):
        monkeypatch.setenv(PATIENCE_VARIABLE, value)
        with pytest.raises(InputError, match=f"{PATIENCE_VARIABLE}={value} is no positive number"):
            RemoteFolder("https://127.0.0.1/x")


def test_a_web_server_is_listed_by_the_summary_of_its_scenes(tmp_path: Path) -> None:
    summary = '{"scenes": [{"scene": "room", "state": "done"}, {"scene": "bad", "state": "failed"}]}'
    (tmp_path / "scenes.json").write_text(summary)
    with web_server(folder_server(tmp_path)) as address:
        assert RemoteFolder(address).folders() == ["room"]
        with pytest.raises(InputError, match="is a web server, which is only read from"):
            RemoteFolder(address).require_writable()
        (tmp_path / "scenes.json").write_text("[]")
        with pytest.raises(InputError, match="is no summary of fit3d-scenes"):
            RemoteFolder(address).folders()


def test_upload_helper_keeps_paths(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c.txt").write_text("c")
    upload(tmp_path, bucket)
    assert RemoteFolder(bucket).read("a/b/c.txt") == b"c"
