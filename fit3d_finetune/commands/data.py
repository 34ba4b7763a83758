"""fit3d-data: what lies in a data set, what is missing, and what it can be probed for.

`fit3d-data list`, `fit3d-data check nyu-depth /data/nyu/nyu_test.txt`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fit3d_ns.common.command_line import description, reading
from fit3d_ns.common.console import CONSOLE, logger
from fit3d_ns.common.ending import ends_in_one_sentence
from fit3d_ns.common.third_parties import quiet_third_parties


@dataclass
class Check:
    """Say what is there, what is missing and what to do; exit code 2 if it cannot be probed."""

    kind: Annotated[str, tyro.conf.Positional]
    """Of the data set; `fit3d-data list` shows all."""
    root: Annotated[Path, tyro.conf.Positional]
    """What `fit3d-probe --test-data KIND:ROOT` is given: a split, a list, or a folder."""


@dataclass
class List:
    """Show the kinds of data sets and how each lies."""


def run(arguments: Check | List) -> None:
    """Do what the arguments say."""
    from rich.table import Table

    from fit3d_finetune.probing.data.inspection import check, kinds

    if isinstance(arguments, List):
        shown = Table("kind", "what")
        for name, what in kinds().items():
            shown.add_row(name, what)
        CONSOLE.print(shown)
        return
    CONSOLE.print(check(arguments.kind, arguments.root))
    logger.info("Nothing is missing: fit3d-probe --test-data %s:%s", arguments.kind, arguments.root)


def parse(words: Sequence[str] | None = None) -> Check | List:
    """The arguments of the command line."""
    described = description("What lies in a data set, what is missing, and what it can be probed for.")
    with reading(words):
        return tyro.extras.subcommand_cli_from_dict(
            {"check": Check, "list": List}, prog="fit3d-data", description=described, args=words
        )


@ends_in_one_sentence
def main() -> None:
    """Console script `fit3d-data`."""
    arguments = parse()
    quiet_third_parties()
    run(arguments)


if __name__ == "__main__":
    main()
