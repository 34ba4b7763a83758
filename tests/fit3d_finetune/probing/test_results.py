"""results.json and the tables: what is written is what is read."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest

from fit3d_finetune.probing.results import (
    Arm,
    Comparison,
    ConsistencyResult,
    DepthResult,
    NearestNeighbourResult,
    ProbeResults,
    SegmentationResult,
)
from fit3d_finetune.probing.tables import write_tables
from fit3d_ns.common.errors import InputError

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
        classes=["wall", "door, open"],
        counted_classes=[0],
        segmentation={
            "original": SegmentationResult([0.5, 0.6], [0.7, 0.8], [0.1, 0.2], [[0.5, NAN]] * 2, [[NAN, 0.9]] * 2)
        },
        depth={"original": DepthResult(*([0.1, NAN] for _ in range(6)), rmse_per_image=[[NAN, 0.2]] * 2)},
        nearest_neighbours={"original": NearestNeighbourResult(20, 0.4, 0.5, [0.4, NAN], [0.3, NAN])},
        consistency={
            "original": ConsistencyResult([0.0, 30.0, 60.0], [0.9, NAN], [0.8, NAN], [3, 0], 2.0, [(12.5, 0.8)])
        },
        comparisons=[Comparison("RMSE", "both", "original", NAN, NAN, NAN, NAN, 0, "nothing")],
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


def test_the_file_is_strict_json(tmp_path: Path) -> None:
    make_results().save(tmp_path / "results.json")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)


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
    assert [(row["from_degrees"], row["to_degrees"], row["pairs"]) for row in rows("consistency")] == [
        ("0.0", "30.0", "3"),
        ("30.0", "60.0", "0"),
    ]


def test_tasks_that_did_not_run_have_no_table(tmp_path: Path) -> None:
    from dataclasses import replace

    write_tables(replace(make_results(), segmentation={}, consistency={}), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["depth.csv", "nearest_neighbours.csv"]
