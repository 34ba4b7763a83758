"""The report as a file: well-formed, self-contained, and with the figures of the results."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fit3d_finetune.probing.results import Arm, Example, ProbeResults
from fit3d_finetune.report.markup import tag
from fit3d_finetune.report.page import write_report
from tests.fit3d_finetune.report.samples import ARMS, CLASSES, NAN, make_example, make_results

VOID_TAGS = {"img", "meta", "wbr"}


class Page(HTMLParser):
    """Parses a page strictly: every tag closed in its turn; keeps tags, tables and text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.rows: list[list[str]] = []
        self.bold: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute of <{tag}> stands there twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID_TAGS:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"style", "script"} & set(self.open):
            return
        self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += f"{data} "
            if "b" in self.open:
                self.bold.append(data)

    @property
    def sections(self) -> list[str]:
        return re.findall(r"<h2>(.*?)</h2>", self.source)

    def row(self, name: str) -> list[str]:
        """The cells of a row of the table of arms."""
        return next(cells for cells in self.rows if cells[0].strip() == name)


def written(folder: Path, results: ProbeResults, examples: list[Example] | None = None) -> Page:
    write_report(results, examples or [], folder / "report.html")
    return Page((folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return written(folder, make_results(), [make_example(), make_example("second.jpg", seed=1)])


def test_the_page_asks_for_nothing_from_elsewhere(page: Page) -> None:
    for name, attributes in page.tags:
        assert name not in ("link", "iframe", "object", "embed", "base")
        for key in ("src", "href", "srcset", "poster", "action", "data"):
            if key in attributes:
                assert (attributes[key] or "").startswith("data:image/")
    assert re.findall(r"url\((?!data:)", page.source) == []
    assert re.findall(r"@import|fetch\(|XMLHttpRequest|WebSocket|https?://", page.source) == []
    policies = [tag["content"] for _, tag in page.tags if tag.get("http-equiv") == "Content-Security-Policy"]
    assert policies
    assert (policies[0] or "").startswith("default-src 'none'; img-src data:;")


PICTURES = {"Features", "Similarity", "Segmentation", "Depth", "Surface normals"}
"""The sections of examples."""


def test_every_part_is_there(page: Page) -> None:
    assert page.sections == [
        *("Arms", "Compared with “original”", "IoU by class", "Multi-view consistency", "Features"),
        *("Similarity", "Segmentation", "Depth", "Surface normals", "Provenance"),
    ]


def test_the_table_has_the_figures_of_the_results(page: Page) -> None:
    results = make_results()
    for arm in ARMS:
        cells = page.row(arm.name)
        segmentation, depth = results.segmentation[arm.name], results.depth[arm.name]
        miou, deviation = np.mean(segmentation.miou), np.std(segmentation.miou, ddof=1)
        assert cells[1].split() == [f"{100 * miou:.1f}", "±", f"{100 * deviation:.1f}"]
        rmse, deviation = np.mean(depth.rmse), np.std(depth.rmse, ddof=1)
        assert cells[4].split() == [f"{rmse:.3f}", "±", f"{deviation:.3f}"]
        assert cells[-3].split() == [f"{100 * results.consistency[arm.name].recall[2]:.1f}"]
    assert "42.4" in page.bold
    assert "0.451" in page.bold
    assert "39.4" not in page.bold


def test_the_differences_stand_by_scene_and_say_what_was_compared(tmp_path: Path, page: Page) -> None:
    text = " ".join(page.text)
    assert "the unit is the test scene (2 here), not the image" in text
    assert "Fewer than 5 scenes are not tested" in text
    assert "significan" not in page.source
    head = next(cells for cells in page.rows if [cell.strip() for cell in cells][:2] == ["arm", "room_08"])
    assert [cell.strip() for cell in head] == ["arm", "room_08", "room_09", "mean"]
    place = page.rows.index(head)
    [row] = [cells for cells in page.rows[place : place + len(ARMS)] if cells[0].strip() == "fine-tuned"]
    assert [cell.strip() for cell in row[1:]] == ["+2.8", "+3.2", "+3.0"]
    tested = written(tmp_path, make_results(scenes=6))
    text = " ".join(tested.text)
    assert "Holm’s correction over the 30 comparisons of this table" in text
    assert "Hierarchical bootstrap over scenes, blocks of consecutive frames and probe seeds" in text
    assert "significantly better" in text
    assert {"room_08", "room_13"} <= {cell.strip() for cells in tested.rows for cell in cells}


def test_what_is_not_a_number_is_a_dash(tmp_path: Path, page: Page) -> None:
    assert not re.search(r"\bnan\b", " ".join(page.text), re.IGNORECASE)
    results = make_results()
    spoiled = dataclasses.replace(results.depth["fine-tuned"], rmse=[NAN] * 3)
    spoiled_page = written(tmp_path, dataclasses.replace(results, depth={**results.depth, "fine-tuned": spoiled}))
    assert spoiled_page.row("fine-tuned")[4].split() == ["–"]
    assert not re.search(r"\bnan\b", " ".join(spoiled_page.text), re.IGNORECASE)


def test_an_arm_that_was_not_measured_has_dashes(tmp_path: Path) -> None:
    results = make_results()
    depth = {name: value for name, value in results.depth.items() if name != "2D control"}
    cells = written(tmp_path, dataclasses.replace(results, depth=depth)).row("2D control")
    assert [cell.strip() for cell in cells[4:7]] == ["–"] * 3


def test_names_cannot_inject_markup(page: Page) -> None:
    assert page.source.count("<script") == 1
    assert "<b>.jpg" not in page.source
    assert any("<script>alert(1)</script>" in text for text in page.text)
    evil = '"><script>x</script>'
    assert str(tag("p", evil, title=evil)).count("<script") == 0


@pytest.mark.parametrize(
    ("part", "section", "columns"),
    [
        ("segmentation", "IoU by class", "Segmentation"),
        ("depth", None, "Depth"),
        ("normals", None, "Normals"),
        ("nearest_neighbours", None, "Nearest neighbours"),
        ("consistency", "Multi-view consistency", "Consistency"),
        ("matching", None, "Matching"),
        ("comparisons", "Compared with “original”", None),
    ],
)
def test_a_part_without_figures_is_left_out(
    tmp_path: Path, page: Page, part: str, section: str | None, columns: str | None
) -> None:
    results = make_results()
    without = written(tmp_path, dataclasses.replace(results, **{part: type(getattr(results, part))()}))
    heads = {name: [cell.strip() for cell in shown.rows[0]] for name, shown in (("with", page), ("without", without))}
    assert [head for head in heads["with"] if head != columns] == heads["without"]
    assert set(page.sections) - set(without.sections) - PICTURES == ({section} - {None})


def test_what_other_angles_are_is_said_where_they_were_measured(tmp_path: Path, page: Page) -> None:
    with_them = written(tmp_path, make_results(beyond_defaults=True))
    assert "Other angles" in [cell.strip() for cell in with_them.rows[0]]
    assert "seen at least 30 degrees aside" in with_them.source
    assert "degrees aside" not in page.source


def test_results_without_any_figure_still_make_a_page(tmp_path: Path) -> None:
    empty = ProbeResults("fast", [0], [Arm("original", ("original",))], {}, [], [], [], [], [], [], [])
    page = written(tmp_path, empty)
    assert page.sections == ["Provenance"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html"]


@pytest.mark.parametrize(
    ("missing", "section"),
    [
        ({"features": {}}, "Features"),
        ({"features": {}}, "Similarity"),
        ({"predicted_labels": {}}, "Segmentation"),
        ({"predicted_depth": {}}, "Depth"),
        ({"predicted_normals": {}}, "Surface normals"),
    ],
)
def test_pictures_that_there_are_not_are_left_out(tmp_path: Path, missing: dict[str, Any], section: str) -> None:
    page = written(tmp_path, make_results(), [dataclasses.replace(make_example(), **missing)])
    assert section not in page.sections


def test_an_example_without_truth_shows_the_predictions_alone(tmp_path: Path) -> None:
    page = written(
        tmp_path, make_results(), [dataclasses.replace(make_example(), labels=None, depth=None, normals=None)]
    )
    titles = [attributes["alt"] or "" for name, attributes in page.tags if name == "img"]
    assert "labels predicted by original" in titles
    assert "depth predicted by original" in titles
    assert not any("true" in title or "wrong" in title or "error" in title for title in titles)


def test_backbones_with_other_channels_are_named_as_left_out(tmp_path: Path) -> None:
    example = make_example()
    example.features["wide"] = torch.randn(6, 8, 99)
    page = written(tmp_path, make_results(), [example])
    assert any("another number of channels: wide" in text for text in page.text)


def test_a_backbone_that_was_not_changed_has_the_pictures_of_the_original(tmp_path: Path) -> None:
    example = make_example()
    example.features["fine-tuned"] = example.features["original"].clone()
    page = written(tmp_path, make_results(), [example])
    sources = {attributes["alt"]: attributes["src"] for name, attributes in page.tags if name == "img"}
    for picture in ("PCA of {}", "k-means of {}", "cosine with the marked patch, {}"):
        assert sources[picture.format("original")] == sources[picture.format("fine-tuned")]


def test_both_backbones_are_drawn_with_one_projection(tmp_path: Path) -> None:
    example = make_example()
    tuned = 2 * example.features["original"]
    tuned[0, 0] = example.features["original"][0, 0]
    example.features["fine-tuned"] = tuned
    written(tmp_path, make_results(), [example])
    features = json.loads((tmp_path / "figures" / "features.json").read_text(encoding="utf-8"))
    pictures = features["examples"][0]["backbones"]
    original, changed = (np.array(pictures[name]["colours"]) for name in ("original", "fine-tuned"))
    assert (original[0, 0] == changed[0, 0]).all()
    assert pictures["original"]["clusters"][0][0] == pictures["fine-tuned"]["clusters"][0][0]
    # With a projection of its own, twice the features would have the colours of the features.
    assert (original != changed).any(axis=-1).mean() > 0.9


def test_the_figures_are_there_as_data(folder: Path, page: Page) -> None:
    results = make_results()
    figures = folder / "figures"
    with (figures / "arms.csv").open(encoding="utf-8") as file:
        rows = {(row["arm"], row["task"], row["metric"]): row for row in csv.DictReader(file)}
    row = rows["fine-tuned", "segmentation", "mIoU"]
    assert float(row["mean"]) == pytest.approx(np.mean(results.segmentation["fine-tuned"].miou))
    assert [float(value) for value in row["values"].split()] == results.segmentation["fine-tuned"].miou
    with (figures / "class_iou.csv").open(encoding="utf-8") as file:
        classes = [row for row in csv.DictReader(file) if row["arm"] == "original"]
    assert [row["class"] for row in classes] == CLASSES
    assert [row["counted"] for row in classes] == ["1", "1", "1", "0"]
    assert classes[-1]["mean"] == ""
    with (figures / "scenes.csv").open(encoding="utf-8") as file:
        scenes = [row for row in csv.DictReader(file) if (row["task"], row["arm"]) == ("depth", "fine-tuned")]
    assert [row["scene"] for row in scenes] == ["room_08", "room_09"]
    assert np.mean([float(row["after"]) for row in scenes]) == pytest.approx(
        np.mean(results.depth["fine-tuned"].rmse), rel=1e-3
    )
    with (figures / "consistency.csv").open(encoding="utf-8") as file:
        bins = [row for row in csv.DictReader(file) if row["arm"] == "original"]
    assert [float(row["recall"] or NAN) for row in bins] == pytest.approx(
        results.consistency["original"].recall, nan_ok=True
    )
    with (figures / "examples.csv").open(encoding="utf-8") as file:
        errors = {(row["example"], row["arm"]): row for row in csv.DictReader(file)}
    assert float(errors["second.jpg", "original"]["rmse"]) == pytest.approx(0.5)
    assert float(errors["second.jpg", "original"]["pixel_accuracy"]) == pytest.approx(0.5)
    assert float(errors["second.jpg", "fine-tuned"]["pixel_accuracy"]) == 1.0
    features = json.loads((figures / "features.json").read_text(encoding="utf-8"))
    assert np.array(features["projection"]["matrix"]).shape == (3, 12)
    assert features["examples"][1]["name"] == "second.jpg"
    row, column = features["examples"][1]["picked_patch"]
    assert features["examples"][1]["backbones"]["original"]["similarity"][row][column] == pytest.approx(1)


def test_data_of_an_earlier_report_does_not_stay(tmp_path: Path) -> None:
    results = make_results()
    written(tmp_path, results, [make_example()])
    own = tmp_path / "figures" / "own.txt"
    own.write_text("the user's")
    written(tmp_path, dataclasses.replace(results, consistency={}, segmentation={}))
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
        *("arms.csv", "comparisons.csv", "own.txt", "scenes.csv")
    ]


def test_the_same_results_make_the_same_file(tmp_path: Path) -> None:
    first = written(tmp_path / "a", make_results(), [make_example()])
    second = written(tmp_path / "b", make_results(), [make_example()])
    assert first.source == second.source


def test_large_pictures_and_grids_do_not_make_a_large_file(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    image = np.kron(random.integers(0, 256, (24, 32, 3)), np.ones((64, 64, 1))).astype(np.uint8)
    features = torch.randn(74, 74, 96, generator=torch.Generator().manual_seed(0))
    labels = np.zeros(image.shape[:2], dtype=np.uint8)
    example = Example("large", image, {"original": features, "fine-tuned": features}, labels, {"original": labels})
    write_report(make_results(), [example] * 4, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 5e6


def test_a_report_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, make_results())
    before = (tmp_path / "report.html").read_bytes()

    def fail(*_: object) -> None:
        raise RuntimeError("stop")

    monkeypatch.setattr("fit3d_finetune.report.page._header", fail)
    with pytest.raises(RuntimeError):
        write_report(make_results(), [], tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures", "report.html"]
