"""Progress in logs: few lines, each whole."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from fit3d_ns.common import console as module
from fit3d_ns.common.console import ProgressLines, progress, redraws


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What goes to a console that is a file, which is narrow."""
    file = io.StringIO()
    monkeypatch.setattr(module, "CONSOLE", Console(file=file, width=40))
    return file


def test_a_thousand_steps_are_eleven_lines(log: io.StringIO) -> None:
    with progress("steps") as bar:
        task = bar.add_task("Fine-tuning with a long description [of many words]", total=1000)
        for _ in range(1000):
            bar.advance(task)
    lines = log.getvalue().splitlines()
    assert len(lines) == 11
    assert lines[0] == "Fine-tuning with a long description [of many words]: 1000 steps"
    assert [line.partition(" %")[0].rpartition(" ")[2] for line in lines[1:]] == [str(10 * k) for k in range(1, 11)]
    assert all("steps/s" in line for line in lines[2:])
    assert "\x1b" not in log.getvalue()


def test_a_thousand_things_that_are_gone_through_are_as_many_lines(log: io.StringIO) -> None:
    with progress("images") as bar:
        assert list(bar.track(range(1000), description="Looking")) == list(range(1000))
    assert len(log.getvalue().splitlines()) == 11


@pytest.mark.parametrize(("total", "lines"), [(0, 1), (1, 2), (3, 4), (10, 11), (11, 11)])
def test_short_tasks_have_a_line_for_each_step_at_most(total: int, lines: int, log: io.StringIO) -> None:
    with progress("images") as bar:
        task = bar.add_task("Few", total=total)
        for _ in range(total):
            bar.advance(task)
    assert len(log.getvalue().splitlines()) == lines


def test_a_task_that_goes_on_says_where_and_repeats_nothing(log: io.StringIO) -> None:
    with progress("steps") as bar:
        task = bar.add_task("Fine-tuning", total=100, completed=55)
        bar.update(task, description="Fine-tuning (loss 0.100)")
        for _ in range(45):
            bar.advance(task)
    lines = log.getvalue().splitlines()
    assert lines[0] == "Fine-tuning: 100 steps, 55 done"
    assert [line.partition(" %")[0].rpartition(" ")[2] for line in lines[1:]] == ["60", "70", "80", "90", "100"]
    assert lines[1].startswith("Fine-tuning (loss 0.100): 60 % (60 of 100")


def test_a_leap_is_one_line(log: io.StringIO) -> None:
    with progress("steps") as bar:
        task = bar.add_task("Leap", total=100)
        bar.advance(task, 75)
    assert len(log.getvalue().splitlines()) == 2


def test_a_terminal_has_a_bar_and_a_file_has_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, force_interactive=True)
    assert redraws(terminal)
    assert not redraws(Console(file=io.StringIO()))
    monkeypatch.setattr(module, "CONSOLE", terminal)
    bar = progress("steps")
    assert type(bar) is Progress
    monkeypatch.setattr(module, "CONSOLE", Console(file=io.StringIO()))
    assert type(progress("steps")) is ProgressLines


@pytest.mark.parametrize(("seconds", "shown"), [(0.4, "0:00:00"), (59.6, "0:01:00"), (3661, "1:01:01")])
def test_times_are_hours_minutes_seconds(seconds: float, shown: str) -> None:
    assert module.clock(seconds) == shown
