"""The report in a real browser: it shows something at both widths, and its heat maps follow the mouse."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from fit3d_finetune.report.page import write_report
from fit3d_finetune.report.pictures import colour_scale, cosine_to_patch
from tests.fit3d_finetune.report.samples import make_example, make_results

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: no `chromium` on the PATH")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(make_results(), [make_example(), make_example("second.jpg", seed=1)], path)
    return path.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    flags = ["--headless=new", "--no-sandbox", "--no-first-run", "--disable-background-networking"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


def open_report(browser: playwright.Browser, report: str, width: int = 1280, scheme: str = "light") -> playwright.Page:
    """The page, failing on any error of its script and any request but the one for the file."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("request", lambda request: complaints.append(request.url) if request.url.startswith("http") else None)
    page.goto(report)
    assert complaints == []
    return page


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_fits_its_window_and_is_not_blank(browser: playwright.Browser, report: str, width: int) -> None:
    page = open_report(browser, report, width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for section in page.locator("section").all():
        section.scroll_into_view_if_needed()
        assert pixels(section.screenshot()).std() > 5
    broken = "[...document.images].filter((image) => !image.complete || !image.naturalWidth).length"
    assert page.evaluate(broken) == 0
    page.close()


def test_the_table_of_arms_needs_no_scrolling_on_a_desk(browser: playwright.Browser, report: str) -> None:
    page = open_report(browser, report)
    hidden = page.locator(".scroll").evaluate("(table) => table.scrollWidth - table.clientWidth")
    assert hidden <= 0
    page.close()


def test_a_dark_screen_gets_a_dark_page(browser: playwright.Browser, report: str) -> None:
    brightness = {}
    for scheme in ("light", "dark"):
        page = open_report(browser, report, scheme=scheme)
        brightness[scheme] = pixels(page.screenshot()).mean()
        page.close()
    assert brightness["light"] > 180
    assert brightness["dark"] < 80


def heat_of(page: playwright.Page, row: int, column: int) -> list[np.ndarray]:
    """Click the middle of a patch of the second example's photo; the colours [6, 8, 3] of its heat maps."""
    example = page.locator(".similarity").nth(1)
    frame = example.locator(".pick").first
    frame.scroll_into_view_if_needed()
    box = frame.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + (column + 0.5) / 8 * box["width"], box["y"] + (row + 0.5) / 6 * box["height"])
    return [shown(page, image) for image in example.locator(".heat").all()]


def shown(page: playwright.Page, image: playwright.Locator) -> np.ndarray:
    colours = image.evaluate(
        """(image) => image.decode().then(() => {
            const canvas = document.createElement("canvas");
            canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
            canvas.getContext("2d").drawImage(image, 0, 0);
            return [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
        })"""
    )
    return np.array(colours).reshape(6, 8, 4)[..., :3]


def test_a_click_shows_the_cosines_with_the_patch_under_it(browser: playwright.Browser, report: str) -> None:
    page = open_report(browser, report)
    maps = list(make_example(seed=1).features.values())
    scale = colour_scale("heat").astype(int)
    before = [shown(page, image) for image in page.locator(".similarity").nth(1).locator(".heat").all()]
    for row, column in ((1, 6), (5, 0)):
        found = heat_of(page, row, column)
        exact = [cosine_to_patch(map, row, column).numpy() for map in maps]
        low = min(float(values.min()) for values in exact)
        assert float(page.locator(".similarity .low").nth(1).inner_text().replace("−", "-")) == pytest.approx(
            low, abs=0.03
        )
        for colours, values, old in zip(found, exact, before, strict=True):
            assert (colours != old).any()
            share = np.abs(colours[:, :, None] - scale).sum(-1).argmin(-1) / 255
            assert share == pytest.approx((values - low) / (1 - low), abs=0.04)
            assert share[row, column] == 1
        before = found
    page.close()


def test_before_any_click_and_without_scripts_a_first_patch_is_shown(browser: playwright.Browser, report: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report)
    frame = page.locator(".similarity .pick").nth(1)
    frame.scroll_into_view_if_needed()
    assert frame.locator(".mark").is_visible()
    colours = pixels(frame.screenshot())
    # The photo below is grey: what is coloured is the heat map.
    assert np.abs(colours[..., 0] - colours[..., 2]).mean() > 10
    context.close()


def test_the_arrow_keys_move_the_mark(browser: playwright.Browser, report: str) -> None:
    page = open_report(browser, report)
    example = page.locator(".similarity").first
    before = example.locator(".heat").first.get_attribute("src")
    left = example.locator(".mark").first.evaluate("(mark) => parseFloat(mark.style.left)")
    example.locator(".pick").first.focus()
    page.keyboard.press("ArrowRight")
    moved = example.locator(".mark").first.evaluate("(mark) => parseFloat(mark.style.left)")
    assert moved - left == pytest.approx(100 / 8)
    assert example.locator(".heat").first.get_attribute("src") != before
    page.close()
