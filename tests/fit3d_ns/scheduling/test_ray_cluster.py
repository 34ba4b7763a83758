"""Scenes on a real Ray cluster of two nodes on this machine: workers that are killed, a node and a cluster that go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fit3d_ns.common.errors import InputError
from fit3d_ns.scheduling.plan import Plan, Status
from fit3d_ns.scheduling.ray_cluster import RayEngine
from tests.fit3d_ns.scheduling.conftest import parent_of, plan_of, starts_of

ray = pytest.importorskip("ray", reason="needs the package ray (extra: cluster)")
from ray.cluster_utils import Cluster  # noqa: E402

PATIENCE = 120.0
"""Seconds."""


def started_cluster(nodes: int, tries: int = 3) -> Cluster:
    """Ray gives a node 30 seconds to start, which a busy machine may need more than once."""
    cluster = Cluster()
    try:
        for index in range(nodes):
            cluster.add_node(num_cpus=1, env_vars={"NODE": str(index) if index else "head"})
        cluster.wait_for_nodes(timeout=PATIENCE)
    except Exception as error:
        cluster.shutdown()
        if tries == 1:
            pytest.skip(f"Ray could not start its nodes on this machine: {error}")
        return started_cluster(nodes, tries - 1)
    return cluster


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("RAY_health_check_period_ms", "500")
    monkeypatch.setenv("RAY_health_check_timeout_ms", "500")
    monkeypatch.setenv("RAY_health_check_failure_threshold", "4")
    found = started_cluster(2)
    yield found
    ray.shutdown()
    found.shutdown()


class Running:
    """An engine that does scenes in a thread."""

    def __init__(self, engine: RayEngine, plan: Plan) -> None:
        self.plan, self.engine = plan, engine
        self.thread = threading.Thread(target=engine.run, args=(plan, list(plan.captures)))
        self.thread.start()

    def starts(self, scene: str, count: int) -> list[list[str]]:
        """Waits for so many starts of a scene."""
        end = time.monotonic() + PATIENCE
        while len(found := starts_of(self.plan, scene)) < count:
            assert time.monotonic() < end, f"{scene} was started {len(found)} times"
            time.sleep(0.05)
        return found

    def go(self, scene: str) -> None:
        (self.plan.folder(scene) / "go").touch()

    def join(self) -> dict[str, Status]:
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        return {scene: Status.load(self.plan, scene) for scene in self.plan.captures}


@pytest.mark.slow
def test_two_nodes_do_scenes_and_survive_what_happens_to_them(tmp_path: Path, stand_in: None, cluster: Cluster) -> None:
    with pytest.raises(InputError, match=r"no node of the Ray cluster has 0\.5 GPUs and 1 cores"):
        RayEngine(cluster.address, gpus=0.5)
    engine = RayEngine(cluster.address)
    assert engine.gpus == 0
    assert engine.described == "0 GPUs and 1 cores each, on a Ray cluster of 2 nodes"

    # One scene cannot be done, one only with less; both nodes work.
    plan = plan_of(tmp_path / "first", "slow-1", "slow-2", "killed", "large", retry=("--half",))
    running = Running(engine, plan)
    nodes = {running.starts(scene, 1)[0][2] for scene in ("slow-1", "slow-2")}
    assert nodes == {"head", "1"}
    for scene in ("slow-1", "slow-2"):
        running.go(scene)
    statuses = running.join()
    assert [statuses[scene].state for scene in plan.captures] == ["done", "done", "failed", "done"]
    assert statuses["killed"].fault == "its process was killed by signal 9"
    assert [start[1] for start in starts_of(plan, "large")] == ["1", "2"]

    # A worker of Ray is killed, as for want of memory: the next try is the smaller one.
    plan = plan_of(tmp_path / "second", "slow", retry=("--half",))
    running = Running(engine, plan)
    [[process, _, _]] = running.starts("slow", 1)
    os.kill(parent_of(int(process)), signal.SIGKILL)
    assert running.starts("slow", 2)[1][1] == "2"
    running.go("slow")
    assert running.join()["slow"].state == "done"

    # Stopping ends what runs.
    plan = plan_of(tmp_path / "third", "slow-1", "slow-2", "slow-3")
    running = Running(engine, plan)
    processes = [int(running.starts(scene, 1)[0][0]) for scene in ("slow-1", "slow-2")]
    engine.stop()
    assert [status.state for status in running.join().values()] == ["training", "training", "waiting"]
    end = time.monotonic() + PATIENCE
    while any(Path(f"/proc/{process}").exists() for process in processes):
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_node_that_goes_takes_no_scene_with_it(tmp_path: Path, stand_in: None, cluster: Cluster) -> None:
    plan = plan_of(tmp_path, "slow-1", "slow-2", retry=("--half",))
    running = Running(RayEngine(cluster.address), plan)
    on_node = {running.starts(scene, 1)[0][2]: scene for scene in plan.captures}
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    running.go(on_node["head"])
    again = running.starts(on_node["1"], 2)[1]
    assert again[1:] == ["1", "head"], "the same attempt, on the node that is left"
    running.go(on_node["1"])
    assert {status.state for status in running.join().values()} == {"done"}


DRIVER = """
import sys, pathlib
from fit3d_ns.scheduling import process
from fit3d_ns.scheduling.plan import Plan
from fit3d_ns.scheduling.ray_cluster import RayEngine
process.WORKER = (sys.argv[1],)
plan = Plan.load(pathlib.Path(sys.argv[2]))
RayEngine(sys.argv[3]).run(plan, sys.argv[4:])
"""


@pytest.mark.slow
def test_another_cluster_goes_on_where_one_ended(tmp_path: Path, stand_in: None) -> None:
    plan = plan_of(tmp_path, "a", "slow")
    path = plan.save()

    def drive(cluster: Any, *scenes: str) -> subprocess.Popen[bytes]:
        words = [str(tmp_path / "worker.py"), str(path), cluster.address, *scenes]
        return subprocess.Popen([sys.executable, "-c", DRIVER, *words])

    first = started_cluster(1)
    driver = drive(first, "a", "slow")
    end = time.monotonic() + PATIENCE
    while not starts_of(plan, "slow"):
        assert time.monotonic() < end
        time.sleep(0.05)
    first.shutdown()
    driver.wait(PATIENCE)
    assert Status.load(plan, "a").state == "done"
    assert Status.load(plan, "slow").state != "done"
    (plan.folder("slow") / "go").touch()
    second = started_cluster(1)
    try:
        assert drive(second, "slow").wait(PATIENCE) == 0
    finally:
        second.shutdown()
    assert Status.load(plan, "slow").state == "done"


def test_no_cluster_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(InputError, match="--ray-address auto: no Ray cluster can be reached there"):
        RayEngine("auto")
