"""What is installed from a wheel, without the clone: both packages whole, and the light half without nerfstudio."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.test_package import declared_version

ROOT = Path(__file__).parent.parent
UV = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
BLOCKED = "import sys; sys.modules['nerfstudio'] = None; "


def done(words: list[str], **options: object) -> str:
    found = subprocess.run(words, capture_output=True, text=True, timeout=300, **options)  # type: ignore[call-overload]
    assert found.returncode == 0, found.stdout + found.stderr
    return str(found.stdout)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves a folder build/ where it builds."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("fit3d_ns", "fit3d_finetune"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    words = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    done([*words, str(source)])
    [found] = folder.glob("fit3d-*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the wheel's content."""
    folder = tmp_path_factory.mktemp("site")
    done([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), str(wheel)])
    return folder


def python(installed: Path, code: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    return done([sys.executable, "-c", code], cwd=folder, env=environment)


def test_every_source_and_what_goes_with_it_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    ours = {
        path.relative_to(ROOT).as_posix()
        for package in ("fit3d_ns", "fit3d_finetune")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert ours - names == set()
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "examples"))]
    assert any(name.endswith("/LICENSE") for name in names)


def test_its_metadata_is_what_a_registry_shows(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = Parser().parsestr(archive.read(name).decode())
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Author"]
    assert metadata.get_all("Project-URL")
    pythons = {line.rpartition(" ")[2] for line in metadata.get_all("Classifier", []) if ":: 3." in line}
    low, high = sorted(int(part) for part in re.findall(r"3\.(\d+)", metadata["Requires-Python"]))
    assert pythons == {f"3.{minor}" for minor in range(low, high)}


def test_both_packages_come_from_it_and_know_their_version(installed: Path, tmp_path: Path) -> None:
    code = "import fit3d_ns, fit3d_finetune; print(fit3d_ns.__version__, fit3d_ns.__file__, fit3d_finetune.__file__)"
    version, *places = python(installed, code, tmp_path).split()
    assert version == declared_version()
    assert all(Path(place).is_relative_to(installed) for place in places)


@pytest.mark.parametrize("command", ["finetune", "probe", "data"])
def test_the_light_half_runs_without_nerfstudio(command: str, installed: Path, tmp_path: Path) -> None:
    code = f"from fit3d_finetune.commands.{command} import main; sys.argv = ['fit3d', '--help']; main()"
    assert "usage" in python(installed, BLOCKED + code, tmp_path).lower()


def test_nerfstudio_finds_the_methods_by_its_entry_points(installed: Path, tmp_path: Path) -> None:
    code = (
        "from importlib.metadata import distributions; "
        f"[own] = [d for d in distributions(path=[{str(installed)!r}]) if d.name == 'fit3d']; "
        "found = [e.load() for e in own.entry_points if e.group == 'nerfstudio.method_configs']; "
        "print(*sorted(one.config.method_name for one in found))"
    )
    pytest.importorskip("nerfstudio")
    assert python(installed, code, tmp_path).split()[-3:] == [
        "fit3d-features",
        "fit3d-features-fast",
        "fit3d-features-paper",
    ]


@pytest.mark.slow
def test_in_a_clean_environment_the_light_half_trains_and_probes(wheel: Path, tmp_path: Path) -> None:
    """With what the wheel alone brings: no nerfstudio."""
    from tests.fit3d_finetune.probing.scenes import write_scene
    from tests.fit3d_finetune.scenes import write_export

    if UV is None:
        pytest.skip("needs uv to make an environment in seconds")
    home = tmp_path / "clean"
    done([UV, "venv", "-q", "--python", sys.executable, str(home)])
    # Of the lock, so that what is installed is what was tested; torch's parts for GPUs come along.
    locked = ["--constraint", str(ROOT / "requirements.txt")]
    done([UV, "pip", "install", "-q", "--python", str(home / "bin" / "python"), *locked, str(wheel)])
    for seed, name in enumerate(("attic", "barn")):
        write_export(tmp_path / "runs" / name, seed=seed)
    write_scene(tmp_path / "room")
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def run(name: str, *words: str) -> str:
        return done([str(home / "bin" / name), *words], cwd=tmp_path, env=environment)

    assert run("python", "-c", "import importlib.util as u; print(u.find_spec('nerfstudio'))") == "None\n"
    run("fit3d-finetune", "--exports", "runs", "--output-dir", "finetuned", "--epochs", "1", "--tracker", "none")
    run("fit3d-probe", "--finetuned", "finetuned", "--test-data", "room", "--tasks", "consistency")
    assert (tmp_path / "probe" / "report.html").is_file()
    refused = subprocess.run(
        [str(home / "bin" / "fit3d-export"), "--load-config", "config.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: fit3d-export needs nerfstudio, which is not installed here")


def test_the_citation_names_this_version() -> None:
    assert re.findall(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE) == [declared_version()]
