"""The catalogue itself: its size is the one that the documentation states, and its check can fail."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from tests.bad_input.catalogue import Case, check, written
from tests.bad_input.test_fuzz import BINARY_READERS, JSON_READERS

PAGE = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text()
ROWS = re.findall(r"^\| `(test_\w+)\.py` \| (\d+) \|", PAGE, re.MULTILINE)


def test_the_page_states_how_many_cases_there_are() -> None:
    found = {name: len(importlib.import_module(f"tests.bad_input.{name}").ALL) for name, _ in ROWS}
    assert found == {name: int(count) for name, count in ROWS}
    assert f"**{sum(found.values()):,} cases**" in PAGE
    assert f"{len(JSON_READERS) + len(BINARY_READERS)} readers ({len(JSON_READERS)} of JSON" in PAGE


def test_no_case_has_the_name_of_another() -> None:
    for name, _ in ROWS:
        names = [case.name for case in importlib.import_module(f"tests.bad_input.{name}").ALL]
        assert len({*names}) == len(names), name


@pytest.mark.parametrize(
    ("case", "fault"),
    [
        (Case("it works", ("fit3d-data", "list"), ("x",)), "exit code 0"),
        (Case("other words", ("fit3d-data", "check", "nokind", "x"), ("something else",)), "something else"),
        (
            Case("a good refusal", ("fit3d-data", "check", "nokind", "x"), ("nokind",), spoil=written("a", "b")),
            None,
        ),
    ],
    ids=str,
)
def test_its_check_finds_faults(
    case: Case, fault: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "world").mkdir()
    (tmp_path / "here").mkdir()
    if fault is None:
        check(case, tmp_path / "world", tmp_path / "here", monkeypatch, capfd)
        return
    with pytest.raises(AssertionError, match=fault):
        check(case, tmp_path / "world", tmp_path / "here", monkeypatch, capfd)
