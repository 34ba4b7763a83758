"""One scene: its commands, what is kept of them, and a second try."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from fit3d_ns.scheduling import worker
from fit3d_ns.scheduling.plan import LOG_FILE, Plan, Status
from fit3d_ns.scheduling.worker import Failed, run_folder, run_scene, train_command


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(
        {"room": "/data/room"}, str(tmp_path / "runs"), str(tmp_path / "work"), "fit3d-features-fast",
        train_options=("--max-num-iterations", "50"), retry_options=("--half",),
    )  # fmt: skip


class Commands:
    """Stands for nerfstudio: makes what its commands make, and fails as it is told."""

    def __init__(self, plan: Plan, faults: Sequence[int] = ()) -> None:
        self.plan, self.faults, self.said = plan, list(faults), list[Sequence[str]]()

    def __call__(self, command: Sequence[str], log: Path) -> None:
        self.said.append(command)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("step 3\nRuntimeError: out of memory\n")
        if command[0] == "ns-train":
            run = run_folder(self.plan, "room", 2 if "--half" in command else 1)
            (run / "nerfstudio_models").mkdir(parents=True, exist_ok=True)
            (run / "nerfstudio_models/step-000000010.ckpt").touch()
            if self.faults and (code := self.faults.pop(0)) != 0:
                raise Failed(command, code, log)
        if command[0] == "ns-eval":
            results = {"psnr": 30.5, "feature_cosine": 0.9, "psnr_std": 1.0}
            Path(command[-1]).write_text(json.dumps({"results": results}))
        if command[0] == "fit3d-export":
            self.plan.export("room").mkdir(parents=True)
            (self.plan.export("room") / "scene.json").write_text('{"num_gaussians": 7, "views": [{}, {}]}')


def done(plan: Plan, monkeypatch: pytest.MonkeyPatch, *faults: int) -> tuple[Status, Commands]:
    commands = Commands(plan, faults)
    monkeypatch.setattr(worker, "_run", commands)
    return run_scene(plan, "room"), commands


def test_a_scene_is_trained_measured_and_exported(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    status, commands = done(plan, monkeypatch)
    assert [command[0] for command in commands.said] == ["ns-train", "ns-eval", "fit3d-export"]
    assert status == Status.load(plan, "room")
    assert (status.state, status.attempt) == ("done", 1)
    assert status.figures == {"psnr": 30.5, "feature_cosine": 0.9, "gaussians": 7.0}


def test_one_that_ran_out_of_memory_is_tried_once_more_and_smaller(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    status, commands = done(plan, monkeypatch, -9, 0)
    trained = [command for command in commands.said if command[0] == "ns-train"]
    assert ["--half" in command for command in trained] == [False, True]
    assert "--load-dir" not in trained[1], "the second try begins anew"
    assert (status.state, status.attempt, status.fault) == ("done", 2, "")


def test_one_that_fails_twice_says_why(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    status, _ = done(plan, monkeypatch, -9, 1)
    assert status.state == "failed"
    log = plan.folder("room") / LOG_FILE
    assert status.fault == f"ns-train failed with exit code 1: RuntimeError: out of memory (see {log})"
    assert Status.load(plan, "room") == status


def test_wrong_input_is_not_tried_twice(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    status, commands = done(plan, monkeypatch, 2, 0)
    assert (status.state, status.attempt, len(commands.said)) == ("failed", 1, 1)


def test_a_start_that_was_cut_short_goes_on_from_its_checkpoint(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--load-dir" not in train_command(plan, "room", 1)
    done(plan, monkeypatch, 1, 1)
    folder = run_folder(plan, "room", 1)
    command = train_command(plan, "room", 1)
    assert command[command.index("--load-dir") + 1] == str(folder / "nerfstudio_models")
    assert command[-2:] == ("--max-num-iterations", "50")
    assert Path(command[command.index("--output-dir") + 1]) / "room" / plan.method / "attempt-1" == folder


def test_what_is_trained_is_not_trained_again(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    done(plan, monkeypatch)
    (plan.export("room") / "scene.json").unlink()
    plan.export("room").rmdir()
    status, commands = done(plan, monkeypatch)
    assert [command[0] for command in commands.said] == ["ns-eval", "fit3d-export"]
    assert status.state == "done"


def test_a_plan_is_read_as_it_was_written(plan: Plan) -> None:
    assert Plan.load(plan.save()) == plan


WATCHED = """
import os, time
from fit3d_ns.scheduling.worker import end_with_parent
end_with_parent()
print(os.getpid(), flush=True)
time.sleep(60)
"""
STARTER = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {WATCHED!r}], start_new_session=True)
"""


def test_a_worker_ends_when_what_started_it_is_killed() -> None:
    starter = subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    worker = Path(f"/proc/{int(starter.stdout.readline())}/status")
    starter.kill()
    starter.wait()
    deadline = time.monotonic() + 30
    while worker.is_file() and "(zombie)" not in worker.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
