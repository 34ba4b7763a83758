"""What a run is trained and validated on: samples of its scenes' views, with all targets that its recipe asks for."""

from __future__ import annotations

from fit3d_finetune.targets.files import TargetFolder
from fit3d_finetune.targets.scenes import Scene, view_refs
from fit3d_finetune.targets.store import StoreKind, TargetStore
from fit3d_finetune.training.run import Run
from fit3d_finetune.training.samples import Samples
from fit3d_ns.common.console import logger
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.output_place import default_cache_dir, require_writable
from fit3d_ns.scene.description import Split


def samples_of(run: Run) -> tuple[Samples, dict[str, Samples]]:
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
