"""The viewer's panel under load: clients that use everything and vanish, while a scene trains and densifies.

    python -m benchmarks.soak --data examples/room [--minutes 10] [--json soak.json]

First, in turns: training without clients, with three that look and hold still, and with the same where the pictures
are nerfstudio's alone (colour, depth, accumulation). So it is seen what looking costs, and which part of it is
nerfstudio's own. Then three clients do whatever the panel offers, at random, and go without a word. Training runs in
this process, clients in another. A client that moves stops the training for a tenth of a second each time, which is
nerfstudio's own rule, so training is timed with clients that hold still.

Fails if training stands still, an action stays unanswered, a client is not forgotten, or memory grows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

from benchmarks.markdown import header, row
from benchmarks.memory import resident
from benchmarks.soak_clients import BOUND
from fit3d_ns.method.config import fit3d_features
from fit3d_ns.method.rendering import FeatureSplatfacto
from fit3d_ns.method.trainer import Fit3DTrainer, Fit3DTrainerConfig
from fit3d_ns.method.viewer.shown import SHOWN_CHANNELS

CLIENTS = 3
MOST_GROWTH = 0.1
"""Of memory, from the second minute to the end: densification goes on, and allocators keep what they have."""
MOST_SLOWDOWN = 1.2


def make_config(data: Path, folder: Path) -> Fit3DTrainerConfig:
    """`fit3d-features`, which densifies in every tenth step and never stops, with a backbone that needs no weights."""
    config = deepcopy(fit3d_features.config)
    assert isinstance(config, Fit3DTrainerConfig)
    config.data = config.pipeline.datamanager.data = data
    backbone = config.pipeline.datamanager.backbone
    config.pipeline.datamanager.backbone = replace(backbone, name="vit_tiny_patch16_224", weights="random")
    config.output_dir, config.timestamp, config.vis = folder, "run", "viewer+tensorboard"
    config.max_num_iterations = 10_000_000
    config.steps_per_eval_image = config.steps_per_eval_all_images = config.steps_per_save = 10_000_000
    config.viewer.quit_on_train_completion = True
    config.logging.local_writer.enable = False
    model = {"feature_lift": "train", "feature_start_step": 0, "num_downscales": 0, "warmup_length": 5}
    model |= {"refine_every": 10, "stop_split_at": 10_000_000, "max_gs_num": 20_000}
    for name, value in model.items():
        setattr(config.pipeline.model, name, value)
    config.set_experiment_name()
    return config


class Run:
    """A training with a viewer, on a thread of this process.

    Args:
        trainer: set up, with a viewer.
    """

    def __init__(self, trainer: Fit3DTrainer) -> None:
        self.trainer = trainer
        self.samples: list[tuple[float, int, int]] = []
        """Time, step and bytes of memory, twice a second."""
        self.failure: BaseException | None = None
        self._training = threading.Thread(target=self._train, daemon=True)
        self._sampling = threading.Thread(target=self._sample, daemon=True)

    @property
    def port(self) -> int:
        viewer = self.trainer.viewer_state
        assert viewer is not None
        return int(viewer.viser_server.get_port())

    def start(self) -> None:
        self._training.start()
        self._sampling.start()
        self.wait_until(lambda: self.trainer.step >= 20, 300, "the first steps")
        del self.samples[:-1]

    def stop(self) -> None:
        self.trainer.stop_training = True
        self._training.join(BOUND)
        self.trainer.shutdown()

    def wait_until(self, look: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not look():
            if self.failure is not None:
                raise RuntimeError("the training failed") from self.failure
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what} did not come in {seconds:.0f} s")
            time.sleep(0.1)

    def pages(self) -> int:
        """How many clients the viewer knows of, or still renders for."""
        viewer = self.trainer.viewer_state
        assert viewer is not None
        return max(len(viewer.viser_server.get_clients()), len(viewer.render_statemachines))

    def longest_pause(self) -> float:
        """The longest time, in seconds, in which no step was finished."""
        times = [self.samples[0][0]]
        times += [b[0] for a, b in zip(self.samples, self.samples[1:], strict=False) if b[1] > a[1]]
        return max(b - a for a, b in zip(times, [*times[1:], self.samples[-1][0]], strict=True))

    def growth(self, after: float) -> float:
        """By how much of what it was after so many seconds memory has grown at the end (medians of ten seconds)."""
        start = self.samples[0][0] + after
        early = [memory for when, _, memory in self.samples if start <= when < start + 10]
        late = [memory for when, _, memory in self.samples if when >= self.samples[-1][0] - 10]
        return median(late) / median(early or late) - 1

    def memory_by_minute(self) -> list[int]:
        """Megabytes at the end of each minute."""
        begin = self.samples[0][0]
        last = {int((when - begin) // 60): memory for when, _, memory in self.samples}
        return [round(memory / 1e6) for memory in last.values()]

    def _train(self) -> None:
        try:
            self.trainer.train()
        except BaseException as error:
            self.failure = error

    def _sample(self) -> None:
        while self._training.is_alive():
            self.samples.append((time.monotonic(), self.trainer.step, resident("VmRSS")))
            time.sleep(0.5)


@contextmanager
def plain_pictures(model: FeatureSplatfacto) -> Iterator[None]:
    """What nerfstudio itself would show of the same Gaussians: without the pictures of the features."""
    viewer = model.feature_viewer

    def bare(gaussians: dict[str, Any]) -> dict[str, Any]:
        return {**gaussians, SHOWN_CHANNELS: gaussians["means"]}

    with patch.object(viewer, "prepared", bare), patch.object(viewer, "outputs", lambda *_: {}):
        yield


@contextmanager
def clients(port: int, seconds: float, *options: str) -> Iterator[subprocess.Popen[str]]:
    """`benchmarks.soak_clients` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.soak_clients", str(port), str(seconds), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def timed(run: Run, seconds: float) -> tuple[float, float]:
    """Milliseconds per step for a while, and milliseconds of processor time, of all threads.

    The second is what others on the machine disturb less.
    """
    start, cpu, first = time.monotonic(), time.process_time(), run.trainer.step
    time.sleep(seconds)
    steps = max(1, run.trainer.step - first)
    return 1e3 * (time.monotonic() - start) / steps, 1e3 * (time.process_time() - cpu) / steps


@dataclass
class Result:
    """What a soak found."""

    alone: list[tuple[float, float]] = field(default_factory=list)
    """Milliseconds of a step, and of processor time, of each turn."""
    plain: list[tuple[float, float]] = field(default_factory=list)
    watched: list[tuple[float, float]] = field(default_factory=list)
    used: float = 0.0
    pause: float = 0.0
    growth: float = 0.0
    memory: float = 0.0
    minutes: list[int] = field(default_factory=list)
    """Megabytes at the end of each minute."""
    steps: int = 0
    gaussians: int = 0
    log: dict[str, Any] = field(default_factory=dict)

    def slowdown(self, of: Sequence[tuple[float, float]], clock: int = 0) -> float:
        """Median over the turns of the time of a step by that without clients; clock: 0 wall, 1 processor."""
        return median(value[clock] / alone[clock] for value, alone in zip(of, self.alone, strict=True))

    def failures(self) -> list[str]:
        """What is not as it should be."""
        found = [f"unanswered: {each}" for each in self.log["unanswered"]]
        if self.pause > BOUND:
            found.append(f"no step in {self.pause:.0f} s")
        if self.growth > MOST_GROWTH:
            found.append(f"memory grew by {100 * self.growth:.0f} %")
        if self.watched and self.slowdown(self.watched) > MOST_SLOWDOWN:
            found.append(f"training takes {self.slowdown(self.watched):.2f} times as long with clients that look")
        return found

    def table(self) -> list[str]:
        """Markdown."""
        rows = [*header("", "")]
        for name, values in (
            ("no client", self.alone),
            (f"{CLIENTS} still clients, nerfstudio's pictures", self.plain),
            (f"{CLIENTS} still clients, all pictures", self.watched),
        ):
            if values:
                wall, processor = (median(value[clock] for value in values) for clock in (0, 1))
                text = f"{wall:.0f} ms, {processor:.0f} ms of processor time"
                if values is not self.alone:
                    text += f"; {self.slowdown(values):.2f} and {self.slowdown(values, 1):.2f} times"
                rows.append(row(f"a step, {name}", text))
        answers = sorted(seconds for each in self.log["answers"].values() for seconds in each)
        rows += [
            row("a step while clients do everything", f"{self.used:.0f} ms"),
            row("longest time without a step", f"{self.pause:.1f} s"),
            row("steps, Gaussians at the end", f"{self.steps:,}, {self.gaussians:,}"),
            row("actions, unanswered", f"{len(answers):,}, {len(self.log['unanswered'])}"),
            row("clients that vanished", str(self.log["vanished"])),
            row("pictures seen", f"{self.log['pictures']:,}"),
            row("memory at the end, growth", f"{self.memory / 1e6:,.0f} MB, {100 * self.growth:+.1f} %"),
            row("memory, minute by minute, MB", ", ".join(map(str, self.minutes))),
        ]
        if answers:
            often = f"{median(answers):.2f}, {answers[int(0.95 * (len(answers) - 1))]:.2f}, {answers[-1]:.2f} s"
            rows.append(row("answer: median, 95 %, longest", often))
        return rows


def soak(run: Run, seconds: float, turns: int = 4, turn: float = 15.0) -> Result:
    """Train beside clients, in turns that are timed and then with all that they can do.

    Raises:
        RuntimeError: the training failed, or clients that are gone are not forgotten.
    """
    result = Result()
    for _ in range(turns):
        result.alone.append(timed(run, turn))
        with clients(run.port, 10 * turn, "--still", f"--clients={CLIENTS}"):
            run.wait_until(lambda: run.pages() == CLIENTS, BOUND, "the clients")
            time.sleep(turn / 5)
            result.watched.append(timed(run, turn))
            with plain_pictures(run.trainer.pipeline.model):
                time.sleep(turn / 5)
                result.plain.append(timed(run, turn))
        run.wait_until(lambda: run.pages() == 0, 3 * BOUND, "the end of clients that are gone")
    with clients(run.port, seconds, f"--clients={CLIENTS}") as process:
        start, first = time.monotonic(), run.trainer.step
        output, _ = process.communicate(timeout=seconds + 5 * BOUND)
        result.used = 1e3 * (time.monotonic() - start) / max(1, run.trainer.step - first)
    result.log = json.loads(output)
    run.wait_until(lambda: run.pages() == 0, 3 * BOUND, "the end of clients that are gone")
    step = run.trainer.step
    run.wait_until(lambda: run.trainer.step > step + 5, BOUND, "steps after all clients are gone")
    result.pause, result.memory, result.steps = run.longest_pause(), run.samples[-1][2], run.trainer.step
    result.growth = run.growth(min(120.0, (run.samples[-1][0] - run.samples[0][0]) / 2))
    result.minutes = run.memory_by_minute()
    result.gaussians = run.trainer.pipeline.model.num_points
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a capture")
    parser.add_argument("--minutes", type=float, default=10.0, help="altogether, without the start")
    parser.add_argument("--turns", type=int, default=4, help="of a minute each, in which steps are timed")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        config = make_config(asked.data, Path(folder))
        config.save_config()
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup()
        run = Run(trainer)
        run.start()
        result = soak(run, max(10.0, 60 * (asked.minutes - asked.turns)), asked.turns)
        run.stop()
    print("\n".join(result.table()))
    if asked.json is not None:
        asked.json.write_text(json.dumps(vars(result), indent=1))
    if failures := result.failures():
        raise SystemExit("\n".join(failures))


if __name__ == "__main__":
    main()
