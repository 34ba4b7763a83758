"""The same seed gives the same checkpoint: whatever is cached, whoever draws random numbers, however often it stops."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor

from fit3d_ns.method.trainer import OWN_STATE, Fit3DTrainer, Fit3DTrainerConfig
from tests.fit3d_ns.method.runs import make_config, make_trainer

STEPS = 40
STRATEGIES: dict[str, dict[str, Any]] = {
    "default": {"densify_grad_thresh": 1e-5, "stop_screen_size_at": 1000, "background_color": "random"},
    "mcmc": {"strategy": "mcmc", "background_color": "random"},
}
"""Both densify every tenth step, to the end."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights in a file: timm draws random numbers for a network before they are loaded."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        safetensors.torch.save_file(timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def warm_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Filled by the reference runs."""
    return tmp_path_factory.mktemp("warm")


class Runs:
    """Trainings of one capture that should all come out the same."""

    def __init__(self, capture: Path, weights: Path, cache: Path) -> None:
        self.capture, self.weights, self.cache = capture, weights, cache

    def trainer(
        self, output: Path, strategy: str, steps: int = STEPS, cache: Path | None = None, load_dir: Path | None = None
    ) -> Fit3DTrainer:
        def change(config: Fit3DTrainerConfig) -> None:
            datamanager = config.pipeline.datamanager
            datamanager.backbone = type(datamanager.backbone)(name="vit_tiny_patch16_224", weights=str(self.weights))
            datamanager.feature_cache_dir = cache or self.cache
            config.load_dir = load_dir

        return make_trainer(make_config(self.capture, output, steps, change=change, **STRATEGIES[strategy]))


@pytest.fixture(scope="module")
def runs(tiny_capture: Path, weights: Path, warm_cache: Path) -> Runs:
    return Runs(tiny_capture, weights, warm_cache)


@pytest.fixture(scope="module", params=STRATEGIES)
def reference(request: pytest.FixtureRequest, runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The strategy and the last checkpoint of a training that nothing disturbed; its cache was cold (the first)."""
    trainer = runs.trainer(tmp_path_factory.mktemp("reference"), request.param)
    start = trainer.pipeline.model.num_points
    trainer.train()
    assert trainer.pipeline.model.num_points > start
    return {"strategy": request.param, "checkpoint": last_checkpoint(trainer)}


def last_checkpoint(trainer: Fit3DTrainer) -> dict[str, Any]:
    path = trainer.checkpoint_dir / f"step-{STEPS - 1:09d}.ckpt"
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def leaves(state: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in nested dicts and lists, each with its path."""
    if isinstance(state, dict):
        for key, value in state.items():
            yield from leaves(value, f"{name}/{key}")
    elif isinstance(state, (list, tuple)):
        for index, value in enumerate(state):
            yield from leaves(value, f"{name}/{index}")
    else:
        yield name, state


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    ours, theirs = dict(leaves(found)), dict(leaves(expected))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        same = torch.equal(ours[name], value) if isinstance(value, Tensor) else ours[name] == value
        assert same, f"{name} is another"


def test_a_cold_cache_and_a_warm_one_give_equal_checkpoints(
    reference: dict[str, Any], runs: Runs, tmp_path: Path
) -> None:
    for name, cache in (("cold", tmp_path / "cache"), ("warm", None)):
        trainer = runs.trainer(tmp_path / name, reference["strategy"], cache=cache)
        trainer.train()
        assert_equal(last_checkpoint(trainer), reference["checkpoint"])


def test_what_a_viewer_draws_changes_nothing(
    reference: dict[str, Any], runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[float] = []

    def draw(*_: Any, **__: Any) -> None:
        drawn.append(random.random() + float(np.random.rand()) + float(torch.rand(())))

    monkeypatch.setattr(Fit3DTrainer, "_init_viewer_state", draw)
    monkeypatch.setattr(Fit3DTrainer, "_update_viewer_state", draw)
    trainer = runs.trainer(tmp_path, reference["strategy"])
    draw()
    trainer.train()
    assert len(drawn) > STEPS
    assert_equal(last_checkpoint(trainer), reference["checkpoint"])


@pytest.mark.parametrize("stops", [(25,), (10, 11, 38)], ids=["while densifying", "three times"])
def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(
    stops: tuple[int, ...], reference: dict[str, Any], runs: Runs, tmp_path: Path
) -> None:
    done, folder = 0, None
    for part, stop in enumerate((*stops, STEPS)):
        trainer = runs.trainer(tmp_path / str(part), reference["strategy"], stop - done, load_dir=folder)
        assert trainer._start_step == done
        trainer.train()
        done, folder = stop, trainer.checkpoint_dir
    assert_equal(last_checkpoint(trainer), reference["checkpoint"])


def test_a_checkpoint_of_release_0_1_is_resumed_from_without_that_state(runs: Runs, tmp_path: Path) -> None:
    first = runs.trainer(tmp_path / "first", "default", steps=15)
    first.train()
    path = next(first.checkpoint_dir.glob("*.ckpt"))
    state = torch.load(path, weights_only=True)
    del state[OWN_STATE]
    torch.save(state, path)
    second = runs.trainer(tmp_path / "second", "default", steps=25, load_dir=first.checkpoint_dir)
    assert second.pipeline.model.strategy_state["grad2d"] is None
    second.train()
    assert second.pipeline.model.num_points > len(state["pipeline"]["_model.gauss_params.means"])


def test_a_run_may_go_on_with_another_strategy(runs: Runs, tmp_path: Path) -> None:
    first = runs.trainer(tmp_path / "first", "default", steps=15)
    first.train()
    second = runs.trainer(tmp_path / "second", "mcmc", steps=10, load_dir=first.checkpoint_dir)
    assert second.pipeline.model.strategy_state.keys() == {"binoms"}
    second.train()
