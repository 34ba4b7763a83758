"""Folders and small files of data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fit3d_finetune.probing.data.codings import VOID
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.json_input import parse_json

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def by_stem(folder: Path) -> dict[str, Path]:
    """The images of a folder, by their names without the ending; none if it is not there."""
    if not folder.is_dir():
        return {}
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES}


def read_json(path: Path) -> Any:
    """Raises: InputError: it cannot be read, or is no JSON."""
    try:
        return parse_json(path.read_text())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}).") from error


def read_lines(path: Path) -> list[str]:
    """The lines that are not empty, without space around them.

    Raises:
        InputError: it cannot be read as text.
    """
    try:
        return [line for raw in path.read_text().splitlines() if (line := raw.strip())]
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text file: give the data set's list.") from error


def read_classes(folder: Path, required: bool) -> tuple[str, ...]:
    """Class names of classes.json; none if it is not there and not required.

    Raises:
        InputError: it is missing, or no list of at most 255 names.
    """
    path = folder / "classes.json"
    if not path.is_file():
        if required:
            raise InputError(f"{folder} has labels but no classes.json: write the list of class names in index order.")
        return ()
    names = read_json(path)
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path} must be a list of class names in index order.")
    if len(names) > VOID:
        raise InputError(f"{path} lists {len(names)} classes; at most {VOID} can be probed (index {VOID} is void).")
    return tuple(names)
