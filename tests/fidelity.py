"""A table of docs/fidelity/ beside its tests: every row has one, and every one a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Test = Callable[..., None]


class FidelityTable:
    """One page, and the tests that say which row they are of."""

    def __init__(self, page: str) -> None:
        self.path = Path(__file__).parents[1] / "docs" / "fidelity" / page
        self.tests: dict[str, str] = {}
        """Row of the table -> the name of its test."""

    def item(self, name: str) -> Callable[[Test], Test]:
        """The test of a row of the table."""

        def register(test: Test) -> Test:
            assert name not in self.tests, f"{name} has a test already"
            self.tests[name] = test.__name__
            return test

        return register

    def rows(self) -> list[list[str]]:
        """Item, Published, Here and Why of every row."""
        lines = [line for line in self.path.read_text().splitlines() if line.startswith("|")]
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        assert cells[0] == ["Item", "Published", "Here", "Why"]
        assert all(len(row) == 4 for row in cells)
        return cells[2:]

    def check(self, module: Mapping[str, Any]) -> None:
        """Fail unless the rows and the tests are the same, and the tests run.

        Args:
            module: `globals()` of the module that holds them: a test that was written over would not run.
        """
        names = [name for name, *_ in self.rows()]
        assert len(names) == len(set(names))
        assert set(names) == self.tests.keys()
        assert all(callable(module[test]) and test.startswith("test_") for test in self.tests.values())
