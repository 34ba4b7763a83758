"""A store on this machine: moto's S3 in a process of its own, and a web server that answers as it is told."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

REGION = "us-east-1"
NEEDED = "needs the packages obstore and moto[server] (extra: s3)"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def s3_server() -> Iterator[str]:
    """Yields the address of an empty S3."""
    pytest.importorskip("moto", reason=NEEDED)
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < end, "moto's server did not start"
                time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait()


def credentials(address: str) -> dict[str, str]:
    """Environment variables of a client of the server."""
    return {
        "AWS_ENDPOINT": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": REGION,
        "AWS_ALLOW_HTTP": "true",
    }


def make_bucket(address: str, name: str) -> None:
    request = urllib.request.Request(f"{address}/{name}", method="PUT")
    urllib.request.urlopen(request, timeout=30).close()


def upload(folder: Path, url: str) -> None:
    """All files below a folder, by our own client, whose environment must be set."""
    from fit3d_ns.remote.folder import RemoteFolder

    store = RemoteFolder(url)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            store.write(path.relative_to(folder).as_posix(), path)


Answer = tuple[int, Mapping[str, str], bytes]


@contextmanager
def web_server(answer: Callable[[str, str, Mapping[str, str]], Answer | None]) -> Iterator[str]:
    """Yields the address of a server that answers (method, path, headers); None: it hangs up in the middle."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self) -> None:
            found = answer(self.command, self.path, dict(self.headers))
            if found is None:
                self.connection.close()
                return
            status, headers, body = found
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
                if len(body) < int(headers.get("Content-Length", len(body))):
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)

        do_GET = do_HEAD = do_PUT = _do  # noqa: N815 (http.server's names)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Clients that hang up are part of the tests."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def folder_server(root: Path, change: Callable[[str, Answer], Answer | None] = lambda path, answer: answer) -> (
    Callable[[str, str, Mapping[str, str]], Answer | None]
):  # fmt: skip
    """Answers with the files of a folder, whole or a range of them, as `change` changes it."""

    def answer(method: str, path: str, headers: Mapping[str, str]) -> Answer | None:
        file = root / path.lstrip("/")
        if not file.is_file():
            return 404, {}, b""
        body, status, extra = file.read_bytes(), 200, {"ETag": f'"{os.stat(file).st_mtime_ns}"'}
        wanted = headers.get("Range") or headers.get("range")
        if wanted:
            first, last = wanted.removeprefix("bytes=").split("-")
            start, stop = int(first), min(int(last) + 1, len(body)) if last else len(body)
            extra["Content-Range"] = f"bytes {start}-{stop - 1}/{len(body)}"
            body, status = body[start:stop], 206
        extra["Last-Modified"] = "Sat, 28 Nov 2026 00:00:00 GMT"
        return change(path, (status, {**extra, "Content-Length": str(len(body))}, body))

    return answer
