"""A run that was stopped, politely or not, goes on where it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fit3d_ns.method.trainer import Fit3DTrainerConfig
from tests.fit3d_ns.method.runs import make_config, make_trainer, train
from tests.scenes import TINY_BACKBONE


def _resume_from(folder: Path) -> Any:
    def change(config: Fit3DTrainerConfig) -> None:
        config.load_dir = folder

    return change


def test_a_resumed_run_has_the_checkpoints_gaussians_and_optimisers(tiny_capture: Path, tmp_path: Path) -> None:
    first = train(make_config(tiny_capture, tmp_path / "first", steps=40, densify_grad_thresh=1e-5))
    config = make_config(
        tiny_capture, tmp_path / "second", steps=10, densify_grad_thresh=1e-5, change=_resume_from(first.checkpoint_dir)
    )
    second = make_trainer(config)
    before, after = first.pipeline.model, second.pipeline.model

    assert second._start_step == 40
    for name, values in before.state_dict().items():
        assert torch.equal(values, after.state_dict()[name]), name
    for name, optimizer in second.optimizers.optimizers.items():
        old = first.optimizers.optimizers[name]
        for group, old_group in zip(optimizer.param_groups, old.param_groups, strict=True):
            assert group["lr"] == pytest.approx(old_group["lr"])
            for parameter, old_parameter in zip(group["params"], old_group["params"], strict=True):
                if name in after.gauss_params:
                    assert parameter is after.gauss_params[name]
                for key, value in old.state[old_parameter].items():
                    assert torch.equal(value, optimizer.state[parameter][key]), (name, key)
    count = after.num_points
    second.train()
    assert after.step == 49
    assert after.num_points >= count


def test_a_checkpoint_that_lacks_a_parameter_is_refused(tiny_capture: Path, tmp_path: Path) -> None:
    first = train(make_config(tiny_capture, tmp_path / "first", steps=2))
    path = next(first.checkpoint_dir.glob("*.ckpt"))
    state = torch.load(path, weights_only=False)
    del state["pipeline"]["_model.decoder.bias"]
    torch.save(state, path)
    config = make_config(tiny_capture, tmp_path / "second", steps=2, change=_resume_from(first.checkpoint_dir))
    with pytest.raises(RuntimeError, match=r"decoder\.bias"):
        make_trainer(config)


def test_an_interrupted_checkpoint_leaves_the_previous_one(
    tiny_capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = train(make_config(tiny_capture, tmp_path, steps=2))
    before = {path.name: path.read_bytes() for path in trainer.checkpoint_dir.iterdir()}

    def torn(state: Any, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(KeyboardInterrupt):
        trainer.save_checkpoint(7)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in trainer.checkpoint_dir.iterdir()} == before
    trainer.save_checkpoint(8)
    assert [path.name for path in trainer.checkpoint_dir.iterdir()] == ["step-000000008.ckpt"]


def test_a_killed_training_resumes(tiny_capture: Path, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("ns-train")), "fit3d-features-fast", "--data", str(tiny_capture)]
    command += ["--vis", "tensorboard", "--viewer.quit-on-train-completion", "True", *TINY_BACKBONE]
    command += ["--output-dir", str(tmp_path), "--experiment-name", "tiny", "--steps-per-save", "20"]
    checkpoints = tmp_path / "tiny" / "fit3d-features-fast" / "first" / "nerfstudio_models"

    process = subprocess.Popen(
        [*command, "--timestamp", "first"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 240
        while not list(checkpoints.glob("step-*.ckpt")):
            assert process.poll() is None, "training stopped by itself"
            assert time.monotonic() < deadline, "no checkpoint after four minutes"
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    saved = max(int(path.stem.removeprefix("step-")) for path in checkpoints.glob("step-*.ckpt"))

    resumed = [*command, "--timestamp", "second", "--load-dir", str(checkpoints), "--max-num-iterations", "5"]
    result = subprocess.run(resumed, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr[-2000:]
    (checkpoint,) = (tmp_path / "tiny" / "fit3d-features-fast" / "second" / "nerfstudio_models").iterdir()
    assert checkpoint.name == f"step-{saved + 5:09d}.ckpt"
