"""The one console and the one logger of both packages."""

from __future__ import annotations

import logging
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

CONSOLE = Console(stderr=True)

logger = logging.getLogger("fit3d")
if not logger.handlers:
    logger.addHandler(RichHandler(console=CONSOLE, show_path=False, show_time=False, markup=False))
    logger.setLevel(logging.INFO)
    logger.propagate = False


class _RateColumn(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.2f} {self.unit}/s")


def redraws(console: Console) -> bool:
    """Whether what it shows can be drawn over: a terminal or a notebook, and no file or pipe."""
    return console.is_interactive or console.is_jupyter


def progress(unit: str) -> Progress:
    """A progress bar with counts, rate (in `unit` per second) and time left.

    Without a terminal: a line when a task begins, and one for every ten per cent of it.
    """
    if not redraws(CONSOLE):
        return ProgressLines(unit, CONSOLE)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(unit),
        TimeRemainingColumn(),
        console=CONSOLE,
        transient=True,
    )


class ProgressLines(Progress):
    """Progress in lines that stay, for logs.

    Args:
        unit: of what is counted, in the plural.
        console: where lines go.
    """

    def __init__(self, unit: str, console: Console) -> None:
        super().__init__(console=console, auto_refresh=False, disable=True)
        self._unit = unit
        self._tenths: dict[TaskID, int] = {}

    def add_task(self, description: str, *args: Any, **kwargs: Any) -> TaskID:
        task_id = super().add_task(description, *args, **kwargs)
        with self._lock:
            task = self._tasks[task_id]
            self._tenths[task_id] = _tenths(task)
            total = "" if task.total is None else f": {task.total:.0f} {self._unit}"
            self._say(f"{task.description}{total}{f', {task.completed:.0f} done' if task.completed else ''}")
        return task_id

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._report(task_id)

    def update(self, task_id: TaskID, **kwargs: Any) -> None:
        super().update(task_id, **kwargs)
        self._report(task_id)

    def _report(self, task_id: TaskID) -> None:
        with self._lock:
            task = self._tasks[task_id]
            if _tenths(task) <= self._tenths[task_id] or not task.total:
                return
            self._tenths[task_id] = _tenths(task)
            speed = task.finished_speed or task.speed
            rate = "" if speed is None else f", {speed:.2f} {self._unit}/s"
            left = task.time_remaining
            time = "" if left is None or task.finished else f", {clock(left)} left"
            share = 100 * task.completed / task.total
            self._say(f"{task.description}: {share:.0f} % ({task.completed:.0f} of {task.total:.0f}{rate}{time})")

    def _say(self, line: str) -> None:
        # In one piece, however long.
        self.console.print(line, soft_wrap=True, highlight=False, markup=False)


def _tenths(task: Task) -> int:
    """How many tenths of a task are done."""
    return int(10 * task.completed / task.total) if task.total else 0


def clock(seconds: float) -> str:
    """A time as hours, minutes and seconds: 0:04:10."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
