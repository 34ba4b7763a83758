"""Several processes train what one would: the same losses, the same weights, and a run that either can go on with."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fit3d_finetune.backbone.hub import read_finetuned
from fit3d_finetune.commands.finetune import parse
from fit3d_finetune.commands.finetune import run as run_command
from fit3d_finetune.targets.finding import find_scenes
from fit3d_finetune.targets.scenes import Scene
from fit3d_finetune.training.checkpoint import CHECKPOINT_FILE, read_progress
from fit3d_finetune.training.processes import ALONE, Processes, joined
from fit3d_finetune.training.recipe import Recipe
from fit3d_finetune.training.step import own_passes, own_samples
from fit3d_finetune.training.train import finetune
from fit3d_ns.common.errors import InputError
from tests.console_scripts import end_group
from tests.fit3d_finetune.scenes import HEIGHT, WIDTH, make_gaussians, run_of
from tests.fit3d_finetune.training.runs import cut_short, weights

ROOT = Path(__file__).parents[3]
TAUGHT = Recipe(lr=1e-3, clip_norm=1.0, epochs=2, batch_size=3, loss_mean="image", depth_weight=1.0, normal_weight=1.0)
"""Eight views: the last step of an epoch has two of them."""
PAPER = Recipe(lr=1e-3, clip_norm=1.0, epochs=2, batch_size=3, accumulate=2, last_batch="keep")

WORKER = """
import dataclasses, pathlib, sys
from fit3d_finetune.training.processes import joined
from fit3d_finetune.training.train import finetune
from tests.fit3d_finetune.scenes import run_of
from tests.fit3d_finetune.training import test_processes as these
folder, output, recipe, options = pathlib.Path(sys.argv[1]), sys.argv[2], getattr(these, sys.argv[3]), eval(sys.argv[4])
scenes = these.scenes_in(folder)
with joined("cpu") as processes:
    run = run_of(folder / output, scenes, recipe)
    finetune(dataclasses.replace(run, processes=processes, **options))
"""


def scenes_in(folder: Path) -> list[Scene]:
    """Those that `make_scenes` wrote."""
    return find_scenes(folder / "runs")


def make_scenes(folder: Path) -> list[Scene]:
    """Two scenes of four training views each; in the second one a mask leaves few patches."""
    mask = np.ones((HEIGHT, WIDTH), bool)
    mask[:, :40] = False
    for name, hidden in (("first", None), ("second", mask)):
        gaussians = make_gaussians(folder / "captures" / name, mask=hidden, seed=len(name))
        gaussians = dataclasses.replace(gaussians, scene=dataclasses.replace(gaussians.scene, scene=name))
        gaussians.save(folder / "runs" / name)
    return scenes_in(folder)


def torchrun(count: int, *arguments: object) -> subprocess.Popen[str]:
    """Start that many processes of a script."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "--no-python",
         sys.executable, "-c", WORKER, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True, cwd=ROOT,
    )  # fmt: skip


def together(folder: Path, output: str, recipe: str, count: int = 2, **options: object) -> Path:
    """Train with several processes, to the end."""
    process = torchrun(count, folder, output, recipe, repr(options))
    try:
        said, _ = process.communicate(timeout=300)
    finally:
        end_group(process)
    assert process.returncode == 0, said[-4000:]
    return folder / output


def near(one: Path, other: Path) -> None:
    """Both trainings came to the same weights and losses, but for the order of sums."""
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    # AdamW moves a weight by the learning rate even where its gradient is nothing but rounding.
    far = torch.cat([((first[name] - second[name]).abs() > 2e-5).reshape(-1) for name in first])
    assert far.float().mean() < 0.01
    curves = [[list(entry.values()) for entry in read_finetuned(each).summary["history"]] for each in (one, other)]
    np.testing.assert_allclose(curves[0], curves[1], atol=1e-5)


@given(count=st.integers(1, 20), batch_size=st.integers(1, 6), processes=st.integers(1, 5))
def test_every_sample_of_a_step_is_in_one_process_and_in_its_own_pass(
    count: int, batch_size: int, processes: int
) -> None:
    found: dict[int, int] = {}
    for rank in range(processes):
        each = Processes(rank, processes)
        own = own_samples(range(count), batch_size, each)
        passes = own_passes(own, count, batch_size, each)  # type: ignore[arg-type]
        assert [sample for batch, _ in passes for sample in batch] == own
        assert sum(size for _, size in passes) == count
        for number, (batch, _) in enumerate(passes):
            assert all(sample // batch_size == number for sample in batch)  # type: ignore[operator]
            found |= dict.fromkeys(batch, rank)  # type: ignore[misc]
    assert sorted(found) == list(range(count))


@pytest.mark.parametrize(
    ("recipe", "count"),
    [pytest.param("TAUGHT", 2, marks=pytest.mark.slow), pytest.param("PAPER", 2, marks=pytest.mark.slow), ("PAPER", 3)],
)
def test_several_processes_come_to_what_one_comes_to(tmp_path: Path, recipe: str, count: int) -> None:
    scenes = make_scenes(tmp_path)
    alone = finetune(run_of(tmp_path / "alone", scenes, globals()[recipe]))
    near(alone, together(tmp_path, "together", recipe, count))


def test_another_number_of_processes_goes_on_with_a_run(tmp_path: Path) -> None:
    scenes = make_scenes(tmp_path)
    whole = finetune(run_of(tmp_path / "whole", scenes, TAUGHT))
    cut_short(run_of(tmp_path / "cut", scenes, TAUGHT, save_seconds=0.0), 2)
    near(whole, together(tmp_path, "cut", "TAUGHT"))


LONG = dataclasses.replace(TAUGHT, epochs=4_000)


def started(folder: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """A long training of two processes that has written a checkpoint, and their numbers, the first one's first."""
    process = torchrun(2, folder, "long", "LONG", repr({"save_seconds": 0.0}))
    deadline = time.monotonic() + 120
    while not (folder / "long" / CHECKPOINT_FILE).is_file():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    workers = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            environment = (status.parent / "environ").read_bytes().split(b"\0")
        except (OSError, ValueError, IndexError):
            continue
        if parent == process.pid:
            workers += [(rank, int(status.parent.name)) for rank in range(2) if f"RANK={rank}".encode() in environment]
    assert len(workers) == 2
    return process, [number for _, number in sorted(workers)]


@pytest.mark.parametrize("killed", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_one_that_is_killed_ends_all_with_a_sentence_and_leaves_the_checkpoint(tmp_path: Path, killed: int) -> None:
    scenes = make_scenes(tmp_path)
    process, workers = started(tmp_path)
    try:
        os.kill(workers[killed], signal.SIGKILL)
        said, _ = process.communicate(timeout=60)
    finally:
        end_group(process)
    assert process.returncode != 0
    assert "another process of this training has ended" in said
    run = run_of(tmp_path / "long", scenes, LONG)
    progress = read_progress(tmp_path / "long" / CHECKPOINT_FILE, run.identity())
    assert progress is not None
    assert progress.step > 0


@pytest.mark.slow
def test_sigterm_to_one_saves_and_stops_after_a_step(tmp_path: Path) -> None:
    scenes = make_scenes(tmp_path)
    process, workers = started(tmp_path)
    try:
        os.kill(workers[1], signal.SIGTERM)  # one is enough
        said, _ = process.communicate(timeout=60)
    finally:
        end_group(process)
    assert "the same command goes on from there" in said
    progress = read_progress(tmp_path / "long" / CHECKPOINT_FILE, run_of(tmp_path / "long", scenes, LONG).identity())
    assert progress is not None
    assert f"stopped at step {progress.step} of" in said


def test_without_torchrun_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined("cpu") as processes:
        assert processes == ALONE
        assert processes.any(True)
        assert not processes.any(False)
        assert processes.own([1, 2, 3]) == [1, 2, 3]


def test_variables_that_are_no_numbers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    said = r"RANK, WORLD_SIZE, LOCAL_RANK are not all numbers .*: start with torchrun"
    with pytest.raises(InputError, match=said), joined("cpu"):
        pass


def test_a_batch_smaller_than_the_processes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_scenes(tmp_path)
    arguments = parse(["--exports", str(tmp_path / "runs"), "--output-dir", str(tmp_path / "out"), "--batch-size", "3"])
    with pytest.raises(InputError, match="--batch-size 3 is of all 4 processes together: give at least one image"):
        run_command(arguments, Processes(0, 4))
