"""Stopping a training between two steps."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class TrainingInterrupted(Exception):  # noqa: N818 (not an error)
    """Training was asked to stop and did, after saving its state."""


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """While inside, SIGINT and SIGTERM are remembered instead of acting at once, so that a step is never cut."""
    received: list[int] = []
    handlers = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            handlers[number] = signal.signal(number, lambda received_number, _: received.append(received_number))
        except ValueError:  # not the main thread: whoever runs us there decides about signals
            break
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
