"""One scene, from capture to export, by nerfstudio's and our own commands.

    python -m fit3d_ns.scheduling.worker WORK/plan.json NAME [ATTEMPT]

This is what every engine starts, on whatever machine: it reads the plan and writes the scene's status, both files of
the work folder. A start that was cut short goes on from the last checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fit3d_ns.common.cores import usable_cores
from fit3d_ns.common.errors import EXIT_BAD_INPUT
from fit3d_ns.common.estimate import size_of
from fit3d_ns.common.json_input import parse_json
from fit3d_ns.common.kept_rates import keep_rate
from fit3d_ns.scene.place import SCENE_FILE
from fit3d_ns.scheduling.plan import LOG_FILE, MEASURED, METRICS_FILE, Plan, State, Status
from fit3d_ns.scheduling.process import ending_of

TRAINED_FILE = "trained.json"
"""Beside config.yml, once ns-train has ended well: its checkpoints alone do not tell."""
MODELS = "nerfstudio_models"
RATES = "fit3d-scenes"
"""What is kept for --dry-run: what whole scenes took."""


class Failed(Exception):  # noqa: N818 (what happened, for the scene's status)
    """A command failed."""

    def __init__(self, command: Sequence[str], code: int, log: Path) -> None:
        self.code = code
        super().__init__(f"{command[0]} {ending_of(code).how}{_last_words(log)} (see {log})")


def run_scene(plan: Plan, scene: str, first: int = 1) -> Status:
    """Train, measure and export a scene, with a smaller second try where the first one failed.

    Wrong input, which would fail again, is not tried twice.

    Args:
        first: the attempt to begin with; 2 where the process of the first one was killed.
    """
    start = time.monotonic()
    (plan.folder(scene)).mkdir(parents=True, exist_ok=True)
    whole = not (run_folder(plan, scene, first) / MODELS).is_dir()
    status = Status(scene)
    for attempt in range(first, 3 if plan.retry_options else 2):
        status = dataclasses.replace(status, attempt=attempt)
        try:
            status = _attempt(plan, status, start)
            break
        except Failed as failed:
            status = dataclasses.replace(status, state="failed", fault=str(failed))
            if failed.code == EXIT_BAD_INPUT:
                break
    status = dataclasses.replace(status, seconds=time.monotonic() - start)
    status.save(plan)
    if whole and status.state == "done" and status.attempt == first == 1:
        _keep_rate(plan, status)
    return status


def comparable(plan: Plan, threads: int) -> dict[str, Any]:
    """What scenes must have in common for one to say what another takes."""
    return {
        "method": plan.method,
        "train_options": plan.train_options,
        "export_options": plan.export_options,
        "dataparser": plan.dataparser,
        "threads": threads,
    }


def _keep_rate(plan: Plan, status: Status) -> None:
    threads = int(os.environ.get("OMP_NUM_THREADS") or usable_cores())
    exported = _exported(plan, status.scene)
    keep_rate(
        RATES,
        **comparable(plan, threads),
        seconds=status.seconds,
        views=len(exported["views"]),
        memory=1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,
        export_bytes=size_of(plan.export(status.scene)),
        run_bytes=size_of(run_folder(plan, status.scene, status.attempt)),
    )


def _attempt(plan: Plan, status: Status, start: float) -> Status:
    scene, log = status.scene, plan.folder(status.scene) / LOG_FILE
    run = run_folder(plan, scene, status.attempt)
    metrics = plan.folder(scene) / METRICS_FILE

    def enter(state: State) -> None:
        dataclasses.replace(status, state=state, seconds=time.monotonic() - start).save(plan)

    enter("training")
    if not (run / TRAINED_FILE).is_file():
        _run(train_command(plan, scene, status.attempt), log)
        (run / TRAINED_FILE).write_text(json.dumps({"method": plan.method}) + "\n")
    enter("measuring")
    _run(("ns-eval", "--load-config", str(run / "config.yml"), "--output-path", str(metrics)), log)
    enter("exporting")
    _run(
        (
            *("fit3d-export", "--load-config", str(run / "config.yml"), "--output-dir", plan.output_dir),
            *("--name", scene, *plan.export_options),
        ),
        log,
    )
    return dataclasses.replace(status, state="done", fault="", figures=figures_of(plan, scene))


def run_folder(plan: Plan, scene: str, attempt: int) -> Path:
    """Where ns-train leaves an attempt."""
    return Path(plan.work_dir) / "outputs" / scene / plan.method / f"attempt-{attempt}"


def train_command(plan: Plan, scene: str, attempt: int) -> tuple[str, ...]:
    """ns-train, from the last checkpoint of the same attempt if there is one."""
    folder = run_folder(plan, scene, attempt)
    resume = ("--load-dir", str(folder / MODELS)) if any((folder / MODELS).glob("*.ckpt")) else ()
    return (
        *("ns-train", plan.method, "--data", plan.captures[scene], "--output-dir", str(folder.parents[2])),
        *("--experiment-name", scene, "--timestamp", folder.name, "--vis", "tensorboard", *resume),
        *plan.train_options,
        *(plan.retry_options if attempt > 1 else ()),
        *plan.dataparser,
    )


def figures_of(plan: Plan, scene: str) -> dict[str, float]:
    """What ns-eval measured, as far as it did, and the number of Gaussians that were exported."""
    found: dict[str, float] = {}
    metrics = plan.folder(scene) / METRICS_FILE
    if metrics.is_file():
        results = parse_json(metrics.read_text())["results"]
        found = {name: float(results[name]) for name in MEASURED if name in results}
    return {**found, "gaussians": float(_exported(plan, scene)["num_gaussians"])}


def _exported(plan: Plan, scene: str) -> dict[str, Any]:
    """What the export of a scene says of itself."""
    description: dict[str, Any] = parse_json((plan.export(scene) / SCENE_FILE).read_text())
    return description


def _run(command: Sequence[str], log: Path) -> None:
    script = Path(sys.executable).with_name(command[0])
    with open(log, "ab") as output:
        output.write(f"$ {' '.join(command)}\n".encode())
        output.flush()
        result = subprocess.run([str(script), *command[1:]], stdout=output, stderr=subprocess.STDOUT)
    if result.returncode != 0:
        raise Failed(command, result.returncode, log)


def _last_words(log: Path) -> str:
    """The last sentence of an error in a log, if there is one."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    words = next((line for line in reversed(lines[-40:]) if "rror:" in line), "")
    return f": {words.removeprefix('error: ')}" if words else ""


def end_with_parent() -> None:
    """From now on, end this process and its commands when what started it is gone, however that ended.

    Else they would go on unseen, and a second start would train the same scenes beside them. For processes that lead
    a group of their own; others end with their group.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.killpg(os.getpid(), signal.SIGTERM)

    if os.getpgid(0) == os.getpid():
        threading.Thread(target=watch, name="parent", daemon=True).start()


def main() -> None:
    """Do the scene that the command line names."""
    end_with_parent()
    path, scene, *attempt = sys.argv[1:]
    if run_scene(Plan.load(Path(path)), scene, *map(int, attempt)).state != "done":
        raise SystemExit(1)


if __name__ == "__main__":
    main()
