"""The extras of pyproject.toml: the lock satisfies each, and the package index still has what they name."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
UV = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
GPU_ONLY = re.compile(r"triton|nvidia-|cuda-")
"""What `make setup` leaves out where there is no GPU."""


def unmet(requirements: list[str], extras: frozenset[str] = frozenset()) -> Iterator[str]:
    """What of these requirements, and of all that they require in turn, the environment does not satisfy."""
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(Requirement(text), extras, "pyproject.toml") for text in requirements]
    while waiting:
        requirement, around, asked_by = waiting.pop()
        contexts = [{"extra": extra} for extra in around or {""}]
        if requirement.marker is not None and not any(map(requirement.marker.evaluate, contexts)):
            continue
        try:
            found = distribution(requirement.name)
        except PackageNotFoundError:
            if not GPU_ONLY.match(requirement.name):
                yield f"{asked_by} wants {requirement}, which is not installed"
            continue
        if not requirement.specifier.contains(found.version, prereleases=True):
            yield f"{asked_by} wants {requirement}, installed is {found.version}"
        wanted = frozenset(requirement.extras)
        if (key := (requirement.name.lower(), wanted)) not in seen:
            seen.add(key)
            waiting += [(Requirement(text), wanted, requirement.name) for text in found.requires or []]


@pytest.mark.parametrize("extra", [None, *sorted(EXTRAS.keys() - {"tracking"})])  # wandb is not in the lock
def test_the_pinned_versions_satisfy_it(extra: str | None) -> None:
    assert list(unmet(PROJECT["dependencies"] if extra is None else EXTRAS[extra])) == []


def test_what_is_not_satisfied_would_be_noticed() -> None:
    assert list(unmet(["pytest<1"])) == [f"pyproject.toml wants pytest<1, installed is {pytest.__version__}"]
    assert list(unmet(["no-such-package"])) == ["pyproject.toml wants no-such-package, which is not installed"]
    assert list(unmet(["no-such-package; python_version < '3'"])) == []


@pytest.mark.parametrize("extras", [["demo"], sorted(EXTRAS)], ids=["demo", "all"])
def test_the_package_index_still_resolves_it(extras: list[str], tmp_path: Path) -> None:
    if UV is None:
        pytest.skip("needs uv to ask the package index")
    chosen = [word for extra in extras for word in ("--extra", extra)]
    command = [UV, "pip", "compile", "--quiet", "pyproject.toml", *chosen, "--output-file", str(tmp_path / "all.txt")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    if done.returncode != 0 and re.search(r"[Ff]ailed to fetch|dns error|error sending request|connect", done.stderr):
        pytest.skip(f"the package index cannot be reached: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    assert "torch==" in (tmp_path / "all.txt").read_text()
