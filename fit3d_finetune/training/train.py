"""The fine-tuning loop: from exported scenes to a fine-tuned backbone on disk."""

from __future__ import annotations

import dataclasses
import platform
import time
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fit3d_finetune.backbone.adapter import save_adapter
from fit3d_finetune.backbone.card import model_card
from fit3d_finetune.backbone.geometry import save_heads
from fit3d_finetune.backbone.hub import save_finetuned
from fit3d_finetune.training.checkpoint import (
    CHECKPOINT_FILE,
    Progress,
    read_progress,
    restore_checkpoint,
    save_checkpoint,
)
from fit3d_finetune.training.head_fit import fit_heads, typical_depth
from fit3d_finetune.training.learner import Learner, make_learner
from fit3d_finetune.training.loss import batch_loss
from fit3d_finetune.training.order import steps_per_epoch
from fit3d_finetune.training.recipe import lr_factor
from fit3d_finetune.training.run import COMMAND, LOG_FOLDER, Run, is_finished
from fit3d_finetune.training.run_samples import samples_of
from fit3d_finetune.training.samples import Loader, Samples
from fit3d_finetune.training.step import Diverged, own_samples, require_finite, training_step
from fit3d_finetune.training.stopping import TrainingInterrupted, stop_requests
from fit3d_finetune.training.tracking import Tracker, open_tracker, require_tracker
from fit3d_ns.common.console import logger, progress
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.output_place import mark_own_folder, require_writable
from fit3d_ns.features.adapter import merge
from fit3d_ns.features.backbone import Backbone, load_backbone

LOG_EVERY = 10
MAX_VALIDATION_VIEWS = 64


def finetune(run: Run) -> Path:
    """Train, or go on where an earlier start of the same run stopped; returns the folder of the result.

    Of several processes the first one reads and writes the folder, validates and reports.

    Raises:
        InputError: an earlier run with other options is in the output folder, no view to train on, targets in
            which no patch counts, a training that diverged, or another process that ended.
        TrainingInterrupted: by SIGINT or SIGTERM, after saving.
    """
    identity, checkpoint = run.identity(), run.output_dir / CHECKPOINT_FILE
    processes = run.processes
    state = Progress(0, identity, history=[], seconds=0.0, target_seconds=0.0)
    finished = False
    if processes.first and not (finished := is_finished(run, identity)):
        require_tracker(run.tracker)
        state = read_progress(checkpoint, identity) or state
    if processes.any(finished):
        logger.info("%s is finished already: nothing to do", run.output_dir)
        return run.output_dir
    state = dataclasses.replace(state, step=processes.number_from_first(state.step))
    with processes.one_per_machine_first():
        train, validation = samples_of(run)
    backbone = load_backbone(run.backbone, run.device)
    if run.grad_checkpointing:
        backbone.model.set_grad_checkpointing(True)  # type: ignore[operator]
    learner = make_learner(backbone, run.recipe, run.lora, run.seed)
    if run.lora is not None:
        count = sum(parameter.numel() for parameter in learner.parameters.values())
        logger.info("LoRA of rank %d: %d parameters, learning rate %g", run.lora.rank, count, run.recipe.lr)
    # A checkpoint has the weights and two moments of each, and stands beside the next one or the result.
    size = sum(value.numel() * value.element_size() for value in backbone.model.state_dict().values())
    if processes.first:
        require_writable(run.output_dir, needed_bytes=4 * size)
    if state.step > 0:
        _restore(run, learner)
        logger.info("Going on at step %d of an earlier start (%s)", state.step, checkpoint)
    used = run.tracker if processes.first else "none"
    tracker = open_tracker(used, run.output_dir / LOG_FOLDER, state.step, identity)
    try:
        state = _train(run, learner, train, validation, state, tracker)
    finally:
        tracker.close()
    if not processes.first:
        return run.output_dir
    mixed = None
    adapter = None if learner.adapter is None else learner.adapter.remove(run.recipe.weight_mix)
    if adapter is not None:
        merge(backbone.model, adapter)
    elif run.recipe.weight_mix < 1:
        mix_weights(learner.parameters, load_backbone(run.backbone, run.device), run.recipe.weight_mix)
    if run.recipe.weight_mix < 1:
        logger.info("%.0f %% of the fine-tuned weights, the rest the original's:", 100 * run.recipe.weight_mix)
        mixed = _validate(run, backbone, validation, state.step)
    summary = {**_summary(run, state, len(train)), "mixed": mixed}
    mark_own_folder(run.output_dir, COMMAND)
    if run.keep_heads:
        save_heads(fit_heads(backbone, train), typical_depth(run.train_scenes), run.output_dir)
    if adapter is not None:
        save_adapter(adapter, run.output_dir)
    card = model_card(run.train_scenes[0].backbone, summary)
    save_finetuned(backbone, run.output_dir, summary, card, "merged" if run.lora is None else run.lora.save)
    checkpoint.unlink(missing_ok=True)
    logger.info("Fine-tuned backbone: %s", run.output_dir)
    return run.output_dir


def _train(
    run: Run,
    learner: Learner,
    train: Samples,
    validation: dict[str, Samples],
    state: Progress,
    tracker: Tracker,
) -> Progress:
    recipe, checkpoint = run.recipe, run.output_dir / CHECKPOINT_FILE
    epoch = steps_per_epoch(len(train), recipe)
    total = epoch * recipe.epochs
    stop = total if run.max_steps is None else min(total, run.max_steps)
    history = list(state.history)
    processes = run.processes
    part = partial(own_samples, batch_size=recipe.batch_size, processes=processes)
    loader = Loader(train, recipe, run.seed, state.step, stop, part=part)
    saved_step, saved = state.step, time.perf_counter()
    started = saved - state.seconds - train.target_seconds  # the targets of all views were made just before

    def now(step: int) -> Progress:
        seconds = time.perf_counter() - started
        return Progress(step, state.run, history, seconds, state.target_seconds + train.target_seconds)

    def validate(step: int) -> None:
        if not processes.first:
            return
        figures = _validate(run, learner.backbone, validation, step)
        history.append({"step": float(step), **figures})
        tracker.log(figures, step)

    if not history:
        validate(0)
    with progress("steps") as bar, stop_requests() as stop_requested:
        task = bar.add_task("Fine-tuning", total=stop, completed=state.step)
        for step, samples in loader:
            lr = recipe.lr * lr_factor(step, total, recipe)
            done = step + 1
            is_epoch = done % epoch == 0 or done == stop
            try:
                count = len(loader.order.of(step))
                figures = training_step(learner, samples, recipe, lr, processes, count)
                asked = processes.any(stop_requested())
                save = done < stop and (asked or processes.any(time.perf_counter() - saved > run.save_seconds))
                if save or is_epoch:  # nothing is written that would be worth nothing
                    require_finite(learner.trained.values())
            except Diverged as diverged:
                raise _diverged(run, step, saved_step, diverged) from diverged
            if step % LOG_EVERY == 0:
                scalars = {name: float(value) for name, value in figures.items()}
                tracker.log({f"train/{name}": value for name, value in scalars.items()} | {"train/lr": lr}, step)
                bar.update(task, description=f"Fine-tuning (loss {scalars['loss']:.3f})")
            bar.advance(task)
            if is_epoch:
                validate(done)
            if save:
                if processes.first:
                    mark_own_folder(run.output_dir, COMMAND)
                    save_checkpoint(checkpoint, learner.trained, learner.optimizer, now(done))
                saved_step, saved = done, time.perf_counter()
                if asked:
                    raise TrainingInterrupted(f"stopped at step {done} of {stop}; the same command goes on from there")
    finished = now(stop)
    logger.info(
        "%d steps in %.0f s; targets took %.1f %% of that, waiting for data %.1f ms a step",
        stop,
        finished.seconds,
        100 * finished.target_seconds / finished.seconds,
        1000 * loader.waited / max(1, stop - state.step),
    )
    return finished


def _restore(run: Run, learner: Learner) -> None:
    """Weights and moments of the checkpoint, which the first process reads for all."""
    if run.processes.first:
        restore_checkpoint(run.output_dir / CHECKPOINT_FILE, learner.trained, learner.optimizer)
    trained = list(learner.trained.values())
    # AdamW has no state for a parameter that never had a gradient.
    known = torch.tensor([float(len(learner.optimizer.state.get(each, {})) > 0) for each in trained])
    run.processes.from_first([known, *(each.data for each in trained)])
    for parameter, has_state in zip(trained, known.tolist(), strict=True):
        if has_state and not learner.optimizer.state.get(parameter):
            empty = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            learner.optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **empty}
        if has_state:
            state = learner.optimizer.state[parameter]
            run.processes.from_first([state[name] for name in ("step", "exp_avg", "exp_avg_sq")])


def _diverged(run: Run, step: int, saved: int, reason: Diverged) -> InputError:
    """What to say of a training that diverged in a step (from 0), with its last checkpoint after `saved` steps."""
    kept = f"the last good checkpoint, after {saved} steps, is {run.output_dir / CHECKPOINT_FILE}"
    fp32 = "" if run.backbone.precision == "fp32" else " or --precision fp32"
    return InputError(
        f"the training diverged in step {step + 1} ({reason}), {kept if saved else 'before any checkpoint'}: give "
        f"a lower --lr{fp32}, and another --output-dir."
    )


@torch.no_grad()
def mix_weights(parameters: dict[str, nn.Parameter], original: Backbone, share: float) -> None:
    """Move `parameters` in place to `share` of themselves and the rest of those of the same names in `original`."""
    for name, parameter in original.model.named_parameters():
        if name in parameters:
            parameters[name].copy_(torch.lerp(parameter, parameters[name], share))


@torch.no_grad()
def _validate(run: Run, backbone: Backbone, validation: dict[str, Samples], step: int) -> dict[str, float]:
    """Mean loss and cosine over those held-out views, and views of held-out scenes, in which any patch counts."""
    figures: dict[str, float] = {}
    for name, samples in validation.items():
        spread = torch.linspace(0, len(samples) - 1, min(len(samples), MAX_VALIDATION_VIEWS)).round().int().tolist()
        pairs = []
        for i in spread:
            sample = samples[i]
            if bool(sample.weights.any()):
                loss, found = batch_loss(backbone, [sample], run.recipe.loss, run.recipe.loss_mean)
                pairs.append((loss, found["cosine"]))
        if not pairs:
            continue
        figures[f"{name}/loss"] = sum(float(loss) for loss, _ in pairs) / len(pairs)
        figures[f"{name}/cosine"] = sum(float(cosine) for _, cosine in pairs) / len(pairs)
        logger.info(
            "Step %d, %s: loss %.4f, cosine %.4f", step, name, figures[f"{name}/loss"], figures[f"{name}/cosine"]
        )
    return figures


def _summary(run: Run, state: Progress, training_views: int) -> dict[str, Any]:
    return {
        "run": state.run,
        "training_views": training_views,
        "steps": state.step,
        "seconds": state.seconds,
        "target_share": state.target_seconds / state.seconds,
        "history": state.history,
        "device": run.device,
        "processor": platform.processor() or platform.machine(),
        "versions": {name: _version(name) for name in ("fit3d", "torch", "timm", "gsplat")},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
