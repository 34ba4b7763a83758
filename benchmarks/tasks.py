"""Long benchmarks as tasks: commands that make files, run once, a few at a time.

Every part is kept in the work folder and not done again by a second start. Two single-threaded processes share the
machine at any time, which takes less time than one after the other with all threads.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fit3d_ns.common.cores import thread_limits


@dataclass(frozen=True)
class Task:
    """A command that makes one file; it is done when the file is there."""

    name: str
    makes: Path
    command: tuple[str, ...]
    needs: tuple[Path, ...] = ()
    """Files that other tasks make."""
    late: Callable[[], tuple[str, ...]] = tuple
    """More words of the command, which are known only once what it needs is there."""


def run(task: Task, logs: Path) -> None:
    """Run one task with one thread, its output in a log of its own; stop everything if it fails."""
    if task.makes.exists():
        print(f"{task.name}: done before", flush=True)
        return
    words = (*task.command[1:], *task.late())
    print(f"{task.name}: {' '.join((task.command[0], *words))}", flush=True)
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{task.name.replace(' ', '-').replace(':', '')}.log"
    script = Path(sys.executable).with_name(task.command[0])
    with open(log, "w") as output:
        result = subprocess.run(
            [str(script), *words], stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **thread_limits(1)}
        )
    if result.returncode != 0 or not task.makes.exists():
        raise SystemExit(f"{task.name} failed with exit code {result.returncode}; see {log}")


def run_all(tasks: Sequence[Task], logs: Path, workers: int = 2) -> None:
    """Run all tasks, some at a time: always the first of those whose needs are there.

    Raises:
        SystemExit: a task failed; those that run already are waited for.
    """
    waiting, running, failures = list(tasks), 0, list[SystemExit]()
    changed = threading.Condition()

    def next_task() -> Task | None:
        """The next one to run, once there is one; None when nothing is left to do."""
        nonlocal running
        with changed:
            while waiting and not failures:
                ready = next((task for task in waiting if all(path.exists() for path in task.needs)), None)
                if ready is not None:
                    waiting.remove(ready)
                    running += 1
                    return ready
                if running == 0:
                    failures.append(SystemExit(f"nothing makes what {waiting[0].name} needs: {waiting[0].needs}"))
                    break
                changed.wait()
            return None

    def work() -> None:
        nonlocal running
        while (task := next_task()) is not None:
            try:
                run(task, logs)
            except SystemExit as failure:
                failures.append(failure)
            with changed:
                running -= 1
                changed.notify_all()

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
