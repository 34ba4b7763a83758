"""Scenes on a Ray cluster, each with its share of a node's GPUs and cores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fit3d_ns.common.errors import InputError
from fit3d_ns.common.optional import require_package
from fit3d_ns.scheduling.plan import Plan
from fit3d_ns.scheduling.process import Ending, arguments_of, ending_of, next_attempt, run_to_the_end

LOOK_EVERY = 1.0
"""Seconds."""
HERE = "local"
"""The address of a cluster that is started for this run, on this machine alone."""


@dataclass(frozen=True)
class _Started:
    """A scene that is on its way."""

    scene: str
    starts: int


class RayEngine:
    """A task of Ray for every scene; tries are counted here, not by Ray, which would repeat them as they were."""

    def __init__(self, address: str = "auto", gpus: float | None = None, cpus: int | None = None) -> None:
        """Connect to a cluster.

        Args:
            address: of its head; "auto": the one that this machine belongs to; `HERE`.
            gpus: of every scene, 0.5: two share one. None: one, where the cluster has any.
            cpus: of every scene; threads of its commands. None: one.

        Raises:
            InputError: no Ray, no cluster at the address, or none of its nodes has so much.
        """
        self._ray = require_package("ray", "--engine ray needs", "ray>=2.40")
        if not self._ray.is_initialized():
            try:
                self._ray.init(address=address, log_to_driver=False, configure_logging=False, include_dashboard=None)
            except (ConnectionError, ValueError) as error:
                raise InputError(
                    f"--ray-address {address}: no Ray cluster can be reached there ({error}): start one with "
                    f"ray start --head, or give --ray-address {HERE} for one on this machine."
                ) from error
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        most = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
        self.gpus = min(1.0, most) if gpus is None else gpus
        self.cpus = cpus or 1
        if not any(node.get("GPU", 0.0) >= self.gpus and node.get("CPU", 0.0) >= self.cpus for node in nodes):
            raise InputError(
                f"no node of the Ray cluster has {self.gpus:g} GPUs and {self.cpus} cores for a scene: lower "
                "--gpus-per-scene or --cpus-per-scene."
            )
        self._nodes = len(nodes)
        self._stopped = False

    @property
    def described(self) -> str:
        return f"{self.gpus:g} GPUs and {self.cpus} cores each, on a Ray cluster of {self._nodes} nodes"

    def run(self, plan: Plan, scenes: Sequence[str]) -> None:
        path = plan.save()
        # A task that is killed is started again by `next_attempt`: Ray itself repeats one that ran out of memory for
        # ever.
        needs = {"num_gpus": self.gpus, "num_cpus": self.cpus, "max_retries": 0}
        task = self._ray.remote(run_to_the_end)

        def start(scene: str, attempt: int) -> Any:
            return task.options(name=scene, **needs).remote(arguments_of(path, scene, attempt), self.cpus)

        running = {start(scene, 1): _Started(scene, 1) for scene in scenes}
        while running and not self._stopped:
            ended, _ = self._ray.wait(list(running), timeout=LOOK_EVERY)
            for reference in ended:
                one = running.pop(reference)
                attempt = next_attempt(plan, one.scene, self._ending(reference), one.starts)
                if attempt is not None:
                    running[start(one.scene, attempt)] = _Started(one.scene, one.starts + 1)
        for reference in running:
            self._ray.cancel(reference)

    def stop(self) -> None:
        self._stopped = True

    def _ending(self, reference: Any) -> Ending:
        faults = self._ray.exceptions
        try:
            return ending_of(self._ray.get(reference))
        except faults.NodeDiedError:
            return Ending("was lost with the node that it ran on", lost=True)
        except faults.OutOfMemoryError:
            return Ending("was ended by Ray, as its node ran out of memory")
        except faults.WorkerCrashedError:
            return Ending("was killed with the Ray worker that it ran in")
        except faults.RayError as error:
            return Ending(f"could not be run by Ray ({type(error).__name__}: {str(error).splitlines()[0]})", lost=True)
