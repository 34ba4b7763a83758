"""fit3d-finetune: from exported scenes to a backbone that is 3D-aware."""

from __future__ import annotations

import argparse
import inspect
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import tyro

from fit3d_finetune.backbone.choices import Precision, SavedWeights
from fit3d_finetune.targets.choices import TargetKind
from fit3d_finetune.training.recipe import DEFAULT_PRESET, PRESETS, PresetName, Recipe
from fit3d_finetune.training.stopping import TrainingInterrupted
from fit3d_finetune.training.tracking import TrackerName
from fit3d_ns.common.choices import DeviceChoice
from fit3d_ns.common.command_line import description, reading
from fit3d_ns.common.console import logger
from fit3d_ns.common.ending import ends_in_one_sentence
from fit3d_ns.common.errors import EXIT_INTERRUPTED, InputError
from fit3d_ns.common.seeds import require_seed
from fit3d_ns.common.third_parties import quiet_third_parties

if TYPE_CHECKING:
    from fit3d_finetune.training.adapter import LoRA
    from fit3d_finetune.training.processes import Processes


@dataclass
class FinetuneArguments:
    """Fine-tune the backbone that scenes were exported with on their re-rendered, 3D-consistent features.

    A run that was stopped goes on when the same command is given again. Several GPUs or machines: torchrun
    --nproc-per-node GPUS -m fit3d_finetune.commands.finetune OPTIONS, with --batch-size for all of them together.
    """

    exports: str
    """Folder of exports (runs/), or a single one, written by fit3d-export or fit3d-lift; also s3://BUCKET/runs, gs://,
    az:// and http(s)://."""
    output_dir: Path = Path("finetuned")
    """Where the fine-tuned backbone goes, as a timm local-dir folder with a model card."""
    preset: PresetName = DEFAULT_PRESET
    """recommended: what we found to work best; paper: the published recipe. Options below override it."""
    recipe: Annotated[Recipe, tyro.conf.arg(name="")] = field(default_factory=lambda: PRESETS[DEFAULT_PRESET])
    adapter: Literal["none", "lora"] = "none"
    """lora: train low-rank updates of the attention's weights alone (needs peft: pip install "peft>=0.21"). They are
    written as adapter/ too, in peft's format, less than 1 MB for a ViT-S."""
    rank: int | None = None
    """Of the adapter's updates. Default: 8."""
    save: SavedWeights = "merged"
    """merged: all weights, as timm loads them. adapter: no weights but those of --adapter lora, for originals that may
    not be passed on; whoever has them merges it (fit3d_finetune.merge_adapter)."""
    val_scenes: tuple[str, ...] = ()
    """Scenes to hold out for validation, by name. Default: the last tenth by name (rounded down)."""
    val_fraction: float = 0.1
    """Share of the scenes to hold out where none are named."""
    targets: TargetKind = "gaussians"
    """gaussians: features re-rendered from the scene. mirror: the control without 3D, in which the target is the
    original backbone's features of the mirrored image."""
    novel_views: int = 0
    """Views between each training view and its neighbour to add, image and target rendered from the Gaussians."""
    weights: str | None = None
    """Where the original weights are (as backbone.weights of ns-train), if the exports were made with a file."""
    images_root: str | None = None
    """Where the images are now, if they moved since the export (or the folder with one folder per scene); with exports
    on object storage it may be there, too."""
    remote_cache_gb: float = 20.0
    """Disk space for files of object storage ($FIT3D_CACHE_DIR/remote)."""
    skip_broken: bool = False
    """Leave out exports that fail their validation instead of stopping."""
    device: DeviceChoice = "auto"
    """auto: CUDA where there is a GPU."""
    keep_heads: bool = False
    """Write linear heads of depth and surface normals too (heads.safetensors, for fit3d_finetune.predict_depth)."""
    grad_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    seed: int = 0
    """Decides the order of views and their augmentation."""
    target_cache_gb: float = 20.0
    """Disk space for targets ($FIT3D_CACHE_DIR); scenes beyond it are rendered anew for every use."""
    tracker: TrackerName = "tensorboard"
    """Where training figures go; TensorBoard's are in OUTPUT_DIR/logs."""
    save_seconds: float = 300.0
    """Time between checkpoints."""
    max_steps: int | None = None
    """Stop after this many steps (the schedule stays that of all epochs)."""
    dry_run: bool = False
    """Check everything as a start would, take two steps that are thrown away, and print the plan with what it will take
    in time, memory and disk; write nothing."""


def run(arguments: FinetuneArguments, processes: Processes | None = None) -> Path:
    """Do what the arguments say, alone (None) or as one of the processes that train together.

    Returns:
        the folder of the fine-tuned backbone (or where it would be, with --dry-run).
    """
    from fit3d_finetune.targets.finding import find_scenes
    from fit3d_finetune.targets.scenes import backbone_config, split_scenes, with_novel_views
    from fit3d_finetune.training.preview import preview
    from fit3d_finetune.training.processes import ALONE
    from fit3d_finetune.training.run import Run, require_output_dir
    from fit3d_finetune.training.train import finetune
    from fit3d_ns.common.device import choose_device

    processes = processes or ALONE
    arguments.recipe.check()
    if not 0 <= arguments.val_fraction < 1:
        raise InputError(f"--val-fraction must lie in 0..1 (without 1), not {arguments.val_fraction}.")
    if not all(value >= 0 for value in (arguments.novel_views, arguments.target_cache_gb, arguments.remote_cache_gb)):
        raise InputError("--novel-views, --target-cache-gb and --remote-cache-gb must not be negative.")
    if not 0 <= arguments.save_seconds < math.inf:
        raise InputError(f"--save-seconds must be a number of at least 0, not {arguments.save_seconds}.")
    require_seed(arguments.seed, "--seed")
    if arguments.max_steps is not None and arguments.max_steps < 1:
        raise InputError(f"--max-steps must be at least 1, not {arguments.max_steps}.")
    if arguments.dry_run and processes.count > 1:
        raise InputError("--dry-run looks at one process: give it without torchrun.")
    lora = _lora(arguments)
    device = choose_device(arguments.device)
    if arguments.recipe.batch_size < processes.count:
        raise InputError(
            f"--batch-size {arguments.recipe.batch_size} is of all {processes.count} processes together: give at least "
            "one image for each."
        )
    if processes.first:
        require_output_dir(arguments.output_dir)
    scenes = find_scenes(
        arguments.exports, arguments.images_root, arguments.skip_broken, int(arguments.remote_cache_gb * 1e9)
    )
    train_scenes, val_scenes = split_scenes(scenes, arguments.val_scenes, arguments.val_fraction)
    precision = _precision(arguments, device, processes)
    made = Run(
        train_scenes=[with_novel_views(scene, arguments.novel_views) for scene in train_scenes],
        val_scenes=val_scenes,
        backbone=backbone_config(scenes, arguments.weights, precision),
        recipe=arguments.recipe,
        output_dir=arguments.output_dir,
        targets=arguments.targets,
        seed=arguments.seed,
        device=device,
        target_cache_bytes=int(arguments.target_cache_gb * 1e9),
        tracker=arguments.tracker,
        grad_checkpointing=arguments.grad_checkpointing,
        save_seconds=arguments.save_seconds,
        max_steps=arguments.max_steps,
        keep_heads=arguments.keep_heads,
        lora=lora,
        processes=processes,
    )
    if arguments.dry_run:
        estimate = preview(made)
        if estimate is None:
            print(f"{made.output_dir} is finished already: nothing to do")
        else:
            estimate.show()
        return made.output_dir
    return finetune(made)


def _precision(arguments: FinetuneArguments, device: str, processes: Processes) -> Precision:
    """What the first process finds, which measures which one is faster, or goes on with what a run began with."""
    from fit3d_finetune.backbone.precision import choose_precision
    from fit3d_finetune.training.run import recorded_precision

    names: tuple[Precision, ...] = get_args(Precision)
    found = 0
    if processes.first:
        recorded = recorded_precision(arguments.output_dir)
        found = names.index(choose_precision(arguments.recipe.precision, device, recorded))
    return names[processes.number_from_first(found)]


def _lora(arguments: FinetuneArguments) -> LoRA | None:
    """What --adapter, --rank and --save ask for."""
    if arguments.adapter == "none":
        for option, given in (("--rank", arguments.rank is not None), ("--save adapter", arguments.save == "adapter")):
            if given:
                raise InputError(f"{option} needs --adapter lora: give both, or neither.")
        return None
    from fit3d_finetune.training.adapter import LoRA

    lora = LoRA(LoRA.rank if arguments.rank is None else arguments.rank, arguments.save)
    lora.check()
    return lora


def parse(arguments: Sequence[str]) -> FinetuneArguments:
    """Command line to arguments; the preset gives the defaults of the recipe's options."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=sorted(PRESETS), default=DEFAULT_PRESET)
    preset: PresetName = first.parse_known_args(arguments)[0].preset
    default = FinetuneArguments(exports=tyro.MISSING, preset=preset, recipe=PRESETS[preset])
    described = description(inspect.getdoc(FinetuneArguments) or "")
    with reading(arguments):
        return tyro.cli(
            FinetuneArguments, args=list(arguments), default=default, prog="fit3d-finetune", description=described
        )


@ends_in_one_sentence
def main() -> None:
    """Console script `fit3d-finetune`."""
    arguments = parse(sys.argv[1:])
    quiet_third_parties()
    from fit3d_finetune.training.processes import joined
    from fit3d_ns.common.device import choose_device

    try:
        with joined(choose_device(arguments.device)) as processes:
            run(arguments, processes)
    except (TrainingInterrupted, KeyboardInterrupt) as stopped:
        logger.warning("%s", str(stopped) or "stopped before the training began")
        raise SystemExit(EXIT_INTERRUPTED) from None


if __name__ == "__main__":
    main()
