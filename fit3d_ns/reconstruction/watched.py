"""Long calls into compiled code: with a progress bar, and stopped by Ctrl-C."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from fit3d_ns.common.console import progress

T = TypeVar("T")

_PERIOD = 0.2
"""Seconds between two looks at how far a call is."""


def watched(
    work: Callable[[], T], title: str, unit: str, total: int, done: Callable[[], int], cancel: Callable[[], Any]
) -> T:
    """Run `work` in a thread of its own and show how far it is.

    Args:
        work: the call.
        title: for the bar.
        unit: what is counted, in the plural.
        total: how many there are.
        done: how many are done.
        cancel: makes `work` end soon; called on Ctrl-C, before KeyboardInterrupt goes on.

    Returns:
        What `work` returns; what it raises is raised.
    """
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as failure:
            failures.append(failure)

    # A daemon: a call that cannot be cancelled does not keep the program alive.
    thread = threading.Thread(target=run, name=title, daemon=True)
    with progress(unit) as bar:
        task = bar.add_task(title, total=total)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(_PERIOD)
                bar.update(task, completed=min(done(), total))
        except BaseException:
            if cancel() is not False:
                thread.join()
            raise
    if failures:
        raise failures[0]
    return results[0]
