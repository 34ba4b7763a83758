"""How the commands read what they are given. Nothing here takes long: the work is imported once the line is read."""

from __future__ import annotations

import inspect
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import tyro

from fit3d_ns.common.console import logger
from fit3d_ns.common.errors import EXIT_INTERRUPTED
from fit3d_ns.common.version import installed_version

Arguments = TypeVar("Arguments")

MORE = "Also: --version; --tyro-print-completion bash|zsh|fish, for completion in the shell (docs/options.md)."
"""Under what a command says of itself."""


def read_arguments(kind: type[Arguments], prog: str, words: Sequence[str] | None = None) -> Arguments:
    """The arguments of a command that has no sub-commands; prints and exits on --help and --version.

    Args:
        kind: a dataclass; its docstrings are the help.
        prog: the command's name.
        words: of the command line; None: those of this process.
    """
    answer_version(words)
    described = description(inspect.getdoc(kind) or "")
    return tyro.cli(kind, prog=prog, description=described, args=None if words is None else list(words))


def description(text: str) -> str:
    """What a command says of itself, with what all have."""
    return f"{text}\n\n{MORE}"


def answer_version(words: Sequence[str] | None = None) -> None:
    """Print the version and exit, if it is asked for."""
    if "--version" in (sys.argv[1:] if words is None else words):
        print(f"fit3d {installed_version()}")
        raise SystemExit(0)


@contextmanager
def resumable() -> Iterator[None]:
    """Around the work of a command that goes on when it is given again: Ctrl-C and SIGTERM say so and end it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        logger.warning("stopped; the same command goes on from there")
        raise SystemExit(EXIT_INTERRUPTED) from None
