"""What every benchmark gives: rows of one figure against another, and the aim that it should meet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from benchmarks.timing import Spread


class Skip(Exception):  # noqa: N818 (no error)
    """A section that cannot run here, or not now; the message says why."""


@dataclass(frozen=True)
class Aim:
    """A bound on our own figure or on its ratio to the reference."""

    of: Literal["ours", "ratio"]
    sense: Literal["at most", "at least"]
    bound: float

    def met(self, value: float) -> bool:
        return value <= self.bound if self.sense == "at most" else value >= self.bound


@dataclass(frozen=True)
class Row:
    """One figure. Where both sides were timed they ran alternately, and `ours` and `reference` are medians."""

    name: str
    unit: str
    ours: float
    reference: float | None = None
    against: str = ""
    """What `reference` is."""
    ours_least: float | None = None
    reference_least: float | None = None
    aim: Aim | None = None
    note: str = ""
    points: tuple[tuple[float, float], ...] = ()
    """What a fitted exponent was fitted to."""

    @property
    def ratio(self) -> float | None:
        """ours / reference: below 1 is faster, or smaller."""
        return None if self.reference is None else self.ours / self.reference

    @property
    def ratio_of_minima(self) -> float | None:
        if self.ours_least is None or self.reference_least is None:
            return None
        return self.ours_least / self.reference_least

    @property
    def met(self) -> bool | None:
        """Whether the aim is met; None without one, or where its ratio has no reference."""
        if self.aim is None:
            return None
        value = self.ours if self.aim.of == "ours" else self.ratio
        return None if value is None else self.aim.met(value)


def milliseconds(
    name: str, ours: Spread, reference: Spread | None = None, against: str = "", aim: Aim | None = None, note: str = ""
) -> Row:
    """A row of timings, given in seconds."""
    medians = (1e3 * ours.median, None if reference is None else 1e3 * reference.median)
    minima = (1e3 * ours.least, None if reference is None else 1e3 * reference.least)
    return Row(name, "ms", *medians, against, *minima, aim, note)


@dataclass(frozen=True)
class Setting:
    """What a run of all benchmarks has to work with."""

    work_dir: Path
    quick: bool
    device: str
    """"cpu" or "cuda"; sections on the CPU run in either case."""
    make_exports: Callable[[], tuple[Path, ...]]
    """Gives the exports, making those that are missing; the first is the one that single-scene sections use."""
    labelled: tuple[str, ...]
    """Scenes with labels, as fit3d-probe takes them."""
    capture: Path
    """A scene as ns-train takes it."""
    asked: tuple[str, ...] = ()
    """Sections that --only names: these run also where they take long."""
    stage1_steps: int | None = None
    """Of each training of the section stage1; None: as many as the presets have, or few if `quick`."""

    @cached_property
    def exports(self) -> tuple[Path, ...]:
        return self.make_exports()

    @property
    def repeats(self) -> int:
        """Timed runs of each side, after one that does not count."""
        return 3 if self.quick else 5


@dataclass(frozen=True)
class Section:
    """One module's rows under a name that --only takes."""

    name: str
    title: str
    measure: Callable[[Setting], list[Row]]


@dataclass(frozen=True)
class Outcome:
    """What came of a section: rows, or why there are none."""

    name: str
    title: str
    rows: tuple[Row, ...] = ()
    skipped: str = ""
    seconds: float = 0.0
