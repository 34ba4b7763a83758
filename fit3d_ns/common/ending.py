"""How a command ends that could not do its work: one sentence, and an exit code that says whose fault it was.

2: the input's, 1: the program's or the machine's (the traceback is in a log file that the sentence names), 130: it was
stopped.
"""

from __future__ import annotations

import functools
import os
import platform
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fit3d_ns.common.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_UNEXPECTED, InputError, end, one_line
from fit3d_ns.common.output_place import default_cache_dir
from fit3d_ns.common.version import installed_version

LOGS = "logs"
"""Folder of the logs, in the cache."""
_KEPT = 20
_LONGEST = 300


def ends_in_one_sentence(main: Callable[[], None]) -> Callable[[], None]:
    """For a console script: whatever leaves `main` becomes one sentence on stderr and an exit code."""

    @functools.wraps(main)
    def wrapper() -> None:
        try:
            main()
        except InputError as error:
            end(f"error: {error}", EXIT_BAD_INPUT, error)
        except KeyboardInterrupt as stopped:
            end("stopped", EXIT_INTERRUPTED, stopped)
        except BrokenPipeError as error:
            # Whoever read the output has gone; Python would complain once more when it closes the streams.
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            raise SystemExit(EXIT_UNEXPECTED) from error
        except Exception as error:
            log = _write_log(error)
            where = f"the traceback is in {log}; if it looks like a fault of fit3d, report it with that file"
            end(f"error: {_summary(error)} ({where})", EXIT_UNEXPECTED, error)

    return wrapper


def _summary(error: Exception) -> str:
    """What happened, on one line."""
    if isinstance(error, MemoryError):
        return "the memory was not enough"
    words, kind = one_line(error, _LONGEST), type(error).__name__
    return words if words == kind or (isinstance(error, OSError) and error.strerror) else f"{kind}: {words}"


def _write_log(error: Exception) -> Path | str:
    """Write the traceback with what was called and where; returns the file, or what to say instead of its name."""
    command = Path(sys.argv[0]).name
    text = (
        f"$ {shlex.join([command, *sys.argv[1:]])}\n"
        f"fit3d {installed_version()}, Python {platform.python_version()}, {platform.platform()}, in {os.getcwd()}\n\n"
        f"{''.join(traceback.format_exception(error))}"
    )
    name = f"{command}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    for folder in (default_cache_dir() / LOGS, Path(tempfile.gettempdir())):
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if folder.name == LOGS:
                for old in sorted(folder.glob("*.log"), key=lambda path: path.stat().st_mtime)[: 1 - _KEPT]:
                    old.unlink(missing_ok=True)
            (folder / name).write_text(text, errors="backslashreplace")
            return folder / name
    with suppress(OSError):
        print(text, file=sys.stderr)
    return "above, as no log could be written"
