"""fit3d-doctor: what it prints, and its exit code."""

from __future__ import annotations

import json
import sys

import pytest

from fit3d_ns.commands import doctor
from fit3d_ns.commands.doctor import DoctorArguments, main, report, run
from fit3d_ns.machine.finding import Finding

FINE = Finding("packages", "torch", "2.15.0")
NOTE = Finding("programs", "colmap", "not found", "no colmap: apt-get install colmap.", needed=False)
FAULT = Finding("packages", "numba", "0.70", "numba 0.70 is wrong: pip install 'numba<0.69'.")


def test_this_environment_is_looked_at_whole(capsys: pytest.CaptureFixture[str]) -> None:
    run(DoctorArguments(json=True))
    found = json.loads(capsys.readouterr().out)
    names = {finding["name"] for finding in found["findings"]}
    assert names >= {"python", "fit3d", "torch", "timm", "nerfstudio", "gsplat", "numba", "cores", "memory", "ffmpeg"}
    assert names >= {"C++ compiler", "cache", "compiled kernels"}
    assert found["ok"] == (not any(finding["fault"] for finding in found["findings"]))
    for finding in found["findings"]:
        assert not finding["problem"] or (finding["problem"].endswith(".") and "\n" not in finding["problem"])


@pytest.mark.parametrize(
    ("findings", "code", "verdict"),
    [
        ([FINE, NOTE], None, "Everything that is needed is there; 1 note."),
        ([FINE, FAULT, NOTE], 1, "1 wrong; 1 note."),
    ],
)
def test_the_exit_code_says_whether_all_is_there(
    findings: list[Finding],
    code: int | None,
    verdict: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(doctor, "look", lambda: findings)
    monkeypatch.setattr(sys, "argv", ["fit3d-doctor"])
    if code is None:
        main()
    else:
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == code
    assert capsys.readouterr().out.splitlines()[-1] == verdict


def test_a_problem_stands_under_what_it_is_about() -> None:
    lines = report([FINE, FAULT, NOTE]).splitlines()
    place = next(i for i, line in enumerate(lines) if "0.70" in line)
    assert "WRONG" in lines[place + 1]
    assert FAULT.problem in lines[place + 1]
    assert lines.index("packages") < place < lines.index("programs")
