"""Programs beside Python."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from fit3d_ns.machine.finding import Finding

GROUP = "programs"
COMPILERS = ("c++", "g++", "clang++")


def find_programs(compiles: bool) -> list[Finding]:
    """A C++ compiler, and what prepares captures and tests the viewer.

    Args:
        compiles: whether this machine compiles gsplat's kernels, so that nothing goes without the compiler.
    """
    use = (
        "gsplat compiles its kernels with one" if compiles else "fpsample and pyliblzfse of nerfstudio are built by one"
    )
    return [
        _program("C++ compiler", COMPILERS, f"{use}: apt-get install g++", needed=compiles),
        _program(
            "ffmpeg", ("ffmpeg",), "ns-process-data reads videos and resizes photos with it: apt-get install ffmpeg"
        ),
        _program("colmap", ("colmap",), only="ns-process-data without --skip-colmap uses it"),
        _program("chromium", ("chromium", "chromium-browser", "google-chrome"), only="browser tests use it"),
    ]


def _program(name: str, commands: Sequence[str], use: str = "", needed: bool = False, only: str = "") -> Finding:
    """Whether one of the commands is there.

    Args:
        use: what for, and how to install it: its absence is worth a note.
        only: instead, by what few things it is used: its absence is none.
    """
    path = next((found for command in commands if (found := shutil.which(command))), None)
    if path is not None:
        return Finding(GROUP, name, path, needed=needed)
    problem = f"no {name} on the PATH: {use}." if use else ""
    return Finding(GROUP, name, f"not found (only {only})" if only else "not found", problem, needed)
