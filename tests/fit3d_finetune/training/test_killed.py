"""The command itself, stopped and killed from outside, without nerfstudio; and its memory with many scenes."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from fit3d_finetune.training.checkpoint import CHECKPOINT_FILE
from tests.fit3d_finetune.processes import finish, peak_kilobytes, start
from tests.fit3d_finetune.scenes import write_export

EPOCHS = 12


def command(exports: Path, output_dir: Path) -> list[str]:
    """48 steps, with a checkpoint after each."""
    return [
        *("--exports", str(exports), "--output-dir", str(output_dir), "--preset", "recommended"),
        *("--epochs", str(EPOCHS), "--save-seconds", "0", "--tracker", "none", "--precision", "fp32"),
    ]


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the targets once `uninterrupted` was made: the kernels take seconds to load."""
    return tmp_path_factory.mktemp("targets")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, exports: Path, targets: Path) -> bytes:
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert finish(command(exports, folder / "out"), targets, folder / "log") == 0
    return (folder / "out" / "model.safetensors").read_bytes()


def wait_for_checkpoints(checkpoint: Path, count: int) -> None:
    """Until the checkpoint was written `count` times, or the training is over."""
    seen: set[int] = set()
    limit = time.monotonic() + 60
    while len(seen) < count and time.monotonic() < limit:
        if (checkpoint.parent / "fit3d.json").exists():
            return
        if checkpoint.exists():
            seen.add(os.stat(checkpoint).st_mtime_ns)
        time.sleep(0.001)
    assert len(seen) == count, "no checkpoint within a minute"


def test_a_killed_command_goes_on_to_the_same_weights(
    tmp_path: Path, exports: Path, targets: Path, uninterrupted: bytes
) -> None:
    arguments = command(exports, tmp_path / "out")
    chance = random.Random(0)
    for _ in range(4):
        process = start(arguments, targets, tmp_path / "log")
        wait_for_checkpoints(tmp_path / "out" / CHECKPOINT_FILE, 5)
        time.sleep(chance.uniform(0, 0.03))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, (tmp_path / "log").read_text()
        assert not (tmp_path / "out" / "fit3d.json").exists()
    assert finish(arguments, targets, tmp_path / "log") == 0
    assert "Going on at step" in (tmp_path / "log").read_text()
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name.endswith((".tmp", ".lock"))] == []
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == uninterrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_says_so_and_goes_on_to_the_same_weights(
    tmp_path: Path, exports: Path, targets: Path, uninterrupted: bytes, number: signal.Signals
) -> None:
    arguments = command(exports, tmp_path / "out")
    process = start(arguments, targets, tmp_path / "log")
    wait_for_checkpoints(tmp_path / "out" / CHECKPOINT_FILE, 3)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == 130
    log = " ".join((tmp_path / "log").read_text().split())
    assert "of 48; the same command goes on from there" in log
    assert "Traceback" not in log
    assert finish(arguments, targets, tmp_path / "log") == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == uninterrupted


def test_a_command_that_never_stopped_is_done_once(
    tmp_path: Path, exports: Path, targets: Path, uninterrupted: bytes
) -> None:
    arguments = [*command(exports, tmp_path / "out"), "--max-steps", "2"]
    for expected in ("Fine-tuned backbone:", "is finished already: nothing to do"):
        assert finish(arguments, targets, tmp_path / "log") == 0
        assert expected in " ".join((tmp_path / "log").read_text().split())


def test_help_needs_no_nerfstudio(tmp_path: Path, targets: Path) -> None:
    assert finish(["--help"], targets, tmp_path / "log") == 0
    assert "--exports" in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_scenes(tmp_path: Path) -> None:
    """200 scenes of 4 MB each on disk take at most a fifth more memory than 10."""
    first = write_export(tmp_path / "200" / "runs" / "scene_000", count=20_000, feature_dim=64, views=3)
    (tmp_path / "10" / "runs").mkdir(parents=True)
    for i in range(200):
        name = f"scene_{i:03d}"
        if i:
            write_export(tmp_path / "200" / "runs" / name, count=20_000, feature_dim=64, views=3, seed=i)
        if i < 10:
            (tmp_path / "10" / "runs" / name).symlink_to(tmp_path / "200" / "runs" / name)
    assert (first / "gaussians.safetensors").stat().st_size > 4e6
    peaks = []
    for scenes in ("10", "200"):
        arguments = [
            *("--exports", str(tmp_path / scenes / "runs"), "--output-dir", str(tmp_path / scenes / "out")),
            *("--tracker", "none", "--max-steps", "18", "--epochs", "2", "--val-fraction", "0", "--precision", "fp32"),
        ]
        assert finish(arguments, tmp_path / scenes / "cache", tmp_path / "log") == 0, (tmp_path / "log").read_text()
        peaks.append(peak_kilobytes(tmp_path / "log"))
    print(f"peak memory: {peaks[0] / 1024:.0f} MB with 10 scenes, {peaks[1] / 1024:.0f} MB with 200")
    assert peaks[1] < 1.2 * peaks[0]
