"""`ns-viewer` in a process of its own and its page in headless Chromium, driven as a user would."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image
from playwright.sync_api import Page, WebSocket, sync_playwright

from tests.viewer.runs import console_script

CHROMIUM_FLAGS = (
    *("--headless=new", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
MAX_RES = 512
"""nerfstudio's viewer renders this many pixels on the long side once nothing moves; less before."""


def wait_until(condition: Callable[[], Any], what: str, timeout: float = 60, poll: Callable[[float], Any] = time.sleep):
    """Poll `condition` until it returns something true, and return that.

    Args:
        what: what is waited for, for the error message (a function is called only then).
        poll: waits some seconds between two tries.
    """
    deadline = time.monotonic() + timeout
    while True:
        if result := condition():
            return result
        assert time.monotonic() < deadline, f"waited {timeout:.0f} s in vain for {what}"
        poll(0.1)


@contextmanager
def running_viewer(config: Path, log: Path) -> Iterator[str]:
    """Start `ns-viewer` on a run; yields the address of its page and ends it with all its children."""
    with log.open("w") as output:
        process = subprocess.Popen(
            [console_script("ns-viewer"), "--load-config", str(config), "--viewer.websocket-port", "7007"],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"},
        )

    def announced() -> re.Match[str] | None:
        # viser takes the next port if this one is taken, and says so only here.
        assert process.poll() is None, f"ns-viewer ended by itself:\n{log.read_text()[-4000:]}"
        return re.search(r"HTTP\W+http://[^:]+:(\d+)", log.read_text())

    try:
        match = wait_until(announced, "ns-viewer to name its port", timeout=120)
        yield f"http://localhost:{match[1]}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class ViewerPage:
    """The viewer's page: what is pressed on it, what it shows, and what travels between it and the server."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.camera: dict[str, Any] | None = None
        self._images: list[bytes] = []
        page.on("websocket", self._listen)

    def _listen(self, socket: WebSocket) -> None:
        socket.on("framereceived", lambda payload: self._received(payload))
        socket.on("framesent", lambda payload: self._sent(payload))

    def _received(self, payload: bytes | str) -> None:
        for message in msgspec.msgpack.decode(payload):
            if message["type"] == "BackgroundImageMessage":
                self._images.append(message["rgb_bytes"])

    def _sent(self, payload: bytes | str) -> None:
        message = msgspec.msgpack.decode(payload)
        if message["type"] == "ViewerCameraMessage":
            self.camera = message

    # ---- what a user does

    def press(self, name: str) -> None:
        """Press a button of the control panel."""
        self.page.get_by_role("button", name=name, exact=True).click()

    def output_types(self) -> list[str]:
        """The entries of the drop-down 'Output type'."""
        self._output_type().click()
        options = self.page.get_by_role("option")
        options.first.wait_for()
        names = options.all_inner_texts()
        self.page.keyboard.press("Escape")
        return names

    def choose_output(self, name: str) -> None:
        """Choose an entry of the drop-down 'Output type'."""
        self._output_type().click()
        self.page.get_by_role("option", name=name, exact=True).click()

    def click_scene(self, x: float, y: float) -> None:
        """Click in the scene, at fractions of its width and height."""
        box = self._canvas_box()
        self.page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])

    # ---- what a user sees

    def screenshot(self) -> np.ndarray:
        """The scene on the page [H, W, 3], uint8."""
        png = self.page.screenshot(clip=self._canvas_box())
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))

    def served(self) -> np.ndarray:
        """The last picture that the server sent [H, W, 3], uint8."""
        return _decode(self._images[-1])

    def images_served(self) -> int:
        """How many pictures the server has sent."""
        return len(self._images)

    def wait(self, seconds: float) -> None:
        """Let the page run (time.sleep would stop playwright's events)."""
        self.page.wait_for_timeout(seconds * 1000)

    def wait_until(self, condition: Callable[[], Any], what: str, timeout: float = 60) -> Any:
        return wait_until(condition, what, timeout, poll=self.wait)

    def settled(self, after: int, what: str) -> np.ndarray:
        """Wait for a picture in full resolution that was sent after the first `after` ones, and return it."""

        def picture() -> np.ndarray | None:
            if self.images_served() <= after:
                return None
            image = self.served()
            return image if max(image.shape) >= MAX_RES else None

        return self.wait_until(lambda: (image := picture()) is not None and (image,), f"the picture after {what}")[0]

    # ----

    def _output_type(self) -> Any:
        # Mantine ties no label to its input: it is the first input after the text.
        return self.page.get_by_text("Output type", exact=True).locator("xpath=following::input[1]")

    def _canvas_box(self) -> Any:
        # Two canvases lie on top of each other (2D marks over the 3D scene); the narrower has the visible size.
        boxes = [canvas.bounding_box() for canvas in self.page.locator("canvas").all()]
        return min((box for box in boxes if box is not None), key=lambda box: box["width"])


def _decode(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@contextmanager
def open_page(address: str) -> Iterator[ViewerPage]:
    """Open a viewer in a fresh headless Chromium."""
    executable = shutil.which("chromium")
    assert executable is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=executable,
            args=list(CHROMIUM_FLAGS),
            viewport={"width": 960, "height": 900},
        )
        try:
            # The title bar's logo lies on the network, where a test has no business.
            context.route("https://**", lambda route: route.abort())
            page = ViewerPage(context.pages[0])
            page.page.goto(address, wait_until="domcontentloaded")
            page.page.locator("canvas").first.wait_for()
            yield page
        finally:
            context.close()
