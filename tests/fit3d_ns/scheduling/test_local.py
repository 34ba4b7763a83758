"""Scenes on one machine: at the same time, and none disturbs another."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from fit3d_ns.scheduling import local
from fit3d_ns.scheduling.local import LocalEngine, default_jobs
from fit3d_ns.scheduling.plan import Status
from tests.fit3d_ns.scheduling.conftest import plan_of, starts_of


@pytest.fixture(autouse=True)
def _machine(stand_in: None, monkeypatch: pytest.MonkeyPatch) -> None:
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
    while Status.load(plan, "slow").state != "training":
        time.sleep(0.05)
    engine.stop()
    thread.join(timeout=20)
    assert not thread.is_alive()
    assert [Status.load(plan, scene).state for scene in ("slow", "a")] == ["training", "waiting"]


def test_one_that_was_killed_is_tried_again_with_less(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "large", "killed", retry=("--half",))
    LocalEngine(2).run(plan, ["large", "killed"])
    assert [start[1] for start in starts_of(plan, "large")] == ["1", "2"]
    assert [Status.load(plan, scene).state for scene in ("large", "killed")] == ["done", "failed"]
