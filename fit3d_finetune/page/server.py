"""A Gradio page served from this machine, with nothing sent anywhere else and nothing left behind."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fit3d_ns.common.errors import InputError
from fit3d_ns.common.optional import require_package

REQUIREMENT = "gradio>=6,<7"
MAX_UPLOAD = "100mb"
SESSIONS = 32
"""Open pages whose photo's features are kept, a few MB each; the oldest goes first."""

_SETTINGS = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "GRADIO_SHARE": "False",
    "GRADIO_ALLOWED_PATHS": "",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def require_gradio() -> Any:
    """Gradio itself.

    Raises:
        InputError: it is not installed, or is of another major version.
    """
    # The hub's client, which Gradio imports, reads what it wants from here once.
    with _environment(_SETTINGS):
        gradio = require_package("gradio", "fit3d-demo needs", REQUIREMENT)
    if str(gradio.__version__).partition(".")[0] != "6":
        raise InputError(f"fit3d-demo needs gradio 6, not {gradio.__version__}: pip install '{REQUIREMENT}'.")
    return gradio


def require_place(host: str, port: int) -> int:
    """Check that a server can listen there.

    Args:
        host: name or address of this machine.
        port: 0: any that is free.

    Returns:
        the port.

    Raises:
        InputError: the port is taken or not allowed, or the host is not this machine.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"--port must lie in 0..65535, not {port}.")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            attempt.bind(address)
            return int(attempt.getsockname()[1])
    except OSError as error:
        raise InputError(
            f"--host {host} --port {port}: nothing can listen there ({(error.strerror or str(error)).lower()}): give "
            "another port, or an address of this machine."
        ) from error


def is_local(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    return host in ("localhost", "::1") or host.startswith("127.")


@contextmanager
def served(build: Callable[[Any], Any], host: str, port: int, css: str = "") -> Iterator[str]:
    """Serve a page for as long as the context lasts; uploads and pictures are then gone.

    Args:
        build: makes the page (a `gradio.Blocks`), given Gradio.
        host: of `require_place`.
        port: of `require_place`.
        css: of the page.

    Yields:
        the address to open.

    Raises:
        InputError: see `require_gradio` and `require_place`.
    """
    gradio = require_gradio()
    port = require_place(host, port)
    # Gradio asks the page itself whether it is up: no proxy may come between.
    near = ",".join(filter(None, [os.environ.get("no_proxy", os.environ.get("NO_PROXY")), "localhost,127.0.0.1", host]))
    with tempfile.TemporaryDirectory(prefix="fit3d-demo-", ignore_cleanup_errors=True) as folder:
        settings = {**_SETTINGS, "GRADIO_TEMP_DIR": folder, "no_proxy": near, "NO_PROXY": near}
        with _environment(settings):
            page = build(gradio)
            try:
                page.launch(
                    server_name=f"[{host}]" if ":" in host else host,
                    server_port=port,
                    share=False,
                    quiet=True,
                    prevent_thread_lock=True,
                    inline=False,
                    show_error=True,
                    footer_links=[],
                    max_file_size=MAX_UPLOAD,
                    enable_monitoring=False,
                    ssr_mode=False,
                    pwa=False,
                    mcp_server=False,
                    state_session_capacity=SESSIONS,
                    theme=_theme(gradio),
                    css=css,
                )
                yield str(page.local_url)
            finally:
                page.close(verbose=False)


def _theme(gradio: Any) -> Any:
    """The default theme in the browser's own fonts: named ones might be fetched."""
    return gradio.themes.Default(font=["sans-serif"], font_mono=["monospace"])


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
