"""A scene's name, which is also its folder's: one plain path component."""

from __future__ import annotations

import os
import unicodedata

from fit3d_ns.common.errors import InputError

MAX_BYTES = 255
"""What common file systems take; that a given one takes it is found when its folder is tried."""

_PUNCTUATION = frozenset("._- ")


def require_scene_name(name: str, source: str, remedy: str) -> str:
    """The name, if it can be the folder of a scene: letters, digits, `.`, `_`, `-` and spaces, no leading dot.

    Args:
        name: as it was read or given.
        source: what it is, to begin the message with: an option, or a file and its field.
        remedy: what to do, to end the message with.

    Raises:
        InputError: it is not.
    """
    fault = _fault(name)
    if fault is not None:
        raise InputError(
            f"{source} is {name!r}, which {fault}: a scene's name is one folder name of letters, digits, '.', '_', "
            f"'-' and spaces; {remedy}."
        )
    return name


def _fault(name: str) -> str | None:
    if not name:
        return "is empty"
    for character in name:
        # Marks belong to the letters of many scripts, and to accents in macOS's spelling of file names.
        if character not in _PUNCTUATION and unicodedata.category(character)[0] not in "LMN":
            return f"has {character!r} in it"
    if name[0] == ".":
        return "begins with a dot"
    if name != name.strip():
        return "begins or ends with a space"
    if len(os.fsencode(name)) > MAX_BYTES:
        return f"takes more than {MAX_BYTES} bytes"
    return None
