"""The page's server: where it listens, what it needs, whom it talks to, and what it leaves behind."""

from __future__ import annotations

import os
import socket
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fit3d_finetune.page.features import Backbones
from fit3d_finetune.page.layout import Page, PageOptions
from fit3d_finetune.page.server import is_local, require_gradio, require_place, served
from fit3d_ns.common.errors import InputError


def test_without_gradio_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(InputError, match=r"^fit3d-demo needs the package gradio: pip install 'gradio>=6,<7'\.$"):
        require_gradio()


def test_another_gradio_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", SimpleNamespace(__version__="5.49.1"))
    with pytest.raises(InputError, match=r"needs gradio 6, not 5\.49\.1"):
        require_gradio()


def test_a_port_that_is_taken_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"--port {port}: nothing can listen there \(address already in use\)"):
            require_place("127.0.0.1", port)
    assert require_place("127.0.0.1", port) == port


def test_port_0_is_any_that_is_free() -> None:
    assert require_place("127.0.0.1", 0) > 1023


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 7860), ("no such host", 7860), ("127.0.0.1", 70000)])
def test_places_where_nothing_can_listen_are_refused(host: str, port: int) -> None:
    with pytest.raises(InputError, match="--port"):
        require_place(host, port)


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("10.0.0.3", False)],
)
def test_hosts_that_the_network_reaches_are_told_apart(host: str, local: bool) -> None:
    assert is_local(host) == local


class Connections:
    """Every address that this process looks up or connects to."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.hosts: set[str] = set()
        connect, look_up = socket.socket.connect, socket.getaddrinfo

        def record(host: Any) -> None:
            self.hosts.add(host.decode() if isinstance(host, bytes) else str(host))

        def connecting(this: socket.socket, address: Any) -> None:
            if this.family in (socket.AF_INET, socket.AF_INET6):
                record(address[0])
            connect(this, address)

        def looking_up(host: Any, *arguments: Any, **options: Any) -> Any:
            record(host)
            return look_up(host, *arguments, **options)

        patch.setattr(socket.socket, "connect", connecting)
        patch.setattr(socket, "getaddrinfo", looking_up)


def test_the_page_is_served_here_alone_and_leaves_nothing(
    backbones: Backbones, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("gradio", reason="needs gradio")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    # None of these may lead a page out into the world.
    monkeypatch.setenv("GRADIO_SHARE", "True")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "True")
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    monkeypatch.setenv("http_proxy", "http://192.0.2.1:3128")
    before, connections = dict(os.environ), Connections(monkeypatch)
    options = PageOptions("finetuned", 224)
    with served(lambda gradio: Page(gradio, backbones, options).blocks, "127.0.0.1", 0) as address:
        assert address.startswith("http://127.0.0.1:")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        assert opener.open(address, timeout=60).status == 200
        assert [path.name[:11] for path in tmp_path.iterdir()] == ["fit3d-demo-"]
        port = int(address.rstrip("/").rpartition(":")[2])
        with socket.socket() as other, pytest.raises(ConnectionRefusedError):
            other.connect(("127.0.0.2", port))  # not on every address, as GRADIO_SERVER_NAME would have it
    assert connections.hosts <= {"127.0.0.1", "127.0.0.2", "localhost"}
    assert list(tmp_path.iterdir()) == []
    after = dict(os.environ)
    assert {name: after.get(name) for name in before} == before
