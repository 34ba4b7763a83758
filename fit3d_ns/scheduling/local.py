"""Scenes on this machine, a few at a time."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import torch

from fit3d_ns.common.cores import thread_limits, usable_cores
from fit3d_ns.scheduling.plan import ENDED, Plan, Status

WORKER = (sys.executable, "-m", "fit3d_ns.scheduling.worker")
BYTES_PER_SCENE = 3_000_000_000
"""Of main memory: a scene of 40,000 Gaussians takes two."""


def default_jobs() -> int:
    """One for each GPU; without any, as many as there are cores and memory for.

    Training takes turns between many threads and one, so several scenes with a core each are done sooner than one
    after the other with all of them.
    """
    if torch.cuda.is_available():
        return torch.cuda.device_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(usable_cores(), memory // BYTES_PER_SCENE))


class LocalEngine:
    """A pool of slots, each with its share of the cores, and of the GPUs where there are any."""

    def __init__(self, jobs: int | None = None) -> None:
        self.jobs = jobs or default_jobs()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False
        self._lock = threading.Lock()

    def run(self, plan: Plan, scenes: Sequence[str]) -> None:
        """Do all scenes; what came of them stands in their status. Returns when all have ended."""
        path, slots = plan.save(), queue.SimpleQueue[int]()
        for slot in range(self.jobs):
            slots.put(slot)

        def work(scene: str) -> None:
            slot = slots.get()
            try:
                self._one(plan, path, scene, slot)
            finally:
                slots.put(slot)

        with ThreadPoolExecutor(self.jobs, thread_name_prefix="scenes") as pool:
            for future in [pool.submit(work, scene) for scene in scenes]:
                future.result()

    def stop(self) -> None:
        """End what runs, and start nothing more."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)

    def environment(self, slot: int) -> dict[str, str]:
        """Of the commands in a slot."""
        own = thread_limits(max(1, usable_cores() // self.jobs))
        if torch.cuda.is_available():
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            devices = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
            own["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
        return {**os.environ, **own}

    def _one(self, plan: Plan, path: Path, scene: str, slot: int) -> None:
        command = [*WORKER, str(path), scene]
        with self._lock:
            if self._stopped:
                return
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self.environment(slot),
                start_new_session=True,
            )  # fmt: skip
            self._running.add(process)
        try:
            code = process.wait()
        finally:
            with self._lock:
                self._running.discard(process)
        status = Status.load(plan, scene)
        if status.state not in ENDED and not self._stopped:
            # It could not say so itself: it was killed, for want of memory as a rule.
            fault = f"its process was killed by signal {-code}" if code < 0 else f"its process ended with {code}"
            Status(scene, "failed", status.attempt, status.seconds, fault=fault).save(plan)
