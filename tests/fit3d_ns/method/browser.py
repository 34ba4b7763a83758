"""`ns-viewer` in a process of its own and its page in headless Chromium, driven as a user would."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image
from playwright.sync_api import Locator, Page, WebSocket, sync_playwright

from tests.console_scripts import console_script, end_group

CHROMIUM = shutil.which("chromium")
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@contextmanager
def running_viewer(config: Path, log: Path) -> Iterator[str]:
    """Start `ns-viewer` on a run; yields the address of its page and in the end kills it with all its children."""
    with log.open("w") as output:
        process = subprocess.Popen(
            [console_script("ns-viewer"), "--load-config", str(config), "--viewer.websocket-port", "7007"],
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"},
        )
    try:
        deadline = time.monotonic() + 180
        # viser takes the next free port if this one is taken, and says so only in its own banner.
        while (banner := re.search(r"HTTP\W+http://[^:]+:(\d+)", log.read_text())) is None:
            assert process.poll() is None, f"ns-viewer ended by itself:\n{log.read_text()[-4000:]}"
            assert time.monotonic() < deadline, f"ns-viewer does not name its port:\n{log.read_text()[-4000:]}"
            time.sleep(0.1)
        yield f"http://localhost:{banner[1]}"
    finally:
        end_group(process)


class ViewerPage:
    """The viewer's page: what can be pressed on it, and what it shows.

    Args:
        page: an empty page.
        folder: where screenshots go when something is not as it should be.
    """

    def __init__(self, page: Page, folder: Path) -> None:
        self._page = page
        self._folder = folder
        self._camera: dict[str, Any] | None = None
        page.on("websocket", self._listen)

    def open(self, address: str) -> None:
        """Load the page and wait until the server has sent its first picture."""
        self._page.goto(address, wait_until="domcontentloaded")
        self.wait_until(self.output_types, lambda names: "rgb" in names, "the list of outputs", timeout=180)

    def _listen(self, socket: WebSocket) -> None:
        def sent(payload: bytes | str) -> None:
            message = msgspec.msgpack.decode(payload)
            if message["type"] == "ViewerCameraMessage":
                self._camera = message

        socket.on("framesent", sent)

    # ---- what a user does

    def press(self, name: str) -> None:
        """Press a button of the control panel."""
        self._page.get_by_role("button", name=name, exact=True).click()

    def choose_output(self, name: str) -> None:
        """Choose an entry of the drop-down 'Output type'."""
        self.choose("Output type", name)

    def choose(self, label: str, name: str) -> None:
        """Choose an entry of a drop-down."""
        self._input(label).click()
        self._page.get_by_role("option", name=name, exact=True).click()

    def write(self, label: str, text: str) -> None:
        """Write into the field of a text or slider."""
        field = self._input(label)
        field.fill(text)
        field.press("Enter")

    def value(self, label: str) -> str:
        """What stands in the field of a text or slider."""
        return self._input(label).input_value()

    def tick(self, label: str, ticked: bool) -> None:
        """Tick a box, or take the tick away."""
        self._input(label).set_checked(ticked)

    def click_scene(self, x: float, y: float) -> None:
        """Click in the scene, at fractions of its width and height, as soon as the page hears clicks.

        A click that comes earlier turns the camera instead, and one whose button is down at that moment leaves the
        page with two pointers, of which the next one zooms.
        """
        self.wait_until(self._hears_clicks, bool, "a pointer that says that clicks are heard")
        box = self._canvas_box()
        self._page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])

    def scroll_to(self, label: str) -> None:
        """Scroll the control panel to a control."""
        self._page.get_by_text(label, exact=True).last.scroll_into_view_if_needed()

    # ---- what a user sees

    def output_types(self) -> list[str]:
        """The entries of the drop-down 'Output type'."""
        self._input("Output type").click()
        options = self._page.get_by_role("option")
        options.first.wait_for()
        names = options.all_inner_texts()
        self._page.keyboard.press("Escape")
        return names

    def shows(self, text: str) -> bool:
        """Whether a text is somewhere on the page."""
        return self._page.get_by_text(text).count() > 0

    def screenshot(self) -> np.ndarray:
        """The scene as the page shows it [H, W, 3], uint8."""
        png = self._page.screenshot(clip=self._canvas_box())
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))

    def whole(self) -> bytes:
        """The whole page as PNG."""
        return self._page.screenshot()

    @property
    def camera(self) -> dict[str, Any]:
        """The camera as the page last told it to the server: `wxyz`, `position`, `fov`, `aspect`."""
        assert self._camera is not None
        return self._camera

    def wait_until(
        self, look: Callable[[], Any], enough: Callable[[Any], bool], what: str, timeout: float = 120
    ) -> Any:
        """Look again and again until it is enough; fail with the last look and a screenshot."""
        deadline = time.monotonic() + timeout
        while not enough(seen := look()):
            assert time.monotonic() < deadline, self.evidence(f"{what} did not come in {timeout:.0f} s (saw {seen!r})")
            self._page.wait_for_timeout(100)  # time.sleep would stop playwright's events
        return seen

    def evidence(self, message: str) -> str:
        """Save a screenshot of the page and add its place to the message."""
        path = self._folder / f"page-{len(list(self._folder.glob('page-*.png')))}.png"
        self._page.screenshot(path=path)
        return f"{message}; the page looked like {path}"

    # ----

    def _input(self, label: str) -> Locator:
        # Mantine ties no label to its input: it is the first input that can be seen after the text.
        text = self._page.get_by_text(label, exact=True).last
        return text.locator("xpath=following::input[not(@type='hidden')][1]")

    def _hears_clicks(self) -> bool:
        return any(
            canvas.evaluate("canvas => getComputedStyle(canvas).cursor") == "pointer"
            for canvas in self._page.locator("canvas").all()
        )

    def _canvas_box(self) -> Any:
        # Two canvases lie on top of each other. The one for 2D marks also reaches below the panel.
        boxes = [canvas.bounding_box() for canvas in self._page.locator("canvas").all()]
        return min((box for box in boxes if box is not None), key=lambda box: box["width"])


@contextmanager
def open_page(address: str, folder: Path) -> Iterator[ViewerPage]:
    """Open a viewer in a fresh headless Chromium.

    Args:
        folder: where screenshots go when something is not as it should be.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, args=list(_FLAGS), viewport={"width": 960, "height": 900}
        )
        try:
            # The title bar's logo lies on the network, where a test has no business.
            context.route("https://**", lambda route: route.abort())
            # The server's first answer waits for all that ns-viewer loads and compiles, and a click for the page to
            # draw the scene without a GPU; a busy machine took over 30 s for either.
            context.set_default_timeout(180_000)
            page = ViewerPage(context.pages[0], folder)
            page.open(address)
            yield page
        finally:
            context.close()
