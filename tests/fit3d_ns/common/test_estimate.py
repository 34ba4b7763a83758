"""What --dry-run prints, and the rates that commands keep for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fit3d_ns.common.console import CONSOLE, logger
from fit3d_ns.common.estimate import Estimate, Room, Step, rehearsal, size_of, spread
from fit3d_ns.common.kept_rates import KEPT, keep_rate, kept_rates


def lines(*steps: Step, size: float | None = 2e9, memory: float | None = 1e9) -> list[str]:
    room = Room("export", Path("/"), size, "counted")
    return Estimate((("Views", "3"),), steps, memory, "measured now", (room,)).lines()


def test_every_figure_is_there_with_where_it_comes_from() -> None:
    said = lines(Step("features of 3 images", 60, "20 s each, measured now"), Step("solving", 5, "1 s a view"))
    assert said[:4] == [
        "Views: 3",
        "Time: 0:01:05 in all",
        "  features of 3 images: 0:01:00 (20 s each, measured now)",
        "  solving: 0:00:05 (1 s a view)",
    ]
    assert said[4] == "Memory: 1.0 GB at most (measured now)"
    assert said[5] == "Disk: 2.00 GB"
    assert said[6].startswith("  export: 2.00 GB at / (counted; ")
    assert "free)" in said[6]


def test_what_cannot_be_estimated_is_said_and_not_guessed() -> None:
    nothing = Step("poses", None, "no capture was made here yet")
    assert lines(nothing)[1:3] == ["Time: no estimate", "  poses: no estimate (no capture was made here yet)"]
    assert lines(Step("features", 60, "measured"), nothing)[1] == "Time: 0:01:00, and what has no estimate"
    said = "\n".join(lines(nothing, size=None, memory=None))
    assert "Memory: no estimate" in said
    assert "Disk: no estimate" in said


def test_a_rehearsal_leaves_nothing_and_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    folders = []

    def fail() -> None:
        with rehearsal() as folder:
            (folder / "file").write_bytes(bytes(10))
            assert size_of(folder) == 10
            logger.info("not said")
            CONSOLE.print("nor this")
            folders.append(folder)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not folders[0].exists()
    assert not CONSOLE.quiet
    assert logger.isEnabledFor(20)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("count", "most"), [(0, 3), (2, 3), (10, 3), (10, 1), (200, 200)])
def test_a_spread_is_of_different_indices_from_the_first_to_the_last(count: int, most: int) -> None:
    found = spread(count, most)
    assert len(set(found)) == len(found) == min(count, most)
    assert found == sorted(found)
    assert set(found) <= set(range(count))
    if count and most > 1:
        assert (found[0], found[-1]) == (0, count - 1)


def test_rates_are_those_of_like_runs_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIT3D_CACHE_DIR", str(tmp_path / "cache"))
    assert kept_rates("fit3d-scenes") == []
    assert not (tmp_path / "cache").exists(), "looking writes nothing"
    keep_rate("fit3d-scenes", method="fast", options=("--a", "1"), seconds=3.0)
    keep_rate("fit3d-scenes", method="full", options=(), seconds=9.0)
    assert [entry["seconds"] for entry in kept_rates("fit3d-scenes", method="fast", options=("--a", "1"))] == [3.0]
    assert kept_rates("fit3d-scenes", method="fast", options=()) == []
    assert len(kept_rates("fit3d-scenes")) == 2
    monkeypatch.setattr("fit3d_ns.common.kept_rates.platform.node", lambda: "another")
    assert kept_rates("fit3d-scenes") == []


def test_the_newest_rates_stay_and_broken_files_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIT3D_CACHE_DIR", str(tmp_path))
    for number in range(KEPT + 3):
        keep_rate("fit3d-capture", number=number)
    assert [entry["number"] for entry in kept_rates("fit3d-capture")] == list(range(3, KEPT + 3))
    for text in ("{", "{}", "[1]", ""):
        (tmp_path / "rates/fit3d-capture.json").write_text(text)
        assert kept_rates("fit3d-capture") == []


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX")
def test_a_run_is_as_good_where_rates_cannot_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FIT3D_CACHE_DIR", str(tmp_path / "file"))
    keep_rate("fit3d-capture", photos=3)
    assert kept_rates("fit3d-capture") == []
