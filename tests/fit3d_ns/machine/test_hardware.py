"""Processor, memory and GPUs, from what the system says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fit3d_ns.machine import hardware
from fit3d_ns.machine.finding import Finding
from fit3d_ns.machine.hardware import cpu_flags, find_gpus, find_processor, memory


def test_flags_and_memory_are_read_as_linux_writes_them(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512f\nprocessor\t: 1\nflags\t\t: fpu\n")
    (tmp_path / "meminfo").write_text("MemTotal:  2000 kB\nMemAvailable:  500 kB\nHugePages_Total:  0\n")
    assert cpu_flags(tmp_path / "cpuinfo") == {"fpu", "avx2", "avx512f"}
    assert memory(tmp_path / "meminfo") == (2000 * 1024, 500 * 1024)


def test_a_system_that_does_not_tell_is_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cpu_flags(tmp_path / "none") == set()
    assert memory(tmp_path / "none") == (0, 0)
    monkeypatch.setattr(hardware, "memory", lambda: (0, 0))
    monkeypatch.setattr(hardware, "cpu_flags", set)
    assert [finding.problem for finding in find_processor() if finding.problem] == []


def test_little_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "memory", lambda: (10**9, 10**8))
    [found] = [finding for finding in find_processor() if finding.problem]
    assert "1.0 GB of memory" in found.problem


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(name="NVIDIA H100", total_memory=80 * 10**9, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)


def names(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.mark.usefixtures("gpu")
def test_a_gpu_without_the_toolkit_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda _: None)
    found = names(find_gpus())
    assert found["GPU 0"].value == "NVIDIA H100, 80 GB, sm_90"
    assert found["nvcc"].fault
    assert "CUDA_HOME" in found["nvcc"].problem


@pytest.mark.usefixtures("gpu")
def test_kernels_that_came_compiled_need_no_toolkit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda name: name)
    assert names(find_gpus())["gsplat's kernels"].value == "compiled"


def test_a_driver_without_a_gpu_in_torch_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(hardware, "nvidia_driver", lambda: "550.1")
    [found] = find_gpus()
    assert found.fault
    assert "550.1" in found.problem
    monkeypatch.setattr(hardware, "nvidia_driver", lambda: "")
    [found] = find_gpus()
    assert not found.problem
