"""Scenes as jobs: submitit's own stand-in for Slurm, and a job that is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fit3d_ns.common.errors import InputError
from fit3d_ns.scheduling import slurm
from fit3d_ns.scheduling.plan import Plan, Status
from fit3d_ns.scheduling.slurm import SlurmEngine
from fit3d_ns.scheduling.slurm_queue import SlurmQueue, state_of
from tests.fit3d_ns.scheduling.conftest import parent_of, plan_of, starts_of

pytest.importorskip("submitit", reason="needs the package submitit (extra: cluster)")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(slurm, "LOOK_EVERY", 0.2)
    # The stand-in cancels by SIGINT, which all children ignore where these tests run in the background of a shell.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def started(plan: Plan) -> tuple[SlurmEngine, threading.Thread]:
    engine = SlurmEngine(gpus=0, cluster="local")
    thread = threading.Thread(target=engine.run, args=(plan, list(plan.captures)))
    thread.start()
    return engine, thread


def first_start(plan: Plan, scene: str, count: int = 1) -> list[str]:
    end = time.monotonic() + 60
    while len(found := starts_of(plan, scene)) < count:
        assert time.monotonic() < end
        time.sleep(0.05)
    return found[count - 1]


def test_jobs_do_scenes_and_one_that_is_killed_is_done_again(tmp_path: Path, stand_in: None) -> None:
    plan = plan_of(tmp_path, "a", "killed", "large", "slow", retry=("--half",))
    _, thread = started(plan)
    job = parent_of(int(first_start(plan, "slow")[0]))
    os.kill(job, signal.SIGKILL)
    assert first_start(plan, "slow", 2)[1] == "1", "it was not the scene's doing"
    (plan.folder("slow") / "go").touch()
    thread.join(60)
    assert not thread.is_alive()
    statuses = {scene: Status.load(plan, scene) for scene in plan.captures}
    assert [statuses[scene].state for scene in plan.captures] == ["done", "failed", "done", "done"]
    assert statuses["killed"].fault == "its process was killed by signal 9"
    assert [start[1] for start in starts_of(plan, "large")] == ["1", "2"]


def test_stopping_cancels_jobs(tmp_path: Path, stand_in: None) -> None:
    plan = plan_of(tmp_path, "slow")
    engine, thread = started(plan)
    process = int(first_start(plan, "slow")[0])
    engine.stop()
    thread.join(60)
    assert not thread.is_alive()
    end = time.monotonic() + 60
    while Path(f"/proc/{process}").exists():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_what_is_handed_to_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("submitit.AutoExecutor.which", staticmethod(lambda: "slurm"))
    monkeypatch.setattr("submitit.SlurmExecutor.affinity", classmethod(lambda cls: 1))
    engine = SlurmEngine(jobs=20, gpus=2, cpus=8, options="partition=gpu --time=04:00:00")
    assert engine.described == "2 GPUs each, as jobs of Slurm, 20 at a time"
    executor = engine._executor(tmp_path)._executor
    script = executor._make_submission_file_text("true", "x")
    lines = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")]
    assert {"partition=gpu", "time=04:00:00", "gpus-per-node=2", "cpus-per-task=8", "no-requeue"} <= set(lines)
    assert not any(line.startswith("time=") and line != "time=04:00:00" for line in lines)
    assert executor.parameters["array_parallelism"] == 20


def test_a_job_that_left_no_result_is_handed_in_again_as_it_was(
    tmp_path: Path, stand_in: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Slurm keeps no accounts, what is gone from its queue has ended."""
    plan, asked, killed = plan_of(tmp_path, "slow"), list[str](), threading.Event()

    def left(queue: SlurmQueue, jobs: list[str]) -> set[str]:
        asked.extend(jobs)
        return set(jobs) & {asked[0]} if killed.is_set() else set()

    monkeypatch.setattr(SlurmQueue, "left", left)
    monkeypatch.setattr(slurm, "state_of", lambda job: "UNKNOWN")
    engine = SlurmEngine(gpus=0, cluster="local")
    executor = engine._executor(tmp_path / "jobs")
    monkeypatch.setattr(engine, "_executor", lambda folder: executor)
    engine.cluster = "slurm"
    thread = threading.Thread(target=engine.run, args=(plan, list(plan.captures)))
    thread.start()
    os.kill(parent_of(int(first_start(plan, "slow")[0])), signal.SIGKILL)
    killed.set()
    assert first_start(plan, "slow", 2)[1] == "1"
    (plan.folder("slow") / "go").touch()
    thread.join(60)
    assert not thread.is_alive()
    assert Status.load(plan, "slow").state == "done"


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A squeue that prints a file, and fails where there is none."""
    listing, program = tmp_path / "listing", tmp_path / "bin" / "squeue"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path / "asked"}\nexec cat {listing}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    return listing


def test_a_job_has_left_when_two_looks_in_a_row_miss_it(squeue: Path) -> None:
    queue, jobs = SlurmQueue(every=0), ["7_0", "7_1", "9"]
    squeue.write_text("7_0\n9\n")
    assert queue.left(jobs) == set()
    assert queue.left(jobs) == {"7_1"}
    squeue.write_text("7_1\n9\n")
    assert queue.left(jobs) == set(), "it is back: the list had been late"
    assert queue.left(jobs) == {"7_0"}
    asked = (squeue.parent / "asked").read_text()
    assert "--array" in asked
    assert "--user=" in asked


def test_while_slurm_does_not_answer_nothing_has_left(squeue: Path) -> None:
    queue = SlurmQueue(every=0)
    assert [queue.left(["7"]) for _ in range(4)] == [set()] * 4
    squeue.write_text("")
    assert [queue.left(["7"]) for _ in range(3)] == [set(), {"7"}, {"7"}]


def test_the_queue_is_asked_seldom(squeue: Path) -> None:
    queue = SlurmQueue(every=3600)
    squeue.write_text("")
    for _ in range(5):
        assert queue.left(["7"]) == set()
    assert len((squeue.parent / "asked").read_text().splitlines()) == 1


def test_without_accounts_a_state_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "sacct"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert state_of("7") == "UNKNOWN"
    program.write_text("#!/bin/sh\necho OUT_OF_MEMORY\n")
    program.chmod(0o755)
    assert state_of("7") == "OUT_OF_MEMORY"
    program.write_text("#!/bin/sh\necho accounting is disabled >&2; exit 1\n")
    assert state_of("7") == "UNKNOWN"


def test_without_slurm_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="sbatch and srun are not on this machine"):
        SlurmEngine()
