"""How the commands read what they are given. Nothing here takes long: the work is imported once the line is read."""

from __future__ import annotations

import inspect
import io
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TypeVar

import tyro

from fit3d_ns.common.console import logger
from fit3d_ns.common.errors import EXIT_INTERRUPTED
from fit3d_ns.common.version import installed_version

Arguments = TypeVar("Arguments")

MORE = "Also: --version; --tyro-print-completion bash|zsh|fish, for completion in the shell (docs/options.md)."
"""Under what a command says of itself."""
_COMPLETION = "--tyro-print-completion"


def read_arguments(kind: type[Arguments], prog: str, words: Sequence[str] | None = None) -> Arguments:
    """The arguments of a command that has no sub-commands; prints and exits on --help and --version.

    Args:
        kind: a dataclass; its docstrings are the help.
        prog: the command's name.
        words: of the command line; None: those of this process.
    """
    described = description(inspect.getdoc(kind) or "")
    with reading(words):
        return tyro.cli(kind, prog=prog, description=described, args=None if words is None else list(words))


def description(text: str) -> str:
    """What a command says of itself, with what all have."""
    return f"{text}\n\n{MORE}"


@contextmanager
def reading(words: Sequence[str] | None = None) -> Iterator[None]:
    """Around tyro's reading of a command line: prints and exits on --version, and mends its scripts for completion."""
    given = sys.argv[1:] if words is None else words
    if "--version" in given:
        print(f"fit3d {installed_version()}")
        raise SystemExit(0)
    if not given or given[0] != _COMPLETION:
        yield
        return
    script = io.StringIO()
    try:
        with redirect_stdout(script):
            yield
    finally:
        print(one_line_each(script.getvalue()), end="")


def one_line_each(script: str) -> str:
    """tyro's completion script with each option's help in one line.

    The script prints a candidate a line, with its help behind it; bash takes what follows a line break in there for one
    more candidate, and so completes nothing.
    """
    return "".join(
        line.replace("\\n", " ") if line.startswith("COMPLETION_SPEC = ") else line
        for line in script.splitlines(keepends=True)
    )


@contextmanager
def resumable() -> Iterator[None]:
    """Around the work of a command that goes on when it is given again: Ctrl-C and SIGTERM say so and end it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        logger.warning("stopped; the same command goes on from there")
        raise SystemExit(EXIT_INTERRUPTED) from None
