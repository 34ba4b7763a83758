"""What lies in folders, before and after something that must write nothing."""

from __future__ import annotations

from pathlib import Path


def listed(*folders: Path) -> dict[Path, tuple[int, int] | None]:
    """Every file with its size and time of change, and every folder: an output place may be tried, so not its time."""
    return {
        path: (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else None
        for folder in folders
        for path in folder.rglob("*")
    }


def figures(printed: str) -> dict[str, str]:
    """What --dry-run prints, by the words before the colon."""
    return {line.partition(":")[0].strip(): line.partition(": ")[2] for line in printed.splitlines()}
