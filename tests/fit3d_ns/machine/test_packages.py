"""Versions are held against the bounds of fit3d's own metadata."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any

import pytest

from fit3d_ns.machine import packages
from fit3d_ns.machine.finding import Finding
from fit3d_ns.machine.packages import find_imports, find_packages, required

REQUIREMENTS = ["numba<0.69,>=0.61", "timm>=1.0.12", 'peft>=0.21; extra == "lora"', 'pytest>=8; extra == "dev"']


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Installed packages by name, to be changed."""
    versions = {"fit3d": "9.9", "nerfstudio": "1.1.5", "numba": "0.68.1", "timm": "1.0.31", "peft": "0.21.0"}

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: REQUIREMENTS)
    return versions


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_an_environment_as_it_should_be_has_no_problem(installed: dict[str, str]) -> None:
    found = find_packages()
    assert [finding.problem for finding in found if finding.problem] == []
    assert "pytest" not in by_name(found)
    assert by_name(found)["numba"].value == "0.68.1"


@pytest.mark.parametrize(
    ("name", "version", "problem"),
    [
        (
            "numba",
            "0.70.0",
            "numba 0.70.0 is not a version that fit3d was made for (<0.69,>=0.61): pip install 'numba<",
        ),
        (
            "timm",
            "0.6.7",
            "timm 0.6.7 is not a version that fit3d was made for (>=1.0.12): pip install 'timm>=1.0.12'.",
        ),
        ("nerfstudio", "0.3.4", "pip install nerfstudio==1.1.5."),
    ],
)
def test_a_wrong_version_is_named_with_the_remedy(
    name: str, version: str, problem: str, installed: dict[str, str]
) -> None:
    installed[name] = version
    found = by_name(find_packages())[name]
    assert problem in found.problem
    assert found.fault


def test_what_is_missing_is_a_fault_only_where_it_is_needed(installed: dict[str, str]) -> None:
    for name in ("timm", "peft", "nerfstudio"):
        del installed[name]
    found = by_name(find_packages())
    assert found["timm"].fault
    assert found["timm"].problem == "timm is not installed: pip install 'timm>=1.0.12'."
    assert found["peft"].value == "not installed (extra lora)"
    assert not found["peft"].problem
    assert "docs/installing.md" in found["nerfstudio"].problem
    assert not found["nerfstudio"].fault


def test_an_extra_that_does_not_fit_is_said_and_is_no_fault(installed: dict[str, str]) -> None:
    installed["peft"] = "0.1"
    [found] = [finding for finding in find_packages() if finding.name == "peft"]
    assert "pip install 'peft>=0.21'" in found.problem
    assert not found.fault


def test_a_tree_that_is_not_installed_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    assert by_name(find_packages())["fit3d"].fault


def test_requirements_for_other_systems_do_not_count() -> None:
    assert required(['no-such-package>=1; sys_platform == "plan9"']) == []
    assert required(["no-such-package>=1; extra == 'cluster'"])[0].value == "not installed (extra cluster)"


def test_a_package_that_does_not_load_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    load = importlib.import_module

    def broken(name: str) -> Any:
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")
        return load(name)

    monkeypatch.setattr(packages.importlib, "import_module", broken)
    [found] = find_imports(("torch", "torchvision", "no-such-package"))
    assert "torchvision::nms does not exist" in found.problem
    assert "pair" in found.problem
    assert found.fault
