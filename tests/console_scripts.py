"""The package's and nerfstudio's commands, run as a user runs them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tests.scenes import TINY_BACKBONE


def console_script(name: str) -> str:
    """Path of a console script of the environment that runs the tests."""
    return str(Path(sys.executable).with_name(name))


def end_group(process: subprocess.Popen[str]) -> None:
    """Kill a process that leads its own group, and all its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_script(name: str, *arguments: str | Path, timeout: float = 300) -> str:
    """Run a console script to its end and return what it wrote; fail with that text if it fails."""
    process = subprocess.Popen(
        [console_script(name), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        end_group(process)
    assert process.returncode == 0, f"{name} ended with exit code {process.returncode}:\n{output[-6000:]}"
    return output


def foreign_lines(output: str) -> list[str]:
    """Lines of a log that no user should see: warnings of other packages, and what was drawn over."""
    signs = ("\r", "\x1b[", "Warning:", "warnings.warn", "%|")
    return [line for line in output.split("\n") if any(sign in line for sign in signs)]


def train_briefly(data: Path, output_dir: Path, steps: int = 80) -> Path:
    """Train `fit3d-features-fast` with a tiny random backbone for some dozen steps; returns the run's config.yml."""
    output = run_script(
        *("ns-train", "fit3d-features-fast", "--data", data, "--output-dir", output_dir),
        *("--experiment-name", "scene", "--timestamp", "run", "--max-num-iterations", str(steps)),
        *("--vis", "tensorboard", "--viewer.quit-on-train-completion", "True"),
        *("--steps-per-eval-image", "10000", "--steps-per-eval-all-images", "10000"),
        *TINY_BACKBONE,
        # What the preset starts after hundreds of steps starts at once.
        *("--pipeline.model.feature-start-step", "0", "--pipeline.model.num-downscales", "0"),
        *("--pipeline.model.sh-degree-interval", "20"),
    )
    # Before it prints its configuration nerfstudio has not read our methods yet.
    assert foreign_lines(output.partition(" Config ")[2]) == []
    return output_dir / "scene" / "fit3d-features-fast" / "run" / "config.yml"
