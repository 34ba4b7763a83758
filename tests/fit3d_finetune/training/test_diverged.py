"""What is not finite stops a fine-tuning at once, with one sentence, and never reaches what is kept."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fit3d_finetune.commands.finetune import main
from fit3d_finetune.targets.scenes import Scene
from fit3d_finetune.training import samples as loading
from fit3d_finetune.training import train as training
from fit3d_finetune.training.checkpoint import CHECKPOINT_FILE
from fit3d_finetune.training.learner import make_learner
from fit3d_finetune.training.optimizer import tuned_parameters
from fit3d_finetune.training.recipe import Recipe
from fit3d_finetune.training.samples import Sample
from fit3d_finetune.training.step import Diverged, training_step
from fit3d_finetune.training.train import finetune
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.output_place import marker_file
from fit3d_ns.features.backbone import load_backbone
from tests.fit3d_finetune.scenes import BACKBONE, GRID, HEIGHT, WIDTH, run_of, scene_of, store_of

RECIPE = Recipe(lr=1e-3, clip_norm=1.0, epochs=3)
"""12 steps on the eight training views of the two scenes."""


def spoil_target(monkeypatch: pytest.MonkeyPatch, spoilt_step: int, value: float) -> None:
    """From now on one step sees a target with one such value."""
    load = loading.Loader.load

    def spoilt(self: loading.Loader, step: int) -> list[Sample]:
        samples = load(self, step)
        if step == spoilt_step:
            features = samples[0].features.clone()
            features[0, 0, 0] = value
            samples[0] = dataclasses.replace(samples[0], features=features)
        return samples

    monkeypatch.setattr(loading.Loader, "load", spoilt)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_leaves_weights_and_optimiser_as_they_were(value: float) -> None:
    backbone = load_backbone(BACKBONE)
    parameters = list(tuned_parameters(backbone).values())
    learner = make_learner(backbone, RECIPE)
    optimizer = learner.optimizer
    good = Sample(torch.rand(3, HEIGHT, WIDTH), torch.randn(*GRID, 64), torch.ones(GRID))
    training_step(learner, [good], RECIPE, 1e-3)
    before = [parameter.clone() for parameter in parameters]
    moments = [optimizer.state[parameter]["exp_avg"].clone() for parameter in parameters]
    bad = dataclasses.replace(good, features=torch.full_like(good.features, value))
    with pytest.raises(Diverged, match=r"its loss is (nan|inf)"):
        training_step(learner, [good, bad], RECIPE, 1e-3)
    assert all(torch.equal(parameter, old) for parameter, old in zip(parameters, before, strict=True))
    kept = [optimizer.state[parameter]["exp_avg"] for parameter in parameters]
    assert all(torch.equal(moment, old) for moment, old in zip(kept, moments, strict=True))


def test_a_gradient_that_is_not_finite_stops_where_the_loss_is(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_backbone(BACKBONE)
    parameters = list(tuned_parameters(backbone).values())
    parameters[0].register_hook(lambda gradient: gradient * float("nan"))
    before = [parameter.clone() for parameter in parameters]
    sample = Sample(torch.rand(3, HEIGHT, WIDTH), torch.randn(*GRID, 64), torch.ones(GRID))
    with pytest.raises(Diverged, match="its gradient is nan"):
        training_step(make_learner(backbone, RECIPE), [sample], RECIPE, 1e-3)
    assert all(torch.equal(parameter, old) for parameter, old in zip(parameters, before, strict=True))


def test_the_last_good_checkpoint_is_named_and_good(
    tmp_path: Path, scenes: list[Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_file(finetune(run_of(tmp_path / "whole", scenes, RECIPE)) / "model.safetensors")
    run = run_of(tmp_path / "out", scenes, RECIPE, save_seconds=0.0)
    with monkeypatch.context() as patch:
        spoil_target(patch, 7, float("nan"))
        with pytest.raises(InputError) as error:
            finetune(run)
    path = run.output_dir / CHECKPOINT_FILE
    assert str(error.value) == (
        f"the training diverged in step 8 (its loss is nan), the last good checkpoint, after 7 steps, is {path}: "
        "give a lower --lr, and another --output-dir."
    )
    assert sorted(file.name for file in run.output_dir.iterdir()) == [marker_file("fit3d-finetune"), CHECKPOINT_FILE]
    assert all(bool(tensor.isfinite().all()) for tensor in load_file(path).values())
    resumed = load_file(finetune(run) / "model.safetensors")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole), "as if nothing had been"


@pytest.mark.parametrize("save_seconds", [0.0, 1e9])
def test_weights_that_a_step_spoilt_are_never_written(
    tmp_path: Path, scenes: list[Scene], monkeypatch: pytest.MonkeyPatch, save_seconds: float
) -> None:
    step, done = training.training_step, 0

    def spoiling(learner, *others):  # type: ignore[no-untyped-def]
        nonlocal done
        figures = step(learner, *others)
        done += 1
        if done == 4:  # the last of the first epoch
            with torch.no_grad():
                list(learner.parameters.values())[3].view(-1)[0] = float("nan")
        return figures

    monkeypatch.setattr(training, "training_step", spoiling)
    run = run_of(tmp_path / "out", scenes, RECIPE, save_seconds=save_seconds)
    kept = "the last good checkpoint, after 3 steps" if save_seconds == 0 else "before any checkpoint"
    with pytest.raises(InputError, match=rf"diverged in step 4 \(it left weights that are not finite\), {kept}"):
        finetune(run)
    assert not (run.output_dir / "fit3d.json").exists()
    written = list(run.output_dir.glob("*.safetensors")) if run.output_dir.exists() else []
    assert len(written) == (save_seconds == 0)
    assert all(bool(tensor.isfinite().all()) for file in written for tensor in load_file(file).values())


def test_the_command_ends_with_the_sentence_and_exit_code_2(
    tmp_path: Path, exports: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil_target(monkeypatch, 1, float("nan"))
    options = ["--exports", str(exports), "--output-dir", str(tmp_path / "out"), "--tracker", "none", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["fit3d-finetune", *options, "--precision", "bf16"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    [sentence] = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "diverged in step 2 (its loss is nan), before any checkpoint" in sentence
    assert "give a lower --lr or --precision fp32, and another --output-dir." in sentence


def test_a_scene_whose_features_are_too_large_is_named_before_the_training(tmp_path: Path) -> None:
    scene = scene_of(tmp_path, decoder="conv3x3")
    gaussians = scene.load()
    gaussians.decoder["weight"] *= 1e8
    gaussians.save(Path(str(scene.files)), overwrite=True)
    with pytest.raises(InputError, match=r"runs/plane gives a target that is not finite \(view 0\)"):
        store_of(tmp_path, scene)
