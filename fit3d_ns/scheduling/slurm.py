"""Scenes as jobs of Slurm, handed in by submitit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fit3d_ns.common.errors import InputError
from fit3d_ns.common.optional import require_package
from fit3d_ns.scheduling.plan import Plan
from fit3d_ns.scheduling.process import Ending, arguments_of, ending_of, next_attempt, run_to_the_end
from fit3d_ns.scheduling.slurm_queue import SlurmQueue, state_of

LOOK_EVERY = 5.0
"""Seconds between two looks for results."""
TIMEOUT_MINUTES = 240
"""Of a job, if the options say nothing of time."""
TOO_LARGE = ("OUT_OF_MEMORY",)
"""States of Slurm in which a smaller try may help; all others that are no regular end are the cluster's doing."""


@dataclass
class _Job:
    """A scene's job."""

    scene: str
    job: Any
    starts: int = 1

    @property
    def has_result(self) -> bool:
        return bool(self.job.paths.result_pickle.exists())


class SlurmEngine:
    """A job for every scene. Its files, and what the jobs say, are in the work folder's slurm/."""

    def __init__(
        self, jobs: int | None = None, gpus: int | None = None, cpus: int | None = None, options: str = "",
        cluster: Literal["slurm", "local"] = "slurm",
    ) -> None:  # fmt: skip
        """Look for Slurm.

        Args:
            jobs: how many at a time; None: as many as the cluster takes. Those that are handed in again come on top.
            gpus, cpus: of every scene. None: one GPU; the cluster's default of cores.
            options: of sbatch: "partition=gpu time=120 account=vision".
            cluster: "local" runs the jobs on this machine, without Slurm, for tests.

        Raises:
            InputError: no submitit, no Slurm on this machine, or options that are not KEY=VALUE.
        """
        self.jobs, self.gpus, self.cpus, self.cluster = jobs, 1 if gpus is None else gpus, cpus, cluster
        self.options = _options(options)
        self._submitit = require_package("submitit", "--engine slurm needs", "submitit>=1.5")
        if cluster == "slurm" and self._submitit.AutoExecutor.which() != "slurm":
            raise InputError("--engine slurm: sbatch and srun are not on this machine: start from a login node.")
        self._queue = SlurmQueue()
        self._stopped = False

    @property
    def described(self) -> str:
        most = "" if self.jobs is None else f", {self.jobs} at a time"
        return f"{self.gpus} GPUs each, as jobs of Slurm{most}"

    def run(self, plan: Plan, scenes: Sequence[str]) -> None:
        if not scenes:
            return
        path, executor = plan.save(), self._executor(Path(plan.work_dir) / "slurm")
        commands = [arguments_of(path, scene, 1) for scene in scenes]
        first = executor.map_array(run_to_the_end, commands, [self.cpus] * len(scenes))
        running = [_Job(scene, job) for scene, job in zip(scenes, first, strict=True)]
        while running and not self._stopped:
            left = self._left(running)
            for one in [one for one in running if one.has_result or one.job.job_id in left]:
                running.remove(one)
                attempt = next_attempt(plan, one.scene, self._ending(one), one.starts)
                if attempt is not None:
                    again = executor.submit(run_to_the_end, arguments_of(path, one.scene, attempt), self.cpus)
                    running.append(_Job(one.scene, again, one.starts + 1))
            time.sleep(LOOK_EVERY if running else 0)
        for one in running:
            one.job.cancel()

    def stop(self) -> None:
        self._stopped = True

    def _executor(self, folder: Path) -> Any:
        executor = self._submitit.AutoExecutor(folder=folder, cluster=self.cluster)
        executor.update_parameters(
            name="fit3d-scenes", gpus_per_node=self.gpus, **({} if self.cpus is None else {"cpus_per_task": self.cpus})
        )
        if self.cluster == "slurm":
            # A job that is cut short is handed in anew by `next_attempt`, and goes on from its last checkpoint.
            executor.update_parameters(
                timeout_min=TIMEOUT_MINUTES, slurm_additional_parameters={"no_requeue": True, **self.options}
            )
            if self.jobs is not None:
                executor.update_parameters(slurm_array_parallelism=self.jobs)
        return executor

    def _left(self, running: Sequence[_Job]) -> set[str]:
        """The jobs that run no more, by their names."""
        if self.cluster == "slurm":
            return self._queue.left([one.job.job_id for one in running])
        return {one.job.job_id for one in running if one.job.done()}

    def _ending(self, one: _Job) -> Ending:
        if one.has_result:
            with suppress(self._submitit.core.utils.UncompletedJobError):  # also of one that failed
                return ending_of(one.job.result())
        state = state_of(one.job.job_id) if self.cluster == "slurm" else str(one.job.state)
        how = f"ended with its job {one.job.job_id} ({state}; see {one.job.paths.stderr})"
        return Ending(how, lost=state not in TOO_LARGE)


def _options(words: str) -> dict[str, str]:
    found = {}
    for word in words.split():
        name, sign, value = word.partition("=")
        if not (name and sign and value):
            raise InputError(f"--slurm-options {words!r}: {word!r} is not KEY=VALUE, as partition=gpu.")
        found[name.removeprefix("--").replace("-", "_")] = value
    return found
