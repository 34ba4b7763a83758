"""Clients that use the viewer's panel as users do, all at once, and vanish without a word.

    python -m benchmarks.soak_clients PORT SECONDS [--clients 3] [--seed 0] [--still]

Prints what they did, as JSON. A process of its own, so that it takes no time of the training's Python.
"""

from __future__ import annotations

import argparse
import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from websockets.exceptions import WebSocketException

from benchmarks.viewer_client import ViewerClient

BOUND = 60.0
"""Seconds within which everything must be answered, on a machine however loaded."""

OUTPUTS = ("rgb", "depth", "accumulation", "feature_pca", "feature_error", "clusters", "similarity")


@dataclass
class Log:
    """What clients did and saw."""

    answers: dict[str, list[float]] = field(default_factory=dict)
    """Seconds until the next picture, by action."""
    unanswered: list[str] = field(default_factory=list)
    vanished: int = 0
    pictures: int = 0


class User:
    """One client after the other, each of which does this and that until it goes.

    Args:
        port: of the viewer.
        seed: of what it does.
        log: where it is written down.
    """

    def __init__(self, port: int, seed: int, log: Log) -> None:
        self._port, self._random, self._log = port, random.Random(seed), log

    def use(self, until: float) -> None:
        """Go on until that time (`time.monotonic`)."""
        while time.monotonic() < until:
            try:
                self._visit(until)
            except (OSError, WebSocketException):
                continue  # the server closed it
            except Exception as error:
                self._log.unanswered.append(f"a client failed: {error!r}")
                raise

    def _visit(self, until: float) -> None:
        client = ViewerClient(self._port, aspect=self._random.choice((1.0, 4 / 3, 2.0)))
        if self._random.random() < 0.3:  # before the server knows of it
            client.vanish()
            self._log.vanished += 1
            return
        leave = min(until, time.monotonic() + self._random.uniform(3, 25))
        self._answered(client, "open", lambda: None)
        while time.monotonic() < leave and not client.closed:
            self._act(client)
        self._leave(client)

    def _leave(self, client: ViewerClient) -> None:
        self._log.pictures += client.pictures
        way = self._random.choice(("close", "vanish", "vanish moving", "vanish picking"))
        if way == "close":
            client.close()
            return
        if way == "vanish moving":
            for _ in range(5):
                client.move(client.camera.turned(0.05))
        elif way == "vanish picking":
            client.press("Similarity: pick a point")
            client.press("Refit colours")
        client.vanish()
        self._log.vanished += 1

    def _act(self, client: ViewerClient) -> None:
        draw = self._random
        chosen: dict[str, Callable[[], None]] = {
            "move": lambda: self._move(client),
            "pick": lambda: self._pick(client),
            "output": lambda: client.set("Output type", draw.choice([o for o in OUTPUTS if o in client.options()])),
            "kind": lambda: client.set("Features", draw.choice(client.options("Features"))),
            "clusters": lambda: client.set("Clusters: k", draw.randint(2, 16)),
            "similarity": lambda: client.set("Isolate: similarity ≥", round(draw.uniform(-1, 0.5), 2)),
            "distance": lambda: client.set("Isolate: distance ≤", round(draw.uniform(0.3, 2), 2)),
            "dim": lambda: client.set("Isolate: dim the others", not client.value("Isolate: dim the others")),
            "error": lambda: client.set("Hide: error >", round(draw.uniform(0.2, 1), 2)),
            "opacity": lambda: client.set("Hide: opacity <", round(draw.uniform(0, 0.3), 2)),
            "refit": lambda: client.press("Refit colours"),
            "clear": lambda: client.press("Similarity: clear"),
            "compare": lambda: client.press("Compare: lift this backbone"),
            "export": lambda: client.press("Isolate: export as .ply"),
        }
        weights = [1 if name in ("compare", "export") else 4 for name in chosen]
        [name] = draw.choices(list(chosen), weights)
        self._answered(client, name, chosen[name])
        time.sleep(draw.uniform(0, 0.5))

    def _move(self, client: ViewerClient) -> None:
        for _ in range(self._random.randint(1, 10)):
            client.move(client.camera.turned(self._random.uniform(-0.1, 0.1)))
            time.sleep(1 / 30)

    def _pick(self, client: ViewerClient) -> None:
        client.press("Similarity: pick a point")
        with suppress(TimeoutError):  # another client's click took it
            client.click(self._random.uniform(-0.3, 0.3), self._random.uniform(-0.3, 0.3), timeout=2)

    def _answered(self, client: ViewerClient, name: str, action: Callable[[], None]) -> None:
        before, start = client.pictures, time.perf_counter()
        try:
            action()
            picture = client.next_picture(before, BOUND)
        except TimeoutError as error:
            if not client.closed:
                self._log.unanswered.append(f"{name}: {error}")
            return
        self._log.answers.setdefault(name, []).append(picture.when - start)


def use(port: int, seconds: float, clients: int = 3, seed: int = 0) -> Log:
    """Have so many users at once for a while."""
    log, until = Log(), time.monotonic() + seconds
    users = [User(port, seed + number, log) for number in range(clients)]
    threads = [threading.Thread(target=user.use, args=(until,), daemon=True) for user in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 3 * BOUND)
        if thread.is_alive():
            log.unanswered.append("a client hangs")
    return log


def look(port: int, seconds: float, clients: int = 3) -> Log:
    """Have so many pages open that only look, and hold still, for a while."""
    log = Log()
    pages = [ViewerClient(port) for _ in range(clients)]
    time.sleep(seconds)
    log.pictures = sum(page.pictures for page in pages)
    for page in pages:
        page.close()
    return log


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.soak_clients", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("port", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--still", action="store_true", help="only look")
    asked = parser.parse_args(arguments)
    if asked.still:
        log = look(asked.port, asked.seconds, asked.clients)
    else:
        log = use(asked.port, asked.seconds, asked.clients, asked.seed)
    print(json.dumps(vars(log)))


if __name__ == "__main__":
    main()
