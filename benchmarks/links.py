"""Folders of links: what a command reads, gathered from where it lies."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def link_all(folder: Path, targets: Iterable[Path]) -> None:
    """Make a folder that holds links of their own names to other places, which need not be there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for target in targets:
        link = folder / target.name
        if not link.is_symlink():
            link.symlink_to(target)
