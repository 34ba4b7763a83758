"""How far a training is, in logs: a line for every ten per cent instead of nerfstudio's table."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

from nerfstudio.configs.base_config import LocalWriterConfig
from nerfstudio.utils.decorators import check_main_thread
from nerfstudio.utils.writer import GLOBAL_BUFFER, EventName, LocalWriter

from fit3d_ns.common.console import clock


@dataclass
class TrainingLinesConfig(LocalWriterConfig):
    """Configuration of `TrainingLines`."""

    _target: type = field(default_factory=lambda: TrainingLines)


class TrainingLines(LocalWriter):
    """nerfstudio's table on a terminal; else a line that stays for every ten per cent of the steps.

    The table is drawn over itself by moving the cursor, so that a log has all of it again for every ten steps.
    """

    _tenths: int | None = None

    @check_main_thread
    def write_stats_log(self, step: int) -> None:
        if sys.stdout.isatty():
            super().write_stats_log(step)
            return
        steps = int(GLOBAL_BUFFER["max_iter"])
        if step % GLOBAL_BUFFER["steps_per_log"]:
            return
        tenths = 10 * step // steps
        if tenths == self._tenths:
            return
        self._tenths = tenths
        latest, _ = self._consolidate_events()
        print(line(step, steps, latest), flush=True)


def line(step: int, steps: int, latest: dict[str, Any]) -> str:
    """One line of the log, of nerfstudio's latest events by name."""
    # A run that goes on counts from where it was, and nerfstudio's total is that of this start alone.
    parts = [f"Training: step {step}" + (f" of {steps} ({100 * step // steps} %)" if step <= steps else "")]
    if "Train Loss" in latest:
        parts.append(f"loss {float(latest['Train Loss']):.4f}")
    seconds = latest.get(EventName.ITER_TRAIN_TIME.value)
    if seconds is not None:
        parts.append(f"{1000 * float(seconds):.0f} ms a step")
    left = latest.get(EventName.ETA.value)
    if left is not None and float(left) >= 0:
        parts.append(f"{clock(float(left))} left")
    return ", ".join(parts)
