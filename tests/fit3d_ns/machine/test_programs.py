"""Programs that are missing, and who needs them."""

from __future__ import annotations

import pytest

from fit3d_ns.machine import programs
from fit3d_ns.machine.programs import find_programs


def test_a_missing_compiler_is_a_fault_where_kernels_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs.shutil, "which", lambda _: None)
    for compiles in (True, False):
        found = {finding.name: finding for finding in find_programs(compiles)}
        assert found["C++ compiler"].fault == compiles
        assert "apt-get install g++" in found["C++ compiler"].problem
        assert not found["ffmpeg"].fault
        for optional in ("colmap", "chromium"):  # few things use them: no note
            assert not found[optional].problem
        assert "ns-process-data without --skip-colmap" in found["colmap"].value


def test_any_compiler_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs.shutil, "which", lambda name: "/opt/clang++" if name == "clang++" else None)
    assert find_programs(True)[0].value == "/opt/clang++"
    assert not find_programs(True)[0].problem
