"""benchmarks/on_gpu.sh with programs in the place of Python and nvcc that only write down what they are asked."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "on_gpu.sh"


class Machine:
    """A machine with a GPU, as far as the script can tell."""

    def __init__(self, folder: Path, python: str = "") -> None:
        self.bin, self.calls = folder / "bin", folder / "calls"
        self.bin.mkdir()
        self.program("nvcc", "")
        self.program("python", f'case "$*" in *get_device_capability*) echo 9.0; exit;; esac\n{python}')

    def program(self, name: str, body: str) -> None:
        path = self.bin / name
        path.write_text(f'#!/bin/sh\necho "$TORCH_CUDA_ARCH_LIST" "$@" >>{self.calls}\n{body}\n')
        path.chmod(0o755)

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "CUDA_HOME"}
        environment |= {"PATH": f"{self.bin}:{os.environ['PATH']}", "PYTHON": str(self.bin / "python")}
        command = [str(SCRIPT), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    def asked(self, words: str) -> list[str]:
        """Calls that hold `words`."""
        return [line for line in self.calls.read_text().splitlines() if words in line]


def steps(output: Path) -> list[str]:
    return [line.split(":")[0] for line in (output / "times.txt").read_text().splitlines()]


def test_all_steps_run_in_order_for_the_gpus_architecture(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    done = machine.run(tmp_path / "out", "--stage1-steps", "700")
    assert done.returncode == 0, done.stderr
    assert steps(tmp_path / "out") == ["compile", "test", "cuda", "finetuning", "stage1"]
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"machine.txt", "compile.log", "stage1.log"}
    assert len(machine.asked("9.0 -m pytest -m gpu")) == 1
    [call] = machine.asked("--only stage1")
    assert "--stage1-steps 700" in call
    assert "--device cuda" in call
    assert f"--output {tmp_path}/out/stage1" in call


@pytest.mark.parametrize("says", [True, False])
def test_the_toolkit_is_where_nvcc_says_or_else_where_it_lies(says: bool, tmp_path: Path) -> None:
    machine, toolkit = Machine(tmp_path), tmp_path / "cuda-13.0"
    (toolkit / "bin").mkdir(parents=True)
    if says:
        machine.program("nvcc", f"echo '#$ TOP={toolkit}/bin/..' >&2")
    assert machine.run(tmp_path / "out", "--only", "test").returncode == 0
    expected = toolkit if says else tmp_path
    assert f"CUDA_HOME {expected}, architecture 9.0" in (tmp_path / "out" / "machine.txt").read_text()


def test_steps_can_be_left_out_or_chosen(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    assert machine.run(tmp_path / "a", "--skip", "compile,test,finetuning").returncode == 0
    assert steps(tmp_path / "a") == ["cuda", "stage1"]
    assert machine.run(tmp_path / "b", "--only", "test").returncode == 0
    assert steps(tmp_path / "b") == ["test"]


def test_a_step_that_fails_is_shown_and_the_others_run(tmp_path: Path) -> None:
    machine = Machine(tmp_path, 'case "$*" in *pytest*) echo "one test failed"; exit 1;; esac')
    done = machine.run(tmp_path / "out")
    assert done.returncode == 1
    assert "one test failed" in done.stdout
    assert "Failed: test" in done.stdout
    assert steps(tmp_path / "out")[-1] == "stage1"


def test_nothing_runs_where_gsplat_does_not_compile(tmp_path: Path) -> None:
    machine = Machine(tmp_path, 'case "$*" in *_backend*) exit 1;; esac')
    assert machine.run(tmp_path / "out").returncode == 1
    assert steps(tmp_path / "out") == ["compile"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Name a folder"),
        (["out", "--bogus"], "--bogus is no option"),
        (["out", "--skip", "test,gpu"], "There is no step gpu; choose from compile test cuda finetuning stage1."),
        (["out", "--only"], "--only needs a value"),
        (["out", "--stage1-steps", "many"], "--stage1-steps is many"),
        (["out", "--capture", "nowhere"], "--capture nowhere does not exist"),
        (["out", "again"], "Two output folders"),
    ],
)
def test_bad_options_are_one_sentence_and_exit_code_2(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    done = Machine(tmp_path).run(*arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (SCRIPT.parents[1] / "out").exists()


def test_a_machine_without_a_gpu_is_told_so(tmp_path: Path) -> None:
    machine = Machine(tmp_path, 'case "$*" in *is_available*) exit 1;; esac')
    done = machine.run(tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith("There is no CUDA device")
    assert not (tmp_path / "out").exists()
