"""What a fine-tuning would do and take, found by a few of its steps, of which nothing is kept."""

from __future__ import annotations

import dataclasses
import time

from fit3d_finetune.targets.scenes import Scene, view_refs
from fit3d_finetune.training.checkpoint import CHECKPOINT_FILE, read_progress
from fit3d_finetune.training.learner import make_learner
from fit3d_finetune.training.order import steps_per_epoch
from fit3d_finetune.training.run import Run, is_finished
from fit3d_finetune.training.run_samples import samples_of
from fit3d_finetune.training.samples import Samples
from fit3d_finetune.training.step import training_step
from fit3d_finetune.training.tracking import require_tracker
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.estimate import Estimate, Room, Step, peak_memory
from fit3d_ns.common.output_place import default_cache_dir, require_writable
from fit3d_ns.features.backbone import load_backbone

COPIES_WHILE_TRAINING = 4
"""Of the weights' size: a checkpoint with weights and two moments, and the next one or the result."""


def preview(run: Run) -> Estimate | None:
    """Look at a run as its start would, make the targets of two views and take two steps; None: it is finished.

    Raises:
        InputError: as `fit3d_finetune.training.train.finetune`, as far as the first scene shows it.
    """
    identity = run.identity()
    if is_finished(run, identity):
        return None
    require_tracker(run.tracker)
    state = read_progress(run.output_dir / CHECKPOINT_FILE, identity)
    views = len(view_refs(run.train_scenes, "train"))
    first = next((scene for scene in run.train_scenes if view_refs([scene], "train")), None)
    if first is None:
        raise InputError("the exports have no training views: export scenes with a training split.")
    train, _ = samples_of(dataclasses.replace(run, train_scenes=[first], val_scenes=[], target_cache_bytes=0))
    sample = train[0]
    start = time.perf_counter()
    train[min(1, len(train) - 1)]
    view_seconds = time.perf_counter() - start
    backbone = load_backbone(run.backbone, run.device)
    if run.grad_checkpointing:
        backbone.model.set_grad_checkpointing(True)  # type: ignore[operator]
    size = sum(value.numel() * value.element_size() for value in backbone.model.state_dict().values())
    require_writable(run.output_dir, needed_bytes=COPIES_WHILE_TRAINING * size)
    learner = make_learner(backbone, run.recipe, run.lora, run.seed)
    batch = [sample] * run.recipe.batch_size
    for _ in range(2):  # the first one also sets up
        start = time.perf_counter()
        training_step(learner, batch, run.recipe, run.recipe.lr)
        step_seconds = (time.perf_counter() - start) * run.recipe.accumulate
    whole = steps_per_epoch(views, run.recipe) * run.recipe.epochs
    steps = whole if run.max_steps is None else min(whole, run.max_steps)
    done = 0 if state is None else state.step
    all_scenes = [*run.train_scenes, *run.val_scenes]
    targets = sum(scene.num_views for scene in all_scenes)
    targets_bytes = sum(size_of_targets(train, scene) for scene in all_scenes)
    held_out_views = len(view_refs(run.train_scenes, "eval"))
    held_out_views += sum(len(view_refs(run.val_scenes, split)) for split in ("train", "eval"))
    recipe = run.recipe
    goes_on = f", {done} of them done" if done else ""
    return Estimate(
        plan=(
            ("Scenes", f"{len(run.train_scenes)} to train on, {len(run.val_scenes)} held out"),
            ("Views", f"{views} to train on, {held_out_views} to validate on"),
            ("Steps", f"{steps} of {recipe.batch_size * recipe.accumulate} views, {recipe.epochs} epochs{goes_on}"),
            ("Backbone", f"{run.backbone.name}, {run.backbone.precision}, on {run.device}"),
            ("Output", f"{run.output_dir}"),
        ),
        steps=(
            Step(f"{steps - done} steps", (steps - done) * step_seconds, f"{step_seconds:.2f} s each, measured now"),
            Step(
                f"up to {targets} targets, less for those in the cache",
                targets * view_seconds,
                f"{view_seconds:.2f} s each, measured now",
            ),
        ),
        memory=peak_memory(run.device),
        memory_rate="measured now in two steps",
        rooms=(
            Room(
                "checkpoints and result",
                run.output_dir,
                COPIES_WHILE_TRAINING * size,
                f"{COPIES_WHILE_TRAINING} of the weights",
            ),
            Room("targets", default_cache_dir(), min(targets_bytes, run.target_cache_bytes), "at most"),
        ),
        device=run.device,
    )


def size_of_targets(samples: Samples, scene: Scene) -> int:
    """Bytes that all targets of a scene take that samples are made of."""
    return sum(store.size_of(store.rule.on_grid(scene)) for store in samples.stores)
