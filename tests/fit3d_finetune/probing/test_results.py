"""results.json and the tables: what is written is what is read."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from fit3d_finetune.probing.comparison import Comparison, SceneFigures
from fit3d_finetune.probing.counts import ClassCounts
from fit3d_finetune.probing.results import (
    Arm,
    ConsistencyResult,
    DepthResult,
    NearestNeighbourResult,
    ProbeResults,
    SegmentationResult,
)
from fit3d_finetune.probing.tables import write_tables
from fit3d_ns.common.errors import InputError
from tests.fit3d_finetune.report.samples import make_results as make_samples

NAN = math.nan


def make_results() -> ProbeResults:
    return ProbeResults(
        protocol="fast",
        seeds=[0, 5],
        arms=[Arm("original", ("original",)), Arm("both", ("original", "tuned"))],
        backbones={"original": {"layer": 3, "max_size": None}},
        train_data=["a"],
        test_data=["b"],
        test_images=["b/0", "b/1"],
        scenes=["b"],
        image_scenes=[0, 0],
        classes=["wall", "door, open"],
        counted_classes=[0],
        labelled_pixels=np.array([[7, 0], [0, 0]]),
        segmentation={
            "original": SegmentationResult(
                *([0.5, 0.6], [0.4, 0.3], [0.7, 0.8], [0.1, 0.2], [[0.5, NAN]] * 2),
                ClassCounts(np.array([[[3, 0], [0, 0]]] * 2), np.array([[[9, 0], [1, 2]]] * 2)),
            )
        },
        depth={"original": DepthResult(*([0.1, NAN] for _ in range(6)), squared_error=[[0.0, 0.2]] * 2, pixels=[0, 9])},
        nearest_neighbours={
            "original": NearestNeighbourResult(
                *(20, 0.4, 0.4, 0.5, [0.4, NAN]),
                ClassCounts(np.array([[[3, 0], [0, 0]]]), np.array([[[9, 0], [0, 0]]])),
            )
        },
        nearest_neighbours_across={
            "original": NearestNeighbourResult(
                *(20, 0.25, 0.25, 0.5, [0.25, NAN]),
                ClassCounts(np.array([[[1, 0], [0, 0]]]), np.array([[[4, 0], [0, 0]]])),
            )
        },
        pixels_across=np.array([[4, 0], [0, 0]]),
        consistency={
            "original": ConsistencyResult([0.0, 30.0, 60.0], [0.9, NAN], [0.8, NAN], [1, 0], 2.0, [0], [0], [0.8])
        },
        comparisons=[
            Comparison(
                *("depth", "RMSE", "m", False, "both", "original", 0.2, NAN, NAN, NAN, NAN, NAN, NAN),
                [SceneFigures("b", 0.2, NAN, 1)],
                seeds=2,
            )
        ],
        versions={"torch": "2"},
        seconds={"depth": 1.5},
    )


def test_results_come_back_from_disk_with_their_nan(tmp_path: Path) -> None:
    results = make_results()
    results.save(tmp_path / "results.json")
    loaded = ProbeResults.load(tmp_path / "results.json")
    # repr: NaN differs from NaN, its text does not.
    assert repr(loaded) == repr(results)
    assert math.isnan(loaded.segmentation["original"].iou_per_class[0][1])
    assert loaded.backbones["original"]["max_size"] is None


def test_the_first_version_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"format_version": 1, "arms": []}')
    with pytest.raises(InputError, match="has results version 1, but this program reads version 2: run fit3d-probe"):
        ProbeResults.load(tmp_path / "results.json")


def test_a_file_whose_counts_are_broken_is_refused(tmp_path: Path) -> None:
    make_results().save(tmp_path / "results.json")
    text = (tmp_path / "results.json").read_text()
    for old, new in (("[0,3,9]", "[0,3]"), ("[0,3,9]", "[99,3,9]"), ('"counts":', '"kounts":')):
        assert old in text
        (tmp_path / "broken.json").write_text(text.replace(old, new))
        with pytest.raises(InputError, match=r"is not a results\.json of fit3d-probe"):
            ProbeResults.load(tmp_path / "broken.json")


def test_a_large_run_is_a_file_of_moderate_size(tmp_path: Path) -> None:
    make_samples(scenes=10).save(tmp_path / "results.json")
    assert (tmp_path / "results.json").stat().st_size < 1e6  # 400 images, 6 arms, 3 seeds


def test_the_file_is_strict_json(tmp_path: Path) -> None:
    make_results().save(tmp_path / "results.json")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)


def test_a_file_that_is_older_than_a_task_is_read_without_it(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    make_results().save(path)
    data = json.loads(path.read_text())
    for name in ("normals", "matching", "nearest_neighbours_across", "pixels_across"):
        del data[name]
    path.write_text(json.dumps(data))
    found = ProbeResults.load(path)
    assert found.normals == found.matching == found.nearest_neighbours_across == {}
    assert not found.pixels_across.size
    assert list(found.depth) == list(make_results().depth)


@pytest.mark.parametrize("content", [None, "[]", "{}", "nonsense", '{"format_version": 1}', '{"format_version": 99}'])
def test_another_file_is_refused_in_one_sentence(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=r"results\.json (cannot be read|is not a results\.json|has results version)"):
        ProbeResults.load(path)


def test_tables_hold_the_figures_per_seed_class_and_bin(tmp_path: Path) -> None:
    write_tables(make_results(), tmp_path)

    def rows(name: str) -> list[dict[str, str]]:
        with (tmp_path / f"{name}.csv").open() as file:
            return list(csv.DictReader(file))

    assert [(row["seed"], float(row["miou"])) for row in rows("segmentation")] == [("0", 0.5), ("5", 0.6)]
    assert [(row["class"], row["counted"]) for row in rows("classes")] == [("wall", "1"), ("door, open", "0")]
    assert next(float(row["iou_seed_5"]) for row in rows("classes")) == 0.5
    assert [row["rmse"] for row in rows("depth")] == ["0.1", "nan"]
    assert rows("nearest_neighbours")[0]["miou"] == "0.4"
    assert rows("nearest_neighbours_across")[0]["miou"] == "0.25"
    assert [(row["from_degrees"], row["to_degrees"], row["pairs"]) for row in rows("consistency")] == [
        ("0.0", "30.0", "1"),
        ("30.0", "60.0", "0"),
    ]
    [comparison] = rows("comparisons")
    assert (comparison["task"], comparison["p_holm"], comparison["scenes"]) == ("depth", "", "1")
    assert [(row["scene"], row["before"]) for row in rows("scenes")] == [("b", "0.2")]


def test_tasks_that_did_not_run_have_no_table(tmp_path: Path) -> None:
    write_tables(dataclasses.replace(make_results(), segmentation={}, consistency={}, comparisons=[]), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("depth.csv", "nearest_neighbours.csv", "nearest_neighbours_across.csv")
    ]
