"""Scenes on one machine: at the same time, and none disturbs another."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest

from fit3d_ns.scheduling import local
from fit3d_ns.scheduling.local import LocalEngine, default_jobs
from fit3d_ns.scheduling.plan import Plan, Status

WORKER = """
import json, os, pathlib, signal, sys, time
plan, scene = json.loads(pathlib.Path(sys.argv[1]).read_text()), sys.argv[2]
folder = pathlib.Path(plan["work_dir"]) / "scenes" / scene
folder.mkdir(parents=True)
(folder / "threads").write_text(os.environ["OMP_NUM_THREADS"])
if scene == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep({"slow": 60}.get(scene, 0.2))
(folder / "status.json").write_text(json.dumps({"scene": scene, "state": "done"}))
"""


def plan_of(folder: Path, *scenes: str) -> Plan:
    return Plan(dict.fromkeys(scenes, "/data"), str(folder / "runs"), str(folder / "work"), "fit3d-features-fast")


@pytest.fixture(autouse=True)
def _worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    monkeypatch.setattr(local, "WORKER", (sys.executable, str(script)))
    monkeypatch.setattr(local.os, "sched_getaffinity", lambda _: range(6))


def test_one_that_is_killed_fails_alone(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "a", "killed", "b", "c")
    LocalEngine(2).run(plan, list(plan.captures))
    states = {scene: Status.load(plan, scene) for scene in plan.captures}
    assert [states[scene].state for scene in "abc"] == ["done"] * 3
    assert states["killed"].state == "failed"
    assert states["killed"].fault == "its process was killed by signal 9"


def test_slots_share_the_cores(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "a", "b")
    LocalEngine(3).run(plan, ["a", "b"])
    assert (plan.folder("a") / "threads").read_text() == "2"


def test_gpus_are_given_to_slots_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local.torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    engine = LocalEngine(3)
    assert [engine.environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(3)] == ["3", "5", "3"]
    monkeypatch.setattr(local.torch.cuda, "device_count", lambda: 2)
    assert default_jobs() == 2


def test_memory_bounds_how_many_run_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local.torch.cuda, "is_available", lambda: False)
    for gigabytes, jobs in ((1, 1), (7, 2), (100, 6)):
        pages = {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": gigabytes * 10**9}
        monkeypatch.setattr(local.os, "sysconf", pages.__getitem__)
        assert default_jobs() == jobs


def test_stopping_ends_what_runs_and_starts_nothing_more(tmp_path: Path) -> None:
    plan, engine = plan_of(tmp_path, "slow", "a"), LocalEngine(1)
    thread = threading.Thread(target=engine.run, args=(plan, ["slow", "a"]))
    thread.start()
    while not (plan.folder("slow") / "threads").is_file():
        time.sleep(0.05)
    engine.stop()
    thread.join(timeout=20)
    assert not thread.is_alive()
    assert [Status.load(plan, scene).state for scene in ("slow", "a")] == ["waiting", "waiting"]
