"""The fine-tuning loop: from exported scenes to a fine-tuned backbone on disk."""

from __future__ import annotations

import platform
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fit3d_finetune.backbone.adapter import save_adapter
from fit3d_finetune.backbone.card import model_card
from fit3d_finetune.backbone.geometry import save_heads
from fit3d_finetune.backbone.hub import save_finetuned
from fit3d_finetune.targets.files import TargetFolder
from fit3d_finetune.targets.scenes import Scene, view_refs
from fit3d_finetune.targets.store import StoreKind, TargetStore
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
from fit3d_finetune.training.recipe import lr_factor
from fit3d_finetune.training.run import COMMAND, LOG_FOLDER, Run, is_finished
from fit3d_finetune.training.samples import Loader, Samples, steps_per_epoch
from fit3d_finetune.training.step import Diverged, require_finite, training_step
from fit3d_finetune.training.tracking import Tracker, open_tracker, require_tracker
from fit3d_ns.common.console import logger, progress
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.output_place import mark_own_folder, require_writable
from fit3d_ns.features.adapter import merge
from fit3d_ns.features.backbone import Backbone, load_backbone
from fit3d_ns.features.cache import default_cache_dir
from fit3d_ns.scene.description import Split

LOG_EVERY = 10
MAX_VALIDATION_VIEWS = 64


class TrainingInterrupted(Exception):  # noqa: N818 (not an error)
    """Training was asked to stop and did, after saving its state."""


def finetune(run: Run) -> Path:
    """Train, or go on where an earlier start of the same run stopped; returns the folder of the result.

    Raises:
        InputError: an earlier run with other options is in the output folder, no view to train on, targets in
            which no patch counts, or a training that diverged.
        TrainingInterrupted: by SIGINT or SIGTERM, after saving.
    """
    identity, checkpoint = run.identity(), run.output_dir / CHECKPOINT_FILE
    if is_finished(run, identity):
        logger.info("%s is finished already: nothing to do", run.output_dir)
        return run.output_dir
    require_tracker(run.tracker)
    state = read_progress(checkpoint, identity) or Progress(0, identity, history=[], seconds=0.0, target_seconds=0.0)
    train, validation = _samples(run)
    backbone = load_backbone(run.backbone, run.device)
    if run.grad_checkpointing:
        backbone.model.set_grad_checkpointing(True)  # type: ignore[operator]
    learner = make_learner(backbone, run.recipe, run.lora, run.seed)
    if run.lora is not None:
        count = sum(parameter.numel() for parameter in learner.parameters.values())
        logger.info("LoRA of rank %d: %d parameters, learning rate %g", run.lora.rank, count, run.recipe.lr)
    # A checkpoint has the weights and two moments of each, and stands beside the next one or the result.
    size = sum(value.numel() * value.element_size() for value in backbone.model.state_dict().values())
    require_writable(run.output_dir, needed_bytes=4 * size)
    if state.step > 0:
        restore_checkpoint(checkpoint, learner.trained, learner.optimizer)
        logger.info("Going on at step %d of an earlier start (%s)", state.step, checkpoint)
    tracker = open_tracker(run.tracker, run.output_dir / LOG_FOLDER, state.step, identity)
    try:
        state = _train(run, learner, train, validation, state, tracker)
    finally:
        tracker.close()
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
    loader = Loader(train, recipe, run.seed, state.step, stop)
    saved_step, saved = state.step, time.perf_counter()
    started = saved - state.seconds - train.target_seconds  # the targets of all views were made just before

    def now(step: int) -> Progress:
        seconds = time.perf_counter() - started
        return Progress(step, state.run, history, seconds, state.target_seconds + train.target_seconds)

    def validate(step: int) -> None:
        figures = _validate(run, learner.backbone, validation, step)
        history.append({"step": float(step), **figures})
        tracker.log(figures, step)

    if not history:
        validate(0)
    with progress("steps") as bar, _stop_requests() as stop_requested:
        task = bar.add_task("Fine-tuning", total=stop, completed=state.step)
        for step, samples in loader:
            lr = recipe.lr * lr_factor(step, total, recipe)
            done = step + 1
            is_epoch = done % epoch == 0 or done == stop
            try:
                figures = training_step(learner, samples, recipe, lr)
                save = done < stop and (stop_requested() or time.perf_counter() - saved > run.save_seconds)
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
                mark_own_folder(run.output_dir, COMMAND)
                save_checkpoint(checkpoint, learner.trained, learner.optimizer, now(done))
                saved_step, saved = done, time.perf_counter()
                if stop_requested():
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


def _samples(run: Run) -> tuple[Samples, dict[str, Samples]]:
    """Training samples, and validation samples by name: views held out of training scenes, and held-out scenes."""
    folder = TargetFolder(default_cache_dir() / "targets", run.target_cache_bytes)
    if run.target_cache_bytes > 0:
        require_writable(folder.path, "$FIT3D_CACHE_DIR")

    def store(scenes: list[Scene], kind: StoreKind) -> TargetStore:
        made = TargetStore(scenes, folder, run.device, kind, run.backbone, run.recipe.target_rule)
        made.prepare()
        return made

    def samples(scenes: list[Scene], *splits: Split, taught: bool = False) -> Samples:
        refs = [ref for split in splits for ref in view_refs(scenes, split)]
        recipe = run.recipe
        kept, anchored = recipe.keep_original > 0, taught and recipe.anchor_weight > 0
        originals = store(scenes, "original") if kept or anchored else None
        return Samples(
            refs,
            store(scenes, run.targets),
            originals if kept else None,
            recipe.keep_original,
            recipe.position_share,
            geometry=store(scenes, "geometry") if taught and (recipe.teaches_geometry or run.keep_heads) else None,
            class_tokens=store(scenes, "class-token") if taught and recipe.class_token_weight > 0 else None,
            grams=store(scenes, "gram") if taught and recipe.gram_weight > 0 else None,
            anchors=originals if anchored else None,
        )

    train = samples(run.train_scenes, "train", taught=True)
    if len(train) == 0:
        raise InputError("the exports have no training views: export scenes with a training split.")
    validation: dict[str, Samples] = {}
    held_out = view_refs(run.train_scenes, "eval")
    if held_out:
        validation["held-out views"] = train.of(held_out)
    if run.val_scenes:
        validation["held-out scenes"] = samples(run.val_scenes, "train", "eval")
    logger.info(
        "%d training views of %d scenes; validation on %s",
        len(train),
        len(run.train_scenes),
        ", ".join(f"{len(part)} {name}" for name, part in validation.items()) or "nothing",
    )
    return train, validation


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


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """While inside, SIGINT and SIGTERM are remembered instead of acting at once, so that a step is never cut."""
    received: list[int] = []
    handlers = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            handlers[number] = signal.signal(number, lambda received_number, _: received.append(received_number))
        except ValueError:  # not the main thread: whoever runs us there decides about signals
            break
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
