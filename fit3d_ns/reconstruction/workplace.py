"""The output folder while a capture is made: the work is in a hidden folder inside, results appear in the end."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fit3d_ns.common.atomic import atomic_file
from fit3d_ns.common.console import logger
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.file_lock import locked_file
from fit3d_ns.common.json_input import parse_json

WORK_FOLDER = ".fit3d-capture-work"
SUMMARY_FILE = "capture.json"
SUMMARY_FORMAT = "fit3d-capture"

_STATE_FILE = "state.json"
_LOCK_FILE = "lock"
_COMMAND = "fit3d-capture"


class Workplace:
    """The work folder of one output folder; see `open_workplace`."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = output / WORK_FOLDER
        self.state: dict[str, Any] = {}
        self.finished = False
        """Whether an earlier run had all but put its results in place, which is done now."""

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def database(self) -> Path:
        return self.folder / "database.db"

    @property
    def result(self) -> Path:
        return self.folder / "result"

    def fresh_folder(self, name: str) -> Path:
        """An empty folder in the work folder."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def save(self, **values: Any) -> None:
        """Remember values for the run that goes on after this one."""
        self.state |= values
        with atomic_file(self.folder / _STATE_FILE) as temporary:
            temporary.write_text(json.dumps(self.state))

    def publish(self, moves: Sequence[tuple[str, str]]) -> None:
        """Move results to the output folder, in this order, and remove the work folder.

        Who is killed on the way goes on here when the command is given again.

        Args:
            moves: path in the work folder, name in the output folder.
        """
        self.save(moves=[list(move) for move in moves])
        self._finish()

    def _finish(self) -> None:
        # An old capture goes as a whole before the new one comes; transforms.json is the last to come.
        for name in self.state.get("replaced", []):
            _remove(self.output / name)
        self.save(replaced=[])
        for source, name in self.state["moves"]:
            if (self.folder / source).exists():
                os.rename(self.folder / source, self.output / name)
        shutil.rmtree(self.folder)
        self.finished = True


def key_of(*values: Any) -> str:
    """What tells one task from another, from values that JSON can hold."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def check_workplace(output: Path, key: str, overwrite: bool, option: str = "--output-dir") -> str:
    """Check what `open_workplace` would, and change nothing.

    Returns:
        what would be found: "" (nothing), or what an earlier run for the same task left, in words.

    Raises:
        InputError: as `open_workplace`.
    """
    place = Workplace(Path(os.path.abspath(output)))
    state = _read_state(place)
    if (place.folder / _LOCK_FILE).is_file():
        with _locked(place, option):
            pass
    if "moves" in state and state.get("key") == key:
        return "all but in place: a start finishes at once"
    if "moves" not in state:
        _require_fit(place, overwrite, option)
    elif not overwrite:  # another task's, which a start puts in place first
        raise _taken(place, option)
    return "begun: a start goes on with it, and takes less" if state.get("key") == key else ""


@contextmanager
def open_workplace(output: Path, key: str, overwrite: bool, option: str = "--output-dir") -> Iterator[Workplace]:
    """The work folder for a task: as an earlier run for the same task left it, else empty.

    It stays when the work is interrupted. It goes, and with it an output folder that was made for it, when an
    `InputError` says that nothing will come of it.

    Args:
        output: folder of the results.
        key: of the task; the work of another task is thrown away.
        overwrite: whether a capture that this command made before may be replaced.
        option: that named the folder, for messages.

    Raises:
        InputError: the folder holds something else, or another process works there.
    """
    place = Workplace(Path(os.path.abspath(output)))
    if "moves" in _read_state(place):
        with _locked(place, option):
            place.state = _read_state(place)
            place._finish()
        if place.state["key"] == key:
            yield place
            return
        place = Workplace(place.output)
    made = not place.output.exists()
    replaced = _require_fit(place, overwrite, option)
    place.folder.mkdir(parents=True, exist_ok=True)
    with _locked(place, option):
        place.state = _read_state(place)
        if place.state.get("key") == key:
            logger.info("Going on with what an earlier run left in %s", place.folder)
            place.save(replaced=replaced)
        else:
            if place.state:
                logger.info("The photos or options are others than those of an earlier run: starting again")
            made = place.state.get("made", made)
            place.state = {}
            for entry in place.folder.iterdir():
                if entry.name != _LOCK_FILE:
                    _remove(entry)
            place.save(key=key, made=made, replaced=replaced)
        try:
            yield place
        except InputError:
            shutil.rmtree(place.folder, ignore_errors=True)
            if place.state.get("made"):
                with suppress(OSError):
                    place.output.rmdir()
            raise


@contextmanager
def _locked(place: Workplace, option: str) -> Iterator[None]:
    """Keep other processes out of a work folder; the system lets go of it however this process ends."""
    try:
        handle = locked_file(place.folder / _LOCK_FILE, wait=False)
    except BlockingIOError as error:
        raise InputError(f"{option} {place.output}: another {_COMMAND} is at work there; wait for it.") from error
    try:
        yield
    finally:
        os.close(handle)


def _require_fit(place: Workplace, overwrite: bool, option: str) -> list[str]:
    """Names in the output folder that may be replaced.

    Raises:
        InputError: there are others.
    """
    if not place.output.is_dir():
        return []
    there = {entry.name for entry in place.output.iterdir()}
    state = _read_state(place)
    if WORK_FOLDER in there and not state and any(entry.name != _LOCK_FILE for entry in place.folder.iterdir()):
        raise InputError(f"{option} {place.output}: {place.folder} is not {_COMMAND}'s; give another place.")
    there.discard(WORK_FOLDER)
    if not there:
        return []
    ours = _files_of_capture(place.output)
    foreign = sorted(there - set(ours))
    if foreign:
        raise InputError(
            f"{option} {place.output} holds {foreign[0]}, which {_COMMAND} did not make: give a new or an empty folder."
        )
    if not overwrite:
        raise _taken(place, option)
    return ours


def _taken(place: Workplace, option: str) -> InputError:
    return InputError(f"{option} {place.output} holds a capture already: give another folder, or --overwrite.")


def _files_of_capture(folder: Path) -> list[str]:
    with suppress(OSError, ValueError):
        summary = parse_json((folder / SUMMARY_FILE).read_text())
        if summary.get("format") == SUMMARY_FORMAT:
            # Names alone: a path in a file that somebody changed must not lead out of the folder.
            return [name for name in summary["files"] if Path(name).name == name]
    return []


def _read_state(place: Workplace) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        state = parse_json((place.folder / _STATE_FILE).read_text())
        if isinstance(state, dict):
            return state
    return {}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
