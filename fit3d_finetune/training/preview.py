"""What a fine-tuning would do and take, found by a few of its steps, of which nothing is kept."""

from __future__ import annotations

import dataclasses
import resource
import time
from dataclasses import dataclass

import torch

from fit3d_finetune.targets.scenes import Scene, view_refs
from fit3d_finetune.training.checkpoint import CHECKPOINT_FILE, read_progress
from fit3d_finetune.training.learner import make_learner
from fit3d_finetune.training.order import steps_per_epoch
from fit3d_finetune.training.run import Run, is_finished
from fit3d_finetune.training.run_samples import samples_of
from fit3d_finetune.training.samples import Samples
from fit3d_finetune.training.step import training_step
from fit3d_finetune.training.tracking import require_tracker
from fit3d_ns.common.console import clock
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.output_place import free_bytes, require_writable
from fit3d_ns.features.backbone import load_backbone

COPIES_WHILE_TRAINING = 4
"""Of the weights' size: a checkpoint with weights and two moments, and the next one or the result."""


@dataclass(frozen=True)
class Preview:
    """The plan of a run, and estimates from one view and one step."""

    run: Run
    training_views: int
    held_out_views: int
    steps: int
    """In all."""
    done: int
    """Of an earlier start, from which it goes on."""
    target_seconds: float
    """To make all targets, none of which is counted as made."""
    step_seconds: float
    memory_bytes: int
    """The most that the process had, on the device that trains."""
    weights_bytes: int
    targets_bytes: int
    free_bytes: int
    """Where the output goes."""

    def lines(self) -> list[str]:
        """The preview in words."""
        run, left = self.run, self.steps - self.done
        recipe = run.recipe
        goes_on = f", {self.done} of them done" if self.done else ""
        kept = min(self.targets_bytes, run.target_cache_bytes)
        seconds = left * self.step_seconds
        memory = "GPU memory" if run.device == "cuda" else "memory"
        return [
            f"Scenes: {len(run.train_scenes)} to train on, {len(run.val_scenes)} held out",
            f"Views: {self.training_views} to train on, {self.held_out_views} to validate on",
            f"Steps: {self.steps} of {recipe.batch_size * recipe.accumulate} views, {recipe.epochs} epochs{goes_on}",
            f"Backbone: {run.backbone.name}, {run.backbone.precision}, on {run.device}",
            f"Output: {run.output_dir}",
            f"Time: {clock(seconds)} for the steps ({self.step_seconds:.2f} s each), and up to "
            f"{clock(self.target_seconds)} for targets that are not in the cache",
            f"{memory[0].upper()}{memory[1:]}: {self.memory_bytes / 1e9:.1f} GB",
            f"Disk: {COPIES_WHILE_TRAINING * self.weights_bytes / 1e9:.2f} GB at {run.output_dir} while it trains "
            f"({self.free_bytes / 1e9:.1f} free), up to {kept / 1e9:.2f} GB of targets in the cache",
            "Nothing was written. Times are of this machine as busy as it is now.",
        ]


def preview(run: Run) -> Preview | None:
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
    steps = steps_per_epoch(views, run.recipe) * run.recipe.epochs
    all_scenes = [*run.train_scenes, *run.val_scenes]
    return Preview(
        run=run,
        training_views=views,
        held_out_views=len(view_refs(run.train_scenes, "eval"))
        + sum(len(view_refs(run.val_scenes, split)) for split in ("train", "eval")),
        steps=steps if run.max_steps is None else min(steps, run.max_steps),
        done=0 if state is None else state.step,
        target_seconds=view_seconds * sum(scene.num_views for scene in all_scenes),
        step_seconds=step_seconds,
        memory_bytes=peak_memory(run.device),
        weights_bytes=size,
        targets_bytes=sum(size_of_targets(train, scene) for scene in all_scenes),
        free_bytes=free_bytes(run.output_dir),
    )


def size_of_targets(samples: Samples, scene: Scene) -> int:
    """Bytes that all targets of a scene take that samples are made of."""
    return sum(store.size_of(store.rule.on_grid(scene)) for store in samples.stores)


def peak_memory(device: str) -> int:
    """Bytes that this process had at most so far, on the device."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
