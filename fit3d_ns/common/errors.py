"""Errors in what the user gave us, as one clear sentence and exit code 2."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

EXIT_UNEXPECTED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


class InputError(Exception):
    """The input is at fault, not the program.

    The message is one sentence that names the file or option, says what is wrong, and what to do.
    """


def one_line(error: BaseException, longest: int = 200) -> str:
    """What an exception says, on one line of at most this many characters; its type where it says nothing."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= longest else f"{words[:longest]}..."


def end(sentence: str, code: int, cause: BaseException) -> NoReturn:
    """Say a sentence on stderr, whatever letters are in it and whether or not anybody reads it, and exit."""
    with suppress(OSError):
        print(sentence.encode(errors="backslashreplace").decode(), file=sys.stderr, flush=True)
    raise SystemExit(code) from cause


def exits_on_input_error(function: Callable[P, R]) -> Callable[P, R]:
    """Turn an `InputError` that leaves `function` into its sentence on stderr and exit code 2."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except InputError as error:
            end(f"error: {error}", EXIT_BAD_INPUT, error)

    return wrapper
