"""CSV files are read back as they were written, and compute nothing."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fit3d_ns.common.csv_file import write_csv


def read_back(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("name", ["=1+1", '=HYPERLINK("http://x")', "+A1", "-cmd|' /C calc'!A0", "@SUM(A1)", "\t=1"])
def test_a_formula_becomes_a_text(name: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [["class", "iou"], [name, 0.5]])
    assert read_back(tmp_path / "a.csv") == [["class", "iou"], [f"'{name}", "0.5"]]


@pytest.mark.parametrize("value", ["-0.5", "-1 -2", "+3", "−0.3", "wall", "a=b", "", -0.5, 3])
def test_numbers_and_names_stay(value: object, tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [[value, "x"]])
    assert read_back(tmp_path / "a.csv") == [[str(value), "x"]]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"])), min_size=2, max_size=2), min_size=1)
)
def test_whatever_is_written_comes_back_but_for_the_apostrophe(rows: list[list[str]], tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", rows)
    found = read_back(tmp_path / "a.csv")
    assert [[cell.removeprefix("'") for cell in row] for row in found] == [
        [cell.removeprefix("'") for cell in row] for row in rows
    ]
    assert not any(cell.lstrip()[:1] in {"=", "@"} for row in found for cell in row)
