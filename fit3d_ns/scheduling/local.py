"""Scenes on this machine, a few at a time."""

from __future__ import annotations

import os
import queue
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from fit3d_ns.common.cores import thread_limits, usable_cores
from fit3d_ns.machine.hardware import SCENE_MEMORY
from fit3d_ns.scheduling.plan import Plan
from fit3d_ns.scheduling.process import arguments_of, end, ending_of, next_attempt, start


def default_jobs() -> int:
    """One for each GPU; without any, as many as there are cores and memory for.

    Training takes turns between many threads and one, so several scenes with a core each are done sooner than one
    after the other with all of them.
    """
    if torch.cuda.is_available():
        return torch.cuda.device_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(usable_cores(), memory // SCENE_MEMORY))


class LocalEngine:
    """A pool of slots, each with its share of the cores, and of the GPUs where there are any."""

    def __init__(self, jobs: int | None = None) -> None:
        self.jobs = jobs or default_jobs()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False
        self._lock = threading.Lock()

    @property
    def gpus(self) -> float:
        return 1.0 if torch.cuda.is_available() else 0.0

    @property
    def described(self) -> str:
        return f"{self.jobs} at a time on this machine"

    def run(self, plan: Plan, scenes: Sequence[str]) -> None:
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
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            end(process)

    def environment(self, slot: int) -> dict[str, str]:
        """Of the commands in a slot."""
        own = thread_limits(max(1, usable_cores() // self.jobs))
        if torch.cuda.is_available():
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            devices = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
            own["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
        return {**os.environ, **own}

    def _one(self, plan: Plan, path: Path, scene: str, slot: int) -> None:
        attempt: int | None = 1
        starts = 0
        while attempt is not None:
            with self._lock:
                if self._stopped:
                    return
                process = start(arguments_of(path, scene, attempt), self.environment(slot))
                self._running.add(process)
            try:
                code = process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)
            starts += 1
            if self._stopped:
                return
            attempt = next_attempt(plan, scene, ending_of(code), starts)
