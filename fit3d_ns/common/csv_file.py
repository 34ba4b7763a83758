"""CSV files that spreadsheets may open: names that others gave never become formulas."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from fit3d_ns.common.atomic import atomic_file

_FORMULA = re.compile(r"\s*[=+\-@]")
_NUMBERS = re.compile(r"[\s\d.,;eE+\-−inaf]*")


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write rows as UTF-8, atomically; a text that a spreadsheet would compute gets an apostrophe in front."""
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([[_cell(value) for value in row] for row in rows])


def _cell(value: object) -> object:
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBERS.fullmatch(value):
        return f"'{value}"
    return value
