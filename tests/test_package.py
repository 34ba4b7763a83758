"""What the package says about itself: one version, what it needs, and what it exports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

import fit3d_finetune
import fit3d_ns

ROOT = Path(__file__).parent.parent
PACKAGES = ("fit3d_ns", "fit3d_finetune")


def project_text() -> str:
    return (ROOT / "pyproject.toml").read_text()


def declared_version() -> str:
    found = re.findall(r'^version = "(.+)"$', project_text(), re.MULTILINE)
    assert len(found) == 1
    return str(found[0])


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def test_the_version_is_that_of_the_installed_package() -> None:
    source = distribution("fit3d").read_text("direct_url.json") or ""
    if f'"{ROOT.as_uri()}"' not in source:
        pytest.skip(f"the fit3d that is installed is not this folder's ({source.strip() or 'a wheel'})")
    assert fit3d_ns.__version__ == declared_version(), "install this folder again (make setup)"


def test_a_source_tree_that_was_never_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    assert fit3d_ns.__version__ == "0+unknown"


def test_the_version_stands_in_pyproject_alone() -> None:
    """A second literal would be forgotten at the next release."""
    declared = declared_version()
    for package in (*PACKAGES, "benchmarks"):
        for path in (ROOT / package).rglob("*.py"):
            texts = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
            assert declared not in texts, path


def test_the_changelog_begins_with_this_version() -> None:
    headings = re.findall(r"^## (\d\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == declared_version()
    assert headings == sorted(headings, key=numbers, reverse=True)


@pytest.mark.parametrize("package", [fit3d_ns, fit3d_finetune])
def test_every_exported_name_is_there_and_no_other_is(package: object) -> None:
    names: list[str] = package.__all__  # type: ignore[attr-defined]
    assert names == sorted(names, key=lambda name: (name[0].islower(), name))
    for name in names:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing  # type: ignore[attr-defined]


def test_importing_the_packages_imports_nothing_else_of_weight() -> None:
    heavy = "{'torch', 'numba', 'timm', 'numpy', 'nerfstudio'}"
    code = f"import fit3d_ns, fit3d_finetune, sys; print(sorted({heavy} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("package", ["numba", "llvmlite"])
def test_what_the_kernels_are_made_with_is_capped_right_above_the_locked_minor_version(package: str) -> None:
    """They use numba's inner parts, which any minor version may change: a new one is tried before it is let in."""
    locked = re.search(rf"^{package}==(\d+\.\d+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    cap = re.search(rf'"{package}>=[\d.]+,<([\d.]+)"', project_text())
    assert locked is not None
    assert cap is not None
    major, minor = numbers(locked[1])
    assert numbers(cap[1]) == (major, minor + 1)


def test_gsplat_and_nerfstudio_are_pinned_to_the_pair_that_the_overrides_were_written_for() -> None:
    lock = (ROOT / "requirements.txt").read_text()
    for pin in ("gsplat==1.4.0", "nerfstudio==1.1.5"):
        assert f"\n{pin}\n" in lock
        assert f"\n{pin}\n" in (ROOT / "requirements.in").read_text()
    assert '"gsplat==1.4.0"' in project_text()
