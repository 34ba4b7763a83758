"""Rates that commands had on this machine, for the next one's --dry-run: a small JSON file of the cache folder."""

from __future__ import annotations

import json
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

from fit3d_ns.common.atomic import atomic_file
from fit3d_ns.common.cores import usable_cores
from fit3d_ns.common.file_lock import locked_file
from fit3d_ns.common.json_input import parse_json
from fit3d_ns.common.output_place import default_cache_dir

KEPT = 50
"""Entries of a command; the oldest go."""

Entry = dict[str, Any]


def keep_rate(command: str, **values: Any) -> None:
    """Remember what a run of a command took. Where that cannot be written the run is as good without.

    Args:
        command: its name.
        values: that JSON holds: figures, and what they are comparable by.
    """
    path = _file(command)
    with suppress(OSError, ValueError):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = locked_file(path.with_suffix(".lock"))
        try:
            entries = [*_read(path), {**_machine(), **values}][-KEPT:]
            with atomic_file(path) as temporary:
                temporary.write_text(json.dumps(entries, indent=1) + "\n")
        finally:
            os.close(lock)


def kept_rates(command: str, **alike: Any) -> list[Entry]:
    """What was remembered of a command on this machine, of runs with these values, oldest first."""
    wanted = json.loads(json.dumps({**_machine(), **alike}))  # tuples are lists there
    return [entry for entry in _read(_file(command)) if all(entry.get(name) == wanted[name] for name in wanted)]


def _machine() -> Entry:
    return {"machine": platform.node(), "cores": usable_cores()}


def _file(command: str) -> Path:
    return default_cache_dir() / "rates" / f"{command}.json"


def _read(path: Path) -> list[Entry]:
    with suppress(OSError, ValueError):
        entries = parse_json(path.read_bytes())
        if isinstance(entries, list):
            return [entry for entry in entries if isinstance(entry, dict)]
    return []
