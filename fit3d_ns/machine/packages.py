"""Which packages are installed, held against what fit3d's own metadata asks for."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
from collections.abc import Iterable

from fit3d_ns.common.errors import one_line
from fit3d_ns.common.version import installed_version
from fit3d_ns.machine.finding import Finding

GROUP = "packages"

NERFSTUDIO = "1.1.5"
"""The release that the method was written for (docs/overrides.md); not among fit3d's requirements."""

FOR_DEVELOPERS = frozenset({"dev", "docs"})
"""Extras that no command needs."""

IMPORTED = ("torch", "torchvision", "timm", "numba")
"""Packages of compiled code that may be installed and yet not load."""


def find_packages() -> list[Finding]:
    """Python, fit3d, and everything that it requires or that an extra of it adds."""
    python = Finding(GROUP, "python", platform.python_version())
    try:
        requirements = importlib.metadata.requires("fit3d") or []
    except importlib.metadata.PackageNotFoundError:
        problem = "fit3d is not installed, so what it requires is unknown: pip install . in its folder."
        return [python, Finding(GROUP, "fit3d", "not installed", problem), nerfstudio()]
    found = [python, Finding(GROUP, "fit3d", installed_version()), nerfstudio()]
    return [*found, *required(requirements)]


def required(requirements: Iterable[str]) -> list[Finding]:
    """Each requirement, as package metadata states them: "timm>=1.0.12", 'peft>=0.21; extra == "lora"'."""
    from packaging.requirements import Requirement

    found = []
    for line in requirements:
        requirement = Requirement(line)
        extra = _extra(line)
        if extra in FOR_DEVELOPERS:
            continue
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra or ""}):
            continue
        found.append(_finding(requirement.name, str(requirement.specifier), extra))
    return found


def _finding(name: str, bounds: str, extra: str | None) -> Finding:
    from packaging.specifiers import SpecifierSet

    needed, wanted = extra is None, name + bounds
    version = version_of(name)
    if version is None:
        if needed:
            problem = f"{name} is not installed: pip install '{wanted}'."
            return Finding(GROUP, name, "not installed", problem)
        return Finding(GROUP, name, f"not installed (extra {extra})", needed=False)
    if not SpecifierSet(bounds).contains(version, prereleases=True):
        problem = f"{name} {version} is not a version that fit3d was made for ({bounds}): pip install '{wanted}'."
        return Finding(GROUP, name, version, problem, needed)
    return Finding(GROUP, name, version, needed=needed)


def nerfstudio() -> Finding:
    """nerfstudio, which training scenes and reading runs need, and nothing else."""
    version = version_of("nerfstudio")
    if version is None:
        problem = (
            "nerfstudio is not installed: fine-tuning and probing do without; to train and export scenes see "
            "docs/installing.md."
        )
        return Finding(GROUP, "nerfstudio", "not installed", problem, needed=False)
    problem = ""
    if version != NERFSTUDIO:
        problem = f"nerfstudio {version} is not the one that fit3d was made for: pip install nerfstudio=={NERFSTUDIO}."
    return Finding(GROUP, "nerfstudio", version, problem)


def find_imports(names: Iterable[str] = IMPORTED) -> list[Finding]:
    """Those that are installed and cannot be imported."""
    found = []
    for name in names:
        if version_of(name) is None:
            continue
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a broken library throws
            reason = one_line(error)
            problem = (
                f"{name} is installed and cannot be imported ({reason}): reinstall it, and torch with torchvision as a "
                "pair of the same release."
            )
            found.append(Finding(GROUP, f"import {name}", "fails", problem))
    return found


def version_of(name: str) -> str | None:
    """Of an installed package; None: there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _extra(line: str) -> str | None:
    """The extra that a requirement belongs to."""
    _, marked, rest = line.partition("extra ==")
    return rest.strip().split('"' if '"' in rest else "'")[1] if marked else None
