"""Training learns, stops and goes on without a trace, and is not done twice."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path

import pytest
import torch

from fit3d_finetune.backbone.hub import read_finetuned
from fit3d_finetune.targets.scenes import Scene, view_refs, with_novel_views
from fit3d_finetune.training import train as training
from fit3d_finetune.training.checkpoint import CHECKPOINT_FILE
from fit3d_finetune.training.loss import batch_loss
from fit3d_finetune.training.recipe import Recipe
from fit3d_finetune.training.samples import Samples
from fit3d_finetune.training.stopping import TrainingInterrupted
from fit3d_finetune.training.train import finetune
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.output_place import marker_file
from fit3d_ns.features.backbone import load_backbone
from tests.fit3d_finetune.scenes import BACKBONE, run_of, scene_of, store_of
from tests.fit3d_finetune.training.runs import same, weights

RECIPE = Recipe(lr=1e-3, clip_norm=1.0, epochs=3, warmup=0.2, schedule="cosine", layer_decay=0.8, crop_scale=0.7)
"""12 steps on the eight training views of the two scenes."""


def test_the_backbone_comes_to_predict_the_targets(tmp_path: Path) -> None:
    scene = scene_of(tmp_path)
    recipe = Recipe(lr=3e-3, clip_norm=10.0, epochs=40, batch_size=4)
    folder = finetune(run_of(tmp_path / "out", [scene], recipe))
    samples = Samples(view_refs([scene], "train"), store_of(tmp_path, scene))
    batch = [samples[i] for i in range(4)]
    with torch.no_grad():
        before, figures_before = batch_loss(load_backbone(BACKBONE), batch, "l1")
        after, figures = batch_loss(load_backbone(read_finetuned(folder).finetuned), batch, "l1")
    assert after < 0.5 * before
    assert figures["cosine"] > max(0.8, float(figures_before["cosine"]))
    history = read_finetuned(folder).summary["history"]
    assert [entry["step"] for entry in history] == list(range(41))
    assert history[-1]["held-out views/loss"] < 0.7 * history[0]["held-out views/loss"]


def test_blocks_after_the_feature_layer_stay_as_they_were(tmp_path: Path, scenes: list[Scene]) -> None:
    tuned = weights(finetune(run_of(tmp_path / "out", scenes)))
    for name, original in load_backbone(BACKBONE).model.state_dict().items():
        later = name.startswith(("blocks.4.", "blocks.5."))
        assert torch.equal(tuned[name], original) == later, name


class Stop(Exception):  # noqa: N818
    """The process dies."""


@pytest.mark.parametrize("stops", [[1], [5], [11], [2, 3, 9]])
def test_a_run_that_was_interrupted_goes_on_as_if_nothing_had_been(
    tmp_path: Path, scenes: list[Scene], monkeypatch: pytest.MonkeyPatch, stops: list[int]
) -> None:
    whole = finetune(run_of(tmp_path / "whole", scenes, RECIPE))
    run = run_of(tmp_path / "parts", scenes, RECIPE)
    step, done = training.training_step, 0

    def interrupted(*arguments: object) -> object:
        nonlocal done
        figures = step(*arguments)  # type: ignore[arg-type]
        done += 1
        if done in stops:
            os.kill(os.getpid(), signal.SIGINT)
        return figures

    monkeypatch.setattr(training, "training_step", interrupted)
    for stop in stops:
        with pytest.raises(TrainingInterrupted, match=f"stopped at step {stop} of 12; the same command goes on"):
            finetune(run)
        assert sorted(path.name for path in run.output_dir.iterdir()) == [
            marker_file("fit3d-finetune"),
            CHECKPOINT_FILE,
        ]
        torch.manual_seed(done)  # whatever random state the next start finds
    finetune(run)
    assert done == 12, "no step was done twice"
    assert same(weights(run.output_dir), weights(whole))
    assert not (run.output_dir / CHECKPOINT_FILE).exists()
    one, other = (read_finetuned(folder).summary["history"] for folder in (whole, run.output_dir))
    assert one == other
    assert len(one) == 4


@pytest.mark.parametrize("death", [4, 12])
def test_a_run_that_died_goes_on_from_its_last_checkpoint(
    tmp_path: Path, scenes: list[Scene], monkeypatch: pytest.MonkeyPatch, death: int
) -> None:
    whole = finetune(run_of(tmp_path / "whole", scenes, RECIPE))
    run = run_of(tmp_path / "parts", scenes, RECIPE, save_seconds=0.0)
    step, done = training.training_step, 0

    def dying(*arguments: object) -> object:
        nonlocal done
        done += 1
        if done == death:
            raise Stop
        return step(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "training_step", dying)
    with pytest.raises(Stop):
        finetune(run)
    finetune(run)
    assert same(weights(run.output_dir), weights(whole))


def test_the_signals_act_as_before_after_a_training(tmp_path: Path, scenes: list[Scene]) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    finetune(run_of(tmp_path / "out", scenes, max_steps=1))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_the_same_run_gives_the_same_weights_and_another_seed_others(tmp_path: Path, scenes: list[Scene]) -> None:
    one, two = (weights(finetune(run_of(tmp_path / name, scenes, max_steps=3))) for name in ("one", "two"))
    assert same(one, two)
    assert not same(one, weights(finetune(run_of(tmp_path / "three", scenes, max_steps=3, seed=1))))


def test_targets_that_are_not_kept_give_the_same_weights(tmp_path: Path, scenes: list[Scene]) -> None:
    kept = weights(finetune(run_of(tmp_path / "kept", scenes)))
    assert same(kept, weights(finetune(run_of(tmp_path / "anew", scenes, target_cache_bytes=0))))


def test_gradient_checkpointing_gives_the_same_weights(tmp_path: Path, scenes: list[Scene]) -> None:
    plain = weights(finetune(run_of(tmp_path / "plain", scenes, max_steps=2)))
    assert same(plain, weights(finetune(run_of(tmp_path / "less", scenes, max_steps=2, grad_checkpointing=True))))


def test_a_finished_folder_is_not_trained_again(
    tmp_path: Path, scenes: list[Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path / "out", scenes, max_steps=1)
    finetune(run)
    files = {path: path.read_bytes() for path in run.output_dir.iterdir()}
    monkeypatch.setattr(training, "samples_of", lambda _: pytest.fail("trained again"))
    assert finetune(run) == run.output_dir
    assert {path: path.read_bytes() for path in run.output_dir.iterdir()} == files


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"recipe": Recipe(lr=2e-3)}, "recipe.clip_norm, recipe.lr"),
        ({"seed": 1}, "seed"),
        ({"targets": "mirror"}, "targets"),
        ({"max_steps": 2}, "max_steps"),
        ({"scenes": 1}, "scenes.barn"),
        ({"novel_views": 1}, "novel_views"),
    ],
)
@pytest.mark.parametrize("state", ["finished", "unfinished"])
def test_other_options_for_the_same_folder_are_named(
    tmp_path: Path, scenes: list[Scene], monkeypatch: pytest.MonkeyPatch, change: dict, named: str, state: str
) -> None:
    run = run_of(tmp_path / "out", scenes, max_steps=3, save_seconds=0.0)
    if state == "finished":
        finetune(run)
    else:
        monkeypatch.setattr(training, "save_finetuned", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            finetune(run)
        assert (run.output_dir / CHECKPOINT_FILE).exists()
    chosen = [with_novel_views(scene, change.get("novel_views", 0)) for scene in scenes[: change.get("scenes", 2)]]
    options = {name: value for name, value in change.items() if name not in ("scenes", "novel_views")}
    other = dataclasses.replace(run, train_scenes=chosen, **options)
    monkeypatch.setattr(training, "samples_of", lambda _: pytest.fail("went on"))
    with pytest.raises(InputError, match=rf"out holds .* that differs in {named}: give .*another --output-dir"):
        finetune(other)


@pytest.mark.parametrize("damage", ["truncated", "no text"])
def test_a_damaged_checkpoint_is_named(
    tmp_path: Path, scenes: list[Scene], monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    run = run_of(tmp_path / "out", scenes, max_steps=3, save_seconds=0.0)
    monkeypatch.setattr(training, "save_finetuned", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        finetune(run)
    path = run.output_dir / CHECKPOINT_FILE
    path.write_bytes(path.read_bytes()[:-100] if damage == "truncated" else b"nothing of the kind")
    with pytest.raises(InputError, match=r"checkpoint\.safetensors is damaged \(.*\): delete it to start again"):
        finetune(run)


def test_held_out_scenes_and_views_are_validated_and_not_trained_on(tmp_path: Path, scenes: list[Scene]) -> None:
    run = run_of(tmp_path / "out", scenes[:1], Recipe(epochs=2), val_scenes=scenes[1:])
    summary = read_finetuned(finetune(run)).summary
    assert summary["training_views"] == 4
    assert summary["steps"] == 4
    assert [entry["step"] for entry in summary["history"]] == [0, 2, 4]
    names = {"held-out views/loss", "held-out views/cosine", "held-out scenes/loss", "held-out scenes/cosine", "step"}
    assert all(entry.keys() == names for entry in summary["history"])
    alone = finetune(run_of(tmp_path / "alone", scenes[:1], Recipe(epochs=2)))
    assert same(weights(tmp_path / "out"), weights(alone))


def test_views_in_which_nothing_counts_do_not_improve_the_validation(tmp_path: Path) -> None:
    scene = scene_of(tmp_path, across=(-4.0, -1.75))  # which the held-out view does not see
    store = store_of(tmp_path, scene)
    assert store.get(0, 0).weights.sum() == 0
    assert store.get(0, 4).weights.sum() > 0
    recipe = Recipe(uncovered="ignore")
    history = read_finetuned(finetune(run_of(tmp_path / "out", [scene], recipe, max_steps=1))).summary["history"]
    assert history == [{"step": 0.0}, {"step": 1.0}]


def test_bf16_is_close_to_fp32(tmp_path: Path, scenes: list[Scene]) -> None:
    run = run_of(tmp_path / "fp32", scenes, max_steps=2)
    reduced = dataclasses.replace(
        run, backbone=dataclasses.replace(run.backbone, precision="bf16"), output_dir=tmp_path / "bf16"
    )
    one, other = (read_finetuned(finetune(r)).summary["history"][-1]["held-out views/loss"] for r in (run, reduced))
    assert one != other
    assert other == pytest.approx(one, rel=0.02)
    info = json.loads((tmp_path / "bf16" / "fit3d.json").read_text())
    assert info["original"]["precision"] == "fp32", "how it is used later is another matter"
    assert info["summary"]["run"]["backbone"]["precision"] == "bf16"


def test_the_summary_tells_what_the_targets_cost(tmp_path: Path, scenes: list[Scene]) -> None:
    summary = read_finetuned(finetune(run_of(tmp_path / "out", scenes))).summary
    assert 0 < summary["target_share"] < 1
    assert summary["seconds"] > 0


def test_the_result_is_mixed_with_the_original_in_the_share_that_was_asked_for(
    tmp_path: Path, scenes: list[Scene]
) -> None:
    whole = finetune(run_of(tmp_path / "whole", scenes, RECIPE))
    folder = finetune(run_of(tmp_path / "mixed", scenes, dataclasses.replace(RECIPE, weight_mix=0.3)))
    original, tuned, mixed = load_backbone(BACKBONE).model.state_dict(), weights(whole), weights(folder)
    for name, value in mixed.items():
        torch.testing.assert_close(value, 0.7 * original[name] + 0.3 * tuned[name], msg=name)
    one, other = (read_finetuned(made).summary for made in (whole, folder))
    assert one["mixed"] is None
    assert one["history"] == other["history"], "the training itself is the same"
    losses = [other["history"][step]["held-out views/loss"] for step in (0, -1)]
    assert min(losses) < other["mixed"]["held-out views/loss"] < max(losses)
    assert (
        f"| 30 % of the fine-tuned weights, the rest the original's | {other['mixed']['held-out views/loss']:.4f}"
        in (folder / "README.md").read_text()
    )
