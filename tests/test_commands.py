"""Manners of the console scripts: help, version and completion at once, and none of them imports what takes long."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fit3d_ns.common.version import installed_version

ROOT = Path(__file__).parent.parent
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
HEAVY = ("cv2", "gsplat", "nerfstudio", "numba", "scipy", "timm", "torch")

RUN = """
import importlib, sys
target, *sys.argv = sys.argv[1:]
module, _, function = target.partition(":")
code = None
try:
    getattr(importlib.import_module(module), function)()
except SystemExit as stop:
    code = stop.code
print("IMPORTED", *sorted(set(HEAVY) & set(sys.modules)), file=sys.stderr)
sys.exit(code)
"""


def call(name: str, *words: str) -> tuple[str, list[str]]:
    """What a console script prints on these words, and which heavy packages it imported; it must end with 0."""
    code = f"HEAVY = {HEAVY!r}\n{RUN}"
    command = [sys.executable, "-c", code, SCRIPTS[name], name, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    [said] = [line for line in done.stderr.splitlines() if line.startswith("IMPORTED")]
    return done.stdout, said.split()[1:]


def test_a_heavy_import_would_be_noticed(tmp_path: Path) -> None:
    code = f"HEAVY = {('json',)!r}\n{RUN}"
    command = [sys.executable, "-c", code, "json.tool:main", "json.tool", "--help"]
    assert "IMPORTED json" in subprocess.run(command, capture_output=True, text=True, timeout=60).stderr


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_help_is_there_without_heavy_imports(name: str) -> None:
    shown, imported = call(name, "--help")
    assert name in shown
    assert "--version" in shown
    assert imported == []


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_the_version_is_there_without_heavy_imports(name: str) -> None:
    shown, imported = call(name, "--version")
    assert shown == f"fit3d {installed_version()}\n"
    assert imported == []


def test_help_of_a_subcommand_imports_nothing_heavy_either() -> None:
    shown, imported = call("fit3d-data", "check", "--help")
    assert "KIND" in shown.upper()
    assert imported == []


@pytest.mark.parametrize("name", sorted(SCRIPTS))
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_that_the_shell_takes_and_imports_nothing_heavy(
    name: str, shell: str, tmp_path: Path
) -> None:
    script, imported = call(name, "--tyro-print-completion", shell)
    assert imported == []
    assert name in script
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    (tmp_path / f"_{name}").write_text(script)
    subprocess.run([shell, "-n", f"_{name}"], check=True, cwd=tmp_path)
    if shell == "bash":
        assert completed(tmp_path, name, "--hel") == ["--help"]
    if shell == "zsh":
        loaded = "fpath=($PWD $fpath); autoload -U compinit; compinit -D -u; print $_comps[$1]"
        done = subprocess.run(["zsh", "-fc", loaded, "zsh", name], cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout == f"_{name}\n", done.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("fit3d-finetune", "--exp"), ["--exports"]),
        (("fit3d-finetune", "--preset", "p"), ["paper"]),
        (("fit3d-capture", "--matching", "s"), ["sequential"]),
        (("fit3d-data", "ch"), ["check"]),
    ],
)
def test_bash_completes_options_their_values_and_subcommands(
    words: tuple[str, ...], expected: list[str], tmp_path: Path
) -> None:
    name = words[0]
    (tmp_path / f"_{name}").write_text(call(name, "--tyro-print-completion", "bash")[0])
    assert completed(tmp_path, *words) == expected


def completed(folder: Path, *words: str) -> list[str]:
    """What bash offers for the last word, by the script `_NAME` in a folder."""
    code = """
        source "./_$1"
        function=$(complete -p "$1"); function=${function#*-F }; function=${function%% *}
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); "$function" "$1" "${@: -1}" "${@: -2:1}"
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", code, "bash", *words], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    return sorted(line.strip() for line in done.stdout.splitlines() if line.strip())
