"""The page of benchmarks.rooms says what the results say."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks.recipe_choice import Trial
from benchmarks.rooms_table import Evidence, FoldFiles, write_table
from fit3d_finetune.probing.cross_validation import pool
from fit3d_finetune.probing.results import ProbeResults
from tests.fit3d_finetune.report.samples import make_results

FOLDS = 3


@pytest.fixture
def runs(tmp_path: Path) -> list[ProbeResults]:
    """Three folds of two rooms each, with other names and images."""
    found = []
    for fold in range(FOLDS):
        results = make_results()
        names = [f"room_{2 * fold + i:02d}" for i in range(2)]
        images = [f"{names[scene]}/{place}" for place, scene in enumerate(results.image_scenes)]
        places = [f"{tmp_path}/{name}" for name in names]
        found.append(dataclasses.replace(results, scenes=names, test_images=images, test_data=places))
    return found


@pytest.fixture
def evidence(tmp_path: Path, runs: list[ProbeResults]) -> Evidence:
    folds = []
    for name, run in zip("ABC", runs, strict=True):
        run.save(tmp_path / f"{name}.json")
        trials = [tmp_path / f"{recipe}-{name}.json" for recipe in ("depth 1", "depth 2")]
        for path, found in zip(trials, (0.051, 0.062), strict=True):
            Trial(path.name.partition("-")[0], {0.5: found}, ["room_02", "room_03"]).save(path)
        second = tmp_path / "A.json" if name == "A" else None
        folds.append(FoldFiles(name, tmp_path / f"{name}.json", trials, second))
    stage1 = {}
    for room, psnrs in (("room_00", (29.0, 30.0, 31.0)), ("room_01", (20.0, 21.0, 22.0))):
        stage1[room] = [tmp_path / f"{room}-{seed}.json" for seed in range(3)]
        for path, psnr in zip(stage1[room], psnrs, strict=True):
            path.write_text(json.dumps({"results": {"psnr": psnr, "ssim": 0.9, "feature_cosine": 0.8}}))
    return Evidence(folds, tmp_path / "A.json", stage1)


def tables(text: str) -> dict[str, list[list[str]]]:
    """Rows of cells by the heading that they stand under, without the line below the titles."""
    found: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        if line.startswith("## "):
            rows = found.setdefault(line[3:], [])
        elif line.startswith("| "):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_the_page_shows_the_pooled_comparisons_room_by_room(
    tmp_path: Path, runs: list[ProbeResults], evidence: Evidence
) -> None:
    write_table(tmp_path / "rooms.md", evidence)
    text = (tmp_path / "rooms.md").read_text()
    assert str(tmp_path) not in text
    found = tables(text)
    expected = {(each.metric, each.arm): each for each in pool([*runs, runs[0]])}
    shown = {(row[0], row[1]): row for row in found["Against the original"][1:]}
    assert shown.keys() == expected.keys()
    for key, row in shown.items():
        assert row[
            3
        ] == f"{expected[key].write(expected[key].before)} → {expected[key].write(expected[key].after)} " + (
            expected[key].unit
        )
        assert row[4].startswith(expected[key].write_difference(expected[key].difference))
    titles, *by_room = found["Room by room"]
    assert titles[2:] == [f"{index:02d}" for index in range(2 * FOLDS)]
    segmentation = next(row for row in by_room if row[:2] == ["mIoU (points)", "fine-tuned"])
    scenes = expected["mIoU", "fine-tuned"].scenes
    assert segmentation[2:] == [
        expected["mIoU", "fine-tuned"].write_difference(scene.difference).split()[0] for scene in scenes
    ]
    against = {row[2] for row in found["Against the controls"][1:]}
    assert against == {"2D control", "original + 2D control", "original + original"}


def test_the_page_says_what_was_chosen_on_what_and_how_far_seeds_differ(tmp_path: Path, evidence: Evidence) -> None:
    write_table(tmp_path / "rooms.md", evidence)
    found = tables((tmp_path / "rooms.md").read_text())
    assert found["What was chosen inside the folds"][1] == [
        "A",
        "room_02, room_03",
        "+5.1 %",
        "+6.2 %",
        "depth 2: 50 %",
    ]
    seeds = found["The second seed of fine-tuning"][1:]
    assert seeds
    assert all(row[0] == "A" and row[3] == row[4] for row in seeds)  # the same run twice
    assert found["Stage 1"][1][:2] == ["room_00", "30.00 ± 1.00"]
    assert found["Stage 1"][-1][:2] == ["mean", "25.50"]


def test_a_page_without_a_choice_says_that_there_was_none(tmp_path: Path, evidence: Evidence) -> None:
    folds = [dataclasses.replace(fold, trials=[]) for fold in evidence.folds]
    write_table(tmp_path / "rooms.md", dataclasses.replace(evidence, folds=folds))
    text = (tmp_path / "rooms.md").read_text()
    assert "nothing was chosen inside the folds" in text
    assert "`python -m benchmarks.rooms --preset`" in text
    assert "What was chosen inside the folds" not in text
