"""What the page does with what it is given, without a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fit3d_finetune.page.features import Backbones, see
from fit3d_finetune.page.layout import Page, PageOptions, Shown
from fit3d_finetune.page.photos import find_examples, read_photo
from fit3d_finetune.page.pictures import cluster_pictures, colour_pictures, enlarge, mark, similarity_pictures
from tests.fit3d_finetune.page.folders import write_photo

gradio = pytest.importorskip("gradio", reason="needs gradio")


@pytest.fixture(scope="module")
def page(backbones: Backbones, tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = tmp_path_factory.mktemp("examples")
    write_photo(folder / "first.png", 160, 96, seed=1)
    write_photo(folder / "second.png", 96, 160, seed=2)
    return Page(gradio, backbones, PageOptions("finetuned", 224, find_examples(folder)))


def named(updates: dict[Any, Any]) -> dict[str, Any]:
    """What changes, by the element's id, or by the kind of component where it has none."""
    return {part.elem_id or type(part).__name__: value for part, value in updates.items()}


def test_an_upload_is_shown_and_its_file_deleted(page: Page, backbones: Backbones, tmp_path: Path) -> None:
    path = write_photo(tmp_path / "holiday_1.png", 448, 288)
    image = read_photo(path, 224).image
    features = see(backbones, image)
    shown = named(page.take_upload(str(path), 4))
    assert not path.exists()
    assert shown["upload"] is None
    assert "448 × 288 pixels, shrunk to 224 × 144, 14 × 9 patches" in shown["status"]
    assert shown["status"].startswith("holiday\\_1\\.png")
    for kind, pictures in (("colours", colour_pictures(features)), ("clusters", cluster_pictures(features, 4))):
        for name, picture in zip(("original", "fine-tuned"), pictures, strict=True):
            assert (shown[f"{kind}-{name}"] == enlarge(picture, (144, 224))).all()
    assert shown["photo"].shape == shown["depth"].shape == shown["normals"].shape == (144, 224, 3)
    assert "times as far" in shown["Markdown"]


def test_a_broken_upload_is_one_sentence_and_clears_the_page(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"no photo")
    shown = named(page.take_upload(str(path), 4))
    assert "broken\\.png is no photo that can be read here" in shown["status"]
    assert {name for name, value in shown.items() if value is not None} == {"status"}
    assert {"photo", "colours-original", "similarity-fine-tuned", "depth", "State"} <= shown.keys()
    assert not path.exists()


def test_an_example_is_taken_by_its_place_and_stays(page: Page) -> None:
    shown = named(page.take_example(4, 1))
    assert shown["status"].startswith("second")
    assert shown["photo"].shape == (160, 96, 3)
    assert named(page.take_example(4, 1))["status"].startswith("second")


def test_a_click_compares_with_the_patch_under_it(page: Page) -> None:
    state: Shown = named(page.take_example(4, 0))["State"]
    after = named(page.compare(state, [159, 40]))  # 10 x 6 patches of 16 pixels
    expected = similarity_pictures(state.features, 2, 9)
    for name, picture in zip(("original", "fine-tuned"), expected.pictures, strict=True):
        assert (after[f"similarity-{name}"] == mark(enlarge(picture, (96, 160)), 2, 9, (6, 10))).all()
    assert (after["photo"] == mark(state.photo.image, 2, 9, (6, 10))).all()
    assert f"{expected.lowest:.2f}".replace("-", "−") in after["scale"]


def test_another_number_of_clusters_changes_them_alone(page: Page) -> None:
    state = named(page.take_example(4, 0))["State"]
    after = named(page.recount(state, 2))
    assert after.keys() == {"clusters-original", "clusters-fine-tuned"}
    both = np.concatenate(list(after.values())).reshape(-1, 3)
    assert len(np.unique(both, axis=0)) == 2


def test_before_a_photo_nothing_happens(page: Page) -> None:
    assert page.compare(None, [3, 4]) == gradio.skip()
    assert page.recount(None, 5) == gradio.skip()


def test_without_heads_the_page_says_why_instead_of_the_tab(plain_backbones: Backbones, tmp_path: Path) -> None:
    page = Page(gradio, plain_backbones, PageOptions("plain", 224))
    parts = page.blocks.get_config_file()["components"]
    tabs = [part["props"]["label"] for part in parts if part["type"] == "tabitem"]
    reasons = [part["props"]["value"] for part in parts if part["props"].get("elem_id") == "reason"]
    assert tabs == ["Colours (PCA)", "Clusters (k-means)", "Similarity"]
    assert "fine\\-tune with \\-\\-keep\\-heads" in reasons[0]
    shown = named(page.take_upload(str(write_photo(tmp_path / "a.png", 160, 96)), 4))
    assert "depth" not in shown
    assert "10 × 6 patches" in shown["status"]


def test_nothing_of_the_page_is_offered_to_other_programs(page: Page) -> None:
    assert {event["api_visibility"] for event in page.blocks.get_config_file()["dependencies"]} == {"private"}
