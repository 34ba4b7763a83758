"""The page in a real browser: a photo is uploaded, clicked on, and what is seen is what was computed."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from fit3d_finetune.page.features import Backbones, PhotoFeatures, see
from fit3d_finetune.page.layout import CSS, Page, PageOptions
from fit3d_finetune.page.photos import find_examples, read_photo
from fit3d_finetune.page.pictures import cluster_pictures, colour_pictures, enlarge, mark, similarity_pictures
from fit3d_finetune.page.server import served
from tests.fit3d_finetune.page.folders import write_photo

pytest.importorskip("gradio", reason="needs gradio")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: no `chromium` on the PATH")

SIZE, GRID = (192, 320), (12, 20)
"""Of the uploaded photo: height and width, and its patches."""


class Browser:
    """The page as a user sees it, and every address that it asked for."""

    def __init__(self, page: playwright.Page) -> None:
        self.page = page
        self.asked: list[str] = []
        self.faults: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("websocket", lambda socket: self.asked.append(socket.url))
        page.on("pageerror", lambda error: self.faults.append(str(error)))

    def upload(self, path: Path) -> None:
        self.page.locator("#upload input[type=file]").set_input_files(path)

    def status(self, part: str) -> str:
        """The line below the upload, once it holds a part."""
        line = self.page.locator("#status")
        playwright.expect(line).to_contain_text(part, timeout=60_000)
        return line.inner_text()

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()

    def picture(self, name: str) -> np.ndarray:
        """A picture's own pixels [H, W, 3], as the browser got them."""
        image = self.page.locator(f"#{name} img")
        address = image.get_attribute("src")
        assert address is not None
        answer = self.page.context.request.get(address)
        return np.asarray(Image.open(io.BytesIO(answer.body())).convert("RGB"))

    def wait(self, name: str, expected: np.ndarray) -> None:
        """Wait until a picture is what is expected, to the pixel."""
        self._until(lambda: self.page.locator(f"#{name} img").count() == 1, f"{name} does not appear")
        self._until(lambda: np.array_equal(self.picture(name), expected), f"{name} is not as expected")

    def _until(self, happened: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + 60
        while not happened():
            assert time.monotonic() < deadline, otherwise
            self.page.wait_for_timeout(100)

    def click(self, name: str, x: float, y: float) -> None:
        """Click on a pixel of a picture, which lies undistorted in the middle of its frame."""
        image = self.page.locator(f"#{name} img")
        image.scroll_into_view_if_needed()
        box = image.bounding_box()
        assert box is not None
        height, width = self.picture(name).shape[:2]
        scale = min(box["width"] / width, box["height"] / height)
        left = box["x"] + (box["width"] - scale * width) / 2
        top = box["y"] + (box["height"] - scale * height) / 2
        self.page.mouse.click(left + scale * (x + 0.5), top + scale * (y + 0.5))

    def seen(self, name: str) -> np.ndarray:
        """A screenshot of a picture [H, W, 3]."""
        return np.asarray(Image.open(io.BytesIO(self.page.locator(f"#{name} img").screenshot())).convert("RGB"))


@pytest.fixture(scope="module")
def address(backbones: Backbones, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("photos")
    write_photo(folder / "first.png", 160, 96, seed=1)
    write_photo(folder / "second.png", 96, 160, seed=2)
    options = PageOptions("finetuned", 320, find_examples(folder))
    with served(lambda gradio: Page(gradio, backbones, options).blocks, "127.0.0.1", 0, CSS) as address:
        yield address


@pytest.fixture(scope="module")
def browser(address: str) -> Iterator[Browser]:
    flags = ["--headless=new", "--no-sandbox", "--no-first-run", "--disable-background-networking"]
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        context = chromium.new_context(viewport={"width": 1280, "height": 1000})
        context.set_default_timeout(60_000)
        browser = Browser(context.new_page())
        browser.page.goto(address)
        browser.page.locator("#upload input[type=file]").wait_for(state="attached")
        yield browser
        chromium.close()


@pytest.fixture(scope="module")
def upload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photo(tmp_path_factory.mktemp("upload") / "photo.png", 2 * SIZE[1], 2 * SIZE[0])


@pytest.fixture(scope="module")
def features(backbones: Backbones, upload: Path) -> PhotoFeatures:
    return see(backbones, read_photo(upload, 320).image)


def check_similarity(browser: Browser, features: PhotoFeatures, row: int, column: int) -> None:
    expected = similarity_pictures(features, row, column)
    for name, picture in zip(("original", "fine-tuned"), expected.pictures, strict=True):
        browser.wait(f"similarity-{name}", mark(enlarge(picture, SIZE), row, column, GRID))


def test_an_upload_and_clicks_show_what_is_computed(browser: Browser, features: PhotoFeatures, upload: Path) -> None:
    browser.upload(upload)
    assert "640 × 384 pixels, shrunk to 320 × 192, 20 × 12 patches" in browser.status("photo.png")
    for name, picture in zip(("original", "fine-tuned"), colour_pictures(features), strict=True):
        browser.wait(f"colours-{name}", enlarge(picture, SIZE))
        shown = browser.seen(f"colours-{name}").reshape(-1, 3)
        # On the screen, too: its mean is the picture's, which no empty or grey frame has.
        assert np.abs(shown.mean(0) - picture.reshape(-1, 3).mean(0)).max() < 12
        assert shown.std(0).min() > 20

    # A click on the photo turns to the similarity with the patch under it.
    for x, y in ((300, 20), (5, 180)):
        browser.click("photo", x, y)
        check_similarity(browser, features, y // 16, x // 16)
    # A click on a picture, too.
    browser.click("similarity-fine-tuned", 100, 100)
    check_similarity(browser, features, 6, 6)
    assert "Cosine with the marked patch" in browser.page.locator("#scale").inner_text()

    browser.tab("Clusters")
    for count in (6, 3):
        browser.page.locator("#count input[type=number]").fill(str(count))
        browser.page.keyboard.press("Enter")
        for name, picture in zip(("original", "fine-tuned"), cluster_pictures(features, count), strict=True):
            browser.wait(f"clusters-{name}", enlarge(picture, SIZE))

    browser.tab("Depth")
    assert browser.seen("depth").std() > 5
    assert browser.seen("normals").std() > 5
    assert browser.faults == []


def test_examples_can_be_taken(browser: Browser, backbones: Backbones) -> None:
    browser.page.locator("#examples button img").nth(1).click()
    assert "96 × 160 pixels, 6 × 10 patches" in browser.status("second.png")


def test_a_broken_upload_is_a_sentence_on_the_page(browser: Browser, upload: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no photo")
    browser.upload(tmp_path / "broken.png")
    said = browser.status("broken.png")
    assert "no photo that can be read here: give a JPEG" in said
    assert "Traceback" not in browser.page.content()
    assert browser.page.locator("#photo img").count() == 0
    browser.upload(upload)
    browser.status("20 × 12 patches")
    assert browser.faults == []


def test_the_browser_asks_nobody_else(browser: Browser, address: str) -> None:
    """Of all that the tests above did, and of loading the page once more with empty caches."""
    browser.page.reload()
    browser.page.locator("#upload input[type=file]").wait_for(state="attached")
    browser.page.wait_for_timeout(1000)
    asked = [urlsplit(url) for url in browser.asked]
    assert len(asked) > 20
    assert {url.scheme for url in asked} <= {"http", "ws", "data", "blob"}
    assert {url.netloc for url in asked if url.scheme in ("http", "ws")} == {urlsplit(address).netloc}
