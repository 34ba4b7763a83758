"""The CUDA section on CPU tensors: only the device differs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import cuda
from benchmarks.cuda import FeatureStep, rows_of
from benchmarks.lifting import DIM, Problem
from fit3d_ns.features.decoder import FeatureDecoder
from fit3d_ns.scene.render import rasterize
from fit3d_ns.scene.splats import TENSORS, Splats
from fit3d_ns.scene.views import PinholeView
from tests.fit3d_finetune.scenes import BACKBONE, GRID, HEIGHT, WIDTH, backbone_info, write_export

Call = tuple[Splats, torch.Tensor, PinholeView]
CHANNELS = backbone_info(BACKBONE).embed_dim


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    return Problem.of(write_export(tmp_path_factory.mktemp("cuda") / "runs" / "plane"))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """What the rasteriser was given."""
    given = list[Call]()

    def remember(splats: Splats, channels: torch.Tensor, view: PinholeView) -> Any:
        given.append((splats, channels, view))
        return rasterize(splats, channels, view)

    monkeypatch.setattr(cuda, "rasterize", remember)
    return given


def test_both_steps_teach_features_and_decoder_and_no_geometry(problem: Problem, calls: list[Call]) -> None:
    step = FeatureStep.of(problem)
    linear, convolution = FeatureDecoder("linear", DIM, CHANNELS), FeatureDecoder("conv3x3", DIM, CHANNELS)
    for run, decoder in ((step.ours, linear), (step.published, convolution)):
        run(decoder)
        splats, channels, view = calls[-1]
        assert (view.width, view.height, channels.shape[1]) == (WIDTH, HEIGHT, 64), "full resolution"
        for name in TENSORS:
            assert not getattr(splats, name).requires_grad, name
        assert decoder.weight.grad is not None
        assert bool(decoder.weight.grad.any())
        assert step.features.grad is not None
        assert bool(step.features.grad.any())


def test_every_step_has_the_gradients_of_one_step(problem: Problem) -> None:
    step, decoder = FeatureStep.of(problem), FeatureDecoder("linear", DIM, CHANNELS)
    step.ours(decoder)
    assert step.features.grad is not None
    first = step.features.grad.clone()
    step.ours(decoder)
    torch.testing.assert_close(step.features.grad, first)


def test_the_losses_are_those_of_the_two_recipes(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = list[tuple[tuple[int, ...], str]]()
    loss = cuda.feature_loss

    def remember(decoded: torch.Tensor, target: torch.Tensor, weights: torch.Tensor, kind: Any) -> Any:
        assert decoded.shape == target.shape
        compared.append((tuple(decoded.shape), kind))
        return loss(decoded, target, weights, kind)

    monkeypatch.setattr(cuda, "feature_loss", remember)
    step = FeatureStep.of(problem)
    step.ours(FeatureDecoder("linear", DIM, CHANNELS))
    step.published(FeatureDecoder("conv3x3", DIM, CHANNELS))
    assert compared == [((*GRID, CHANNELS), "cosine+l1"), ((HEIGHT, WIDTH, CHANNELS), "l1")]


def test_the_rows_name_the_device_and_hold_no_gpu_memory_without_a_gpu(problem: Problem) -> None:
    rows = rows_of(problem, "cpu", repeats=1)
    assert [row.unit for row in rows] == ["ms", "s", "s", "s"]
    assert all("no GPU" in row.name and row.ours > 0 for row in rows)
    assert rows[0].reference is not None
    assert [row.aim.bound for row in rows[1:] if row.aim] == [1.0, 1.0]
