"""One fine-tuning: what decides its result, and what an earlier start of it left in its folder."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fit3d_finetune.backbone.adapter import ADAPTER_CONFIG_FILE
from fit3d_finetune.backbone.choices import Precision
from fit3d_finetune.backbone.geometry import HEADS_FILE
from fit3d_finetune.backbone.hub import CARD_FILE, CONFIG_FILE, INFO_FILE, WEIGHTS_FILE, read_finetuned
from fit3d_finetune.targets.choices import TargetKind
from fit3d_finetune.targets.scenes import Scene
from fit3d_finetune.training.adapter import LoRA
from fit3d_finetune.training.checkpoint import CHECKPOINT_FILE, changed_options, recorded_run
from fit3d_finetune.training.processes import ALONE, Processes
from fit3d_finetune.training.recipe import Recipe
from fit3d_finetune.training.tracking import TrackerName
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.output_place import require_own_files, require_writable
from fit3d_ns.common.temporaries import sweep_leftovers
from fit3d_ns.features.adapter import ADAPTER_FILE, ADAPTER_FOLDER
from fit3d_ns.features.backbone import BackboneConfig

COMMAND = "fit3d-finetune"
LOG_FOLDER = "logs"
ADAPTER_FILES = (f"{ADAPTER_FOLDER}/{ADAPTER_FILE}", f"{ADAPTER_FOLDER}/{ADAPTER_CONFIG_FILE}")
OUTPUT_FILES = (INFO_FILE, WEIGHTS_FILE, CONFIG_FILE, CARD_FILE, HEADS_FILE, CHECKPOINT_FILE, *ADAPTER_FILES)
"""All that a fine-tuning writes into its folder, but for the logs, where nothing is ever replaced."""


@dataclass(frozen=True)
class Run:
    """One fine-tuning, ready to go."""

    train_scenes: list[Scene]
    val_scenes: list[Scene]
    backbone: BackboneConfig
    recipe: Recipe
    output_dir: Path
    targets: TargetKind = "gaussians"
    seed: int = 0
    device: str = "cpu"
    target_cache_bytes: int = 20_000_000_000
    tracker: TrackerName = "tensorboard"
    grad_checkpointing: bool = False
    save_seconds: float = 300.0
    max_steps: int | None = None
    keep_heads: bool = False
    lora: LoRA | None = None
    processes: Processes = ALONE
    """Those that train together, which decide nothing but how long it takes."""

    def identity(self) -> dict[str, Any]:
        """What decides the result; a checkpoint of another identity cannot be resumed."""
        recipe = asdict(self.recipe)
        del recipe["precision"]  # which one it came to is the backbone's
        return {
            "recipe": recipe,
            "targets": self.targets,
            "scenes": {scene.name: scene.gaussians_sha256 for scene in self.train_scenes},
            "novel_views": sum(len(scene.novel_views) for scene in self.train_scenes),
            "val_scenes": {scene.name: scene.gaussians_sha256 for scene in self.val_scenes},
            "backbone": {**asdict(self.backbone), "weights_sha256": self.train_scenes[0].backbone.weights_sha256},
            "seed": self.seed,
            "max_steps": self.max_steps,
            # As runs of before these options, where they are not asked for.
            **({"keep_heads": True} if self.keep_heads else {}),
            **({} if self.lora is None else self.lora.identity()),
        }


def recorded_precision(output_dir: Path) -> Precision | None:
    """The precision of the run that `output_dir` holds, finished or not; None if it holds none that can be read."""
    identity: dict[str, Any] | None = None
    if (output_dir / INFO_FILE).is_file():
        identity = read_finetuned(output_dir).summary.get("run")
    elif (output_dir / CHECKPOINT_FILE).is_file():
        identity = recorded_run(output_dir / CHECKPOINT_FILE)
    return None if identity is None else identity.get("backbone", {}).get("precision")


def require_output_dir(output_dir: Path) -> None:
    """Check that a fine-tuning can write in its folder, and that it would replace nothing that none has written.

    A folder that holds a finished one is not written to, and not checked.

    Raises:
        InputError: it cannot, or it would.
    """
    sweep_leftovers(output_dir)
    sweep_leftovers(output_dir / ADAPTER_FOLDER)
    if os.path.isfile(output_dir / INFO_FILE):  # unlike Path's, false for names that cannot be
        return
    require_writable(output_dir / LOG_FOLDER)  # and with it the folder itself
    require_own_files(output_dir, OUTPUT_FILES, COMMAND, lambda folder: (folder / CHECKPOINT_FILE).is_file())


def is_finished(run: Run, identity: dict[str, Any]) -> bool:
    """Whether the output folder holds this run's result; `InputError` if nothing may be written there."""
    require_output_dir(run.output_dir)
    if not (run.output_dir / INFO_FILE).is_file():
        return False
    different = changed_options(read_finetuned(run.output_dir).summary.get("run", {}), identity)
    if different:
        raise InputError(
            f"{run.output_dir} holds a fine-tuned backbone that differs in {', '.join(different)}: give another "
            "--output-dir."
        )
    return True
