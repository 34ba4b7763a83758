"""The one console and the one logger of both packages."""

from __future__ import annotations

import logging

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
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


def progress(unit: str) -> Progress:
    """A progress bar with counts, rate (in `unit` per second) and time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(unit),
        TimeRemainingColumn(),
        console=CONSOLE,
        transient=True,
    )
