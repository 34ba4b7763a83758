"""The screenshots of docs/how_it_works.md, from what `make demo` left in demo/: python examples/screenshots.py [DEMO]

docs/viewer.png is ns-viewer on the sample room, docs/demo_page.png the page of fit3d-demo with a photo of a room that
nothing was trained on. Both are driven in headless Chromium, as the tests of these pages do.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.console_scripts import console_script, end_group  # noqa: E402 (in the root, which is no package)
from tests.fit3d_ns.method.browser import open_page, running_viewer  # noqa: E402

DOCS = ROOT / "docs"
RUN = "scenes/outputs/room/fit3d-features-fast/attempt-1/config.yml"
PHOTO = ROOT / "examples" / "other_room" / "images" / "frame_00021.jpg"
COLOURS = 160
"""Of a screenshot's palette, which keeps it under 400 KB."""
TITLE_BAR = 51
"""Pixels of the viewer's page that are nerfstudio's, with a logo from the network."""


def save(png: bytes, path: Path, top: int = 0) -> None:
    """Keep a screenshot as a PNG with a palette, without so many rows at the top."""
    shot = Image.open(io.BytesIO(png)).convert("RGB")
    shot.crop((0, top, shot.width, shot.height)).quantize(COLOURS).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} KB")


def viewer(config: Path, work: Path) -> bytes:
    """The page of ns-viewer on a run, with its features as colours and the controls of fit3d."""
    with running_viewer(config, work / "viewer.log") as address, open_page(address, work) as page:
        before = page.screenshot()
        page.choose_output("feature_pca")
        page.wait_until(page.screenshot, lambda picture: (picture != before).mean() > 0.5, "the features", timeout=180)
        page.scroll_to("Refit colours")
        return page.whole()


@contextmanager
def running_page(finetuned: Path, log: Path) -> Iterator[str]:
    """Start fit3d-demo on a folder; yields the address of its page."""
    command = [console_script("fit3d-demo"), "--finetuned", str(finetuned), "--port", "0"]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try:
        while (found := re.search(r"Open (http://[\w.:]+)", log.read_text())) is None:
            if process.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.2)
        yield found[1]
    finally:
        end_group(process)


def demo_page(finetuned: Path, work: Path) -> bytes:
    """The page of fit3d-demo with the colours of a photo's features."""
    from playwright.sync_api import expect, sync_playwright

    from tests.fit3d_ns.method.browser import CHROMIUM

    with running_page(finetuned, work / "page.log") as address, sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--headless=new", "--no-sandbox"])
        page = chromium.new_context(viewport={"width": 1180, "height": 590}).new_page()
        page.set_default_timeout(180_000)
        page.goto(address)
        page.locator("#upload input[type=file]").set_input_files(PHOTO)
        expect(page.locator("#status")).to_contain_text("patches", timeout=180_000)
        for name in ("original", "fine-tuned"):
            page.locator(f"#colours-{name} img").wait_for()
        page.wait_for_timeout(4000)  # pictures fade in
        shot = page.screenshot()
        chromium.close()
        return shot


def main(demo: Path) -> None:
    with tempfile.TemporaryDirectory() as work:
        save(demo_page(demo / "finetuned", Path(work)), DOCS / "demo_page.png")
        save(viewer(demo / RUN, Path(work)), DOCS / "viewer.png", TITLE_BAR)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("demo"))
