"""The driver of long benchmarks: tasks run when what they need is there, once, and a failure stops the rest."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from benchmarks import tasks as driver
from benchmarks.tasks import Task, run_all

JOIN = """
import sys
from pathlib import Path
made, *needs = map(Path, sys.argv[1:])
made.write_text("".join(need.read_text() for need in needs) + "x")
"""


def making(path: Path, *needs: Path) -> Task:
    """A task that joins its needs, and an x."""
    return Task(path.name, path, ("python", "-c", JOIN, str(path), *map(str, needs)), needs)


def test_tasks_wait_for_what_they_need_and_are_not_done_twice(tmp_path: Path) -> None:
    a, b, c, d = (tmp_path / name for name in "abcd")
    tasks = [making(d, b, c), making(c, a), making(b, a), making(a)]
    run_all(tasks, tmp_path / "logs")
    assert d.read_text() == "xxxxx"
    times = {path: path.stat().st_mtime_ns for path in (a, b, c, d)}
    c.unlink()
    run_all(tasks, tmp_path / "logs")
    assert [path.stat().st_mtime_ns == times[path] for path in (a, b, c, d)] == [True, True, False, True]


def test_words_that_come_late_are_read_when_the_needs_are_there(tmp_path: Path) -> None:
    words, made = tmp_path / "words", tmp_path / "made"
    late = Task("late", made, ("python", "-c", JOIN, str(made)), (words,), lambda: (words.read_text(),))
    run_all([late, Task("words", words, ("python", "-c", "from pathlib import Path; "
             f"Path({str(words)!r}).write_text({str(words)!r})"))], tmp_path / "logs")  # fmt: skip
    assert made.read_text() == f"{words}x"


def test_two_run_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2, timeout=10)  # breaks if one runs after the other
    monkeypatch.setattr(driver, "run", lambda task, logs: both.wait() and None)
    run_all([making(tmp_path / name) for name in "abcd"], tmp_path / "logs")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_is_reported_and_nothing_new_begins(tmp_path: Path, workers: int) -> None:
    broken = Task("broken", tmp_path / "never", ("python", "-c", "raise SystemExit(3)"))
    after = making(tmp_path / "after", tmp_path / "never")
    with pytest.raises(SystemExit, match="broken failed with exit code 3"):
        run_all([broken, after], tmp_path / "logs", workers)
    assert not after.makes.exists()
    with pytest.raises(SystemExit, match="nothing makes what after needs"):
        run_all([after], tmp_path / "logs", workers)
