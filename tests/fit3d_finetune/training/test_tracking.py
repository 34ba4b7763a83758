"""Training figures go where the user asked."""

from __future__ import annotations

import importlib.machinery
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from fit3d_finetune.targets.scenes import Scene
from fit3d_finetune.training import train as training
from fit3d_finetune.training.train import finetune
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.output_place import marker_file
from tests.fit3d_finetune.scenes import run_of


def test_none_writes_nothing_beside_the_result(tmp_path: Path, scenes: list[Scene]) -> None:
    folder = finetune(run_of(tmp_path / "out", scenes, max_steps=1))
    names = [marker_file("fit3d-finetune"), "README.md", "config.json", "fit3d.json", "model.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == names


def test_tensorboard_gets_training_and_validation(tmp_path: Path, scenes: list[Scene]) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = finetune(run_of(tmp_path / "out", scenes, tracker="tensorboard"))
    events = EventAccumulator(str(folder / "logs"))
    events.Reload()
    names = {f"train/{name}" for name in ("loss", "cosine", "grad_norm", "lr")}
    assert set(events.Tags()["scalars"]) == names | {"held-out views/loss", "held-out views/cosine"}
    assert [event.step for event in events.Scalars("held-out views/loss")] == [0, 4]
    assert events.Scalars("train/lr")[0].value == pytest.approx(1e-3)


def test_a_missing_wandb_is_named_before_anything_is_done(
    tmp_path: Path, scenes: list[Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr(training, "samples_of", lambda _: pytest.fail("targets were made"))
    with pytest.raises(InputError, match="--tracker wandb needs Weights & Biases: pip install wandb"):
        finetune(run_of(tmp_path / "out", scenes, tracker="wandb"))
    assert not (tmp_path / "out").exists()


class WandbError(Exception):
    """As the package's own base of its errors."""


def fake_wandb(monkeypatch: pytest.MonkeyPatch, init: Any) -> None:
    """A package wandb whose `init` is the one given."""
    wandb = types.ModuleType("wandb")
    wandb.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    wandb.init = init  # type: ignore[attr-defined]
    wandb.errors = types.SimpleNamespace(Error=WandbError)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", wandb)


def test_a_wandb_without_login_is_one_sentence(
    tmp_path: Path, scenes: list[Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: Any) -> None:
        raise WandbError("No API key\n configured.")

    fake_wandb(monkeypatch, init)
    with pytest.raises(InputError, match=r"does not start \(No API key configured\.\); log in, set WANDB_MODE=offline"):
        finetune(run_of(tmp_path / "out", scenes, tracker="wandb"))
    assert not (tmp_path / "out" / "fit3d.json").exists()


def test_each_folder_is_a_run_of_its_own_at_wandb(
    tmp_path: Path, scenes: list[Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[dict[str, Any]] = []
    logged: list[int] = []

    class FakeRun:
        def log(self, scalars: dict[str, float], step: int) -> None:
            assert scalars
            logged.append(step)

        def finish(self) -> None:
            logged.append(-1)

    def init(**options: Any) -> FakeRun:
        started.append(options)
        return FakeRun()

    fake_wandb(monkeypatch, init)
    for name in ("one", "two"):
        finetune(run_of(tmp_path / name, scenes, tracker="wandb", max_steps=2))
    assert logged == [0, 0, 2, -1] * 2
    assert started[0]["id"] != started[1]["id"]
    assert [options["name"] for options in started] == ["one", "two"]
    assert all(options["resume"] == "allow" for options in started)
    assert started[0]["config"]["recipe"]["lr"] == 1e-3

    (tmp_path / "one" / "fit3d.json").unlink()
    finetune(run_of(tmp_path / "one", scenes, tracker="wandb", max_steps=2))
    assert started[2]["id"] == started[0]["id"]
