"""Paths that stand in files of others."""

from __future__ import annotations

import os
from typing import Any

LONGEST_PATH, LONGEST_NAME = 4096, 255
"""In bytes, what Linux takes."""


def path_fault(value: Any) -> str | None:
    """What is wrong with a value that should be the path of a file, as "is 5, not a path"; None if nothing is.

    Whether the file is there is not looked at.
    """
    if not isinstance(value, str):
        return f"is {str(value)[:40]}, not the path of a file"
    if not value or value.isspace():
        return "is empty"
    if "\0" in value:
        return "has a zero byte in it"
    try:
        encoded = os.fsencode(value)
    except UnicodeEncodeError:
        return "is no text that can be a path"
    if len(encoded) > LONGEST_PATH or any(len(part) > LONGEST_NAME for part in encoded.split(b"/")):
        return f"is longer than a path can be ({len(value)} characters)"
    return None
