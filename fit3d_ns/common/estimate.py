"""What --dry-run prints: what would be done and what it takes, each figure with the rate that it comes from."""

from __future__ import annotations

import logging
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fit3d_ns.common.console import CONSOLE, clock, logger
from fit3d_ns.common.output_place import free_bytes


@dataclass(frozen=True)
class Step:
    """A part of the work."""

    what: str
    """With counts: "features of 36 images"."""
    seconds: float | None
    """Of all of it; None: there is no estimate."""
    rate: str
    """Where the estimate comes from, or why there is none: "0.31 s each, measured now on 2"."""


@dataclass(frozen=True)
class Room:
    """Disk space that something takes."""

    what: str
    folder: Path
    size: float | None
    """Bytes; None: there is no estimate."""
    rate: str = ""
    """Where it comes from, if not from counting, or why there is none."""


@dataclass(frozen=True)
class Estimate:
    """What a command would do and take."""

    plan: tuple[tuple[str, str], ...]
    """What is said first, as pairs: ("Scenes", "3 to train, 1 done already")."""
    steps: tuple[Step, ...]
    memory: float | None
    """Bytes at most; None: there is no estimate."""
    memory_rate: str
    """Where it comes from, or why there is none."""
    rooms: tuple[Room, ...]
    device: str = "cpu"

    def lines(self) -> list[str]:
        """In words."""
        known = sum(step.seconds or 0.0 for step in self.steps)
        missing = sum(step.seconds is None for step in self.steps)
        if missing == len(self.steps):
            time = "no estimate"
        else:
            time = f"{clock(known)} in all" if not missing else f"{clock(known)}, and what has no estimate"
        memory = "no estimate" if self.memory is None else f"{self.memory / 1e9:.1f} GB at most"
        return [
            *(f"{name}: {text}" for name, text in self.plan),
            f"Time: {time}",
            *(
                f"  {step.what}: {'no estimate' if step.seconds is None else clock(step.seconds)} ({step.rate})"
                for step in self.steps
            ),
            f"{'GPU memory' if self.device.startswith('cuda') else 'Memory'}: {memory} ({self.memory_rate})",
            f"Disk: {_size(None if any(room.size is None for room in self.rooms) else sum(map(_bytes, self.rooms)))}",
            *(f"  {_line(room)}" for room in self.rooms),
            "Nothing was written. Times are of this machine as busy as it is now.",
        ]

    def show(self) -> None:
        """Print it."""
        print("\n".join(self.lines()))


def _bytes(room: Room) -> float:
    return room.size or 0.0


def _size(size: float | None) -> str:
    if size is None:
        return "no estimate"
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _line(room: Room) -> str:
    rate = f"{room.rate}; " if room.rate else ""
    return f"{room.what}: {_size(room.size)} at {room.folder} ({rate}{_size(free_bytes(room.folder))} free)"


@contextmanager
def rehearsal() -> Iterator[Path]:
    """A folder for what a part of the work writes while its rate is measured; it goes, and the part says nothing."""
    level, quiet = logger.level, CONSOLE.quiet
    logger.setLevel(logging.ERROR)
    CONSOLE.quiet = True
    try:
        with tempfile.TemporaryDirectory(prefix="fit3d-dry-run-") as folder:
            yield Path(folder)
    finally:
        CONSOLE.quiet = quiet
        logger.setLevel(level)


def spread(count: int, most: int) -> list[int]:
    """At most so many of the indices 0 … count - 1, evenly."""
    if count <= most:
        return list(range(count))
    return [round(place * (count - 1) / max(1, most - 1)) for place in range(most)]


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def peak_memory(device: str) -> int:
    """Bytes that this process had at most so far, on the device."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated())
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
