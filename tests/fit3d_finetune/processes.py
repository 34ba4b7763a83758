"""`fit3d-finetune` in processes of its own, forked from one that has imported everything already."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["fit3d_finetune.commands.finetune"])


class NoNerfstudio:
    """Makes nerfstudio unimportable."""

    def find_spec(self, name: str, *_: object) -> None:
        if name.partition(".")[0] == "nerfstudio":
            raise ImportError("nerfstudio must not be imported here")


def start(arguments: list[str], cache_dir: Path, output: Path) -> BaseProcess:
    """Start the command without nerfstudio; `output` gets what it prints and, at its end, its peak memory."""
    process = _CONTEXT.Process(target=_command, args=(arguments, str(cache_dir), str(output)))
    process.start()
    return process


def finish(arguments: list[str], cache_dir: Path, output: Path) -> int | None:
    """Run the command to its end; returns its exit code."""
    process = start(arguments, cache_dir, output)
    process.join()
    return process.exitcode


def peak_kilobytes(output: Path) -> int:
    """The peak memory of a command that came to its end."""
    return int(output.read_text().splitlines()[-1].removeprefix("peak "))


def _command(arguments: list[str], cache_dir: str, output: str) -> None:
    target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(target, descriptor)
    os.environ["FIT3D_CACHE_DIR"] = cache_dir
    assert "nerfstudio" not in sys.modules
    sys.meta_path.insert(0, NoNerfstudio())  # type: ignore[arg-type]
    sys.argv = ["fit3d-finetune", *arguments]
    from fit3d_finetune.commands.finetune import main

    main()
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)
