"""A stand-in for the process of a scene, which every engine starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from fit3d_ns.scheduling import process
from fit3d_ns.scheduling.plan import Plan

STAND_IN = """
import json, os, pathlib, signal, sys, time
plan, scene, attempt = json.loads(pathlib.Path(sys.argv[1]).read_text()), sys.argv[2], int(sys.argv[3])
folder = pathlib.Path(plan["work_dir"]) / "scenes" / scene
folder.mkdir(parents=True, exist_ok=True)

def say(state):
    (folder / "status.new").write_text(json.dumps({"scene": scene, "state": state, "attempt": attempt}))
    (folder / "status.new").rename(folder / "status.json")

(folder / "threads").write_text(os.environ.get("OMP_NUM_THREADS", ""))
with open(folder / "starts", "a") as starts:
    starts.write(f"{os.getpid()} {attempt} {os.environ.get('NODE', '')}\\n")
say("training")
if scene == "killed" or (scene == "large" and attempt == 1):
    os.kill(os.getpid(), signal.SIGKILL)
if scene.startswith("slow"):
    began = time.monotonic()
    parent = os.getppid()
    while time.monotonic() - began < 60 and not (folder / "go").exists() and os.getppid() == parent:
        time.sleep(0.05)
    if os.getppid() != parent:
        sys.exit(1)
time.sleep(0.2)
say("done")
"""
"""Scenes by name: "killed" always is, "large" is in the first attempt; "slow…" waits for a file go, or its parent's
end."""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "worker.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(process, "WORKER", (str(script),))


def plan_of(folder: Path, *scenes: str, retry: tuple[str, ...] = ()) -> Plan:
    """A plan of scenes of these names; retry: its options for a second attempt."""
    return Plan(
        dict.fromkeys(scenes, "/data"), str(folder / "runs"), str(folder / "work"), "fit3d-features-fast", (), retry
    )


def starts_of(plan: Plan, scene: str) -> list[list[str]]:
    """Process id, attempt and node of every start of a scene."""
    path = plan.folder(scene) / "starts"
    return [line.split(" ") for line in path.read_text().splitlines()] if path.is_file() else []


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])
