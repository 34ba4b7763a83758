"""fit3d-lift: features of any backbone for Gaussians that are there already, in seconds and without training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fit3d_ns.commands.needs import require_nerfstudio
from fit3d_ns.common.choices import FeatureStorage, RasterizeMode, ViewDependence
from fit3d_ns.common.command_line import read_arguments
from fit3d_ns.common.console import logger
from fit3d_ns.common.ending import ends_in_one_sentence
from fit3d_ns.common.errors import InputError, exits_on_input_error
from fit3d_ns.common.output_place import require_writable
from fit3d_ns.common.third_parties import quiet_third_parties
from fit3d_ns.features.config import NAMED_WEIGHTS, BackboneConfig
from fit3d_ns.lifting.options import LiftOptions
from fit3d_ns.scene.name import require_scene_name

if TYPE_CHECKING:
    from fit3d_ns.lifting.scene import LiftScene
    from fit3d_ns.scene.description import BackboneInfo


@dataclass(frozen=True)
class BackboneChoice:
    """Which backbone; what is left out is as in the export or run, else the default of `ns-train fit3d-features`."""

    name: str | None = None
    """Any timm ViT with a patch grid."""
    weights: str | None = None
    """hub, offline, random, or a path."""
    layer: int | None = None
    """Block whose patch tokens are taken (from 0; negative counts from the end). Of a folder of fit3d-finetune: the one
    that was tuned."""
    max_size: int | None = None
    """Longest side in pixels of the image that the backbone sees."""

    def over(self, base: BackboneConfig) -> BackboneConfig:
        """`base` with what was chosen.

        Raises:
            InputError: a folder of fit3d-finetune that does not say which block it tuned.
        """
        name, weights, layer = self.name or base.name, self.weights or base.weights, self.layer
        if layer is None:
            from fit3d_ns.features.weights import tuned_layer

            # Another network's layers are others: its default then.
            layer = (
                base.layer
                if (name, weights) == (base.name, base.weights)
                else tuned_layer(weights, ", or give --backbone.layer")
            )
        return BackboneConfig(
            name=name,
            weights=weights,
            layer=layer,
            max_size=base.max_size if self.max_size is None else self.max_size,
            precision=base.precision,
            input_rule=base.input_rule,
        )


@dataclass
class LiftArguments:
    """Lift a 2D backbone's features into existing Gaussians by solving for them; no training.

    Give one of --export, --load-config, or --ply with --data. The result is an export folder as fit3d-export writes.
    """

    export: Path | None = None
    """A folder that fit3d-export or fit3d-lift wrote, e.g. runs/room."""
    load_config: Path | None = None
    """The config.yml of a run of a fit3d method or splatfacto."""
    ply: Path | None = None
    """A standard 3DGS .ply, with --data."""
    data: Path | None = None
    """The capture that the .ply was trained on: a folder with transforms.json (nerfstudio) or sparse/0 (COLMAP)."""
    dataparser_transforms: Path | None = None
    """For a .ply in nerfstudio's frame (ns-export gaussian-splat): the dataparser_transforms.json of its run. None: it
    is in the capture's own frame (COLMAP's world), as other trainers write it."""
    rasterize_mode: RasterizeMode = "classic"
    """How the Gaussians of the .ply were trained."""
    images_root: Path | None = None
    """Where the images of --export are now, if they moved."""
    output_dir: Path = Path("runs")
    """Where the scene's folder is made."""
    name: str | None = None
    """Name of that folder and of the scene; default: that of the export, run or capture."""
    overwrite: bool = False
    """Replace an export of another content. Whatever is no export is never replaced."""
    feature_dim: int | Literal["full"] = 64
    """Channels per Gaussian: principal components of the features, or full for all of the backbone's channels (for 384
    six times the size)."""
    feature_storage: FeatureStorage = "fp16"
    """How features are kept: int8 (one scale per channel) takes half the room of fp16 and needs a fit3d that reads
    export format version 2."""
    feature_view_dependence: ViewDependence = "position"
    """position: solve also for what features say of the place in the image alone, the same in all views, and keep it
    apart (export format version 3); none: all that features are is in the Gaussians."""
    backbone: BackboneChoice = field(default_factory=BackboneChoice)
    solver: LiftOptions = field(default_factory=LiftOptions)
    cache_dir: Path | None = None
    """Where feature maps are kept between runs; None means $FIT3D_CACHE_DIR, else ~/.cache/fit3d."""
    dry_run: bool = False
    """Check everything as a start would, lift a few views, of which nothing is kept, and print what all of it will take
    in time, memory and disk; write nothing."""


@exits_on_input_error
def run(arguments: LiftArguments) -> Path:
    """Lift as the arguments say; returns the folder that was written (or would be, with --dry-run)."""
    if isinstance(arguments.feature_dim, int) and arguments.feature_dim < 1:
        raise InputError(f"--feature-dim is {arguments.feature_dim}; give at least 1, or full.")
    _check_solver(arguments.solver)
    if arguments.name is not None:
        require_scene_name(arguments.name, "--name", "give another")
    require_writable(arguments.output_dir)
    from fit3d_ns.common.device import choose_device
    from fit3d_ns.lifting.scene import REPORT_FILE, lift_scene, report_bytes
    from fit3d_ns.scene.place import require_export_place

    scene, base = _source(arguments)
    if arguments.name is None:
        require_scene_name(scene.name, "the scene's name", "give another with --name")
    else:
        scene = dataclasses.replace(scene, name=arguments.name)
    directory = arguments.output_dir / scene.name
    if arguments.export is not None and directory.resolve() == arguments.export.resolve():
        raise InputError(f"{directory} is the export to lift from; give another --output-dir or --name.")
    require_export_place(arguments.output_dir, scene.name)
    feature_dim = None if arguments.feature_dim == "full" else arguments.feature_dim
    config = arguments.backbone.over(base)
    dependence = arguments.feature_view_dependence
    if arguments.dry_run:
        from fit3d_ns.lifting.preview import preview_lift

        storage, cache_dir = arguments.feature_storage, arguments.cache_dir
        preview_lift(
            scene,
            config,
            feature_dim,
            arguments.solver,
            choose_device("auto"),
            cache_dir,
            dependence,
            storage,
            directory,
        ).show()
        return directory
    gaussians, report = lift_scene(
        scene, config, feature_dim, arguments.solver, choose_device("auto"), arguments.cache_dir, dependence
    )
    gaussians.stored_as(arguments.feature_storage).save(
        directory, extra_files={REPORT_FILE: report_bytes(report)}, overwrite=arguments.overwrite
    )
    logger.info("Lifted in %.1f s (features of the photos aside) -> %s", report["seconds"], directory)
    return directory


def _check_solver(options: LiftOptions) -> None:
    for name in ("regularization", "tolerance", "max_iterations", "reweightings", "min_weight"):
        value = getattr(options, name)
        if value is not None and not value >= 0:
            raise InputError(f"--solver.{name.replace('_', '-')} is {value}; give at least {type(value)()}.")
    if options.robust_scale is not None and not options.robust_scale > 0:
        raise InputError(f"--solver.robust-scale is {options.robust_scale}; give a positive number, or None for none.")


def _source(arguments: LiftArguments) -> tuple[LiftScene, BackboneConfig]:
    """The scene, and the backbone that fills in for what the user did not choose."""
    given = [arguments.export, arguments.load_config, arguments.ply]
    if sum(value is not None for value in given) != 1:
        raise InputError("give one of --export (a folder), --load-config (a config.yml), or --ply with --data.")
    if (arguments.ply is None) != (arguments.data is None):
        raise InputError("--ply and --data go together: Gaussians, and the capture that they were trained on.")
    if arguments.export is not None:
        from fit3d_ns.lifting.scene import scene_from_export

        scene, info = scene_from_export(arguments.export, arguments.images_root)
        return scene, _config_of(info, arguments)
    # Cameras of runs and captures are nerfstudio's to read; exports do not need it.
    require_nerfstudio("--load-config needs" if arguments.load_config is not None else "--ply needs")
    from fit3d_ns.method.runs import scene_from_ply, scene_from_run

    if arguments.load_config is not None:
        return scene_from_run(arguments.load_config)
    assert arguments.ply is not None
    assert arguments.data is not None
    scene = scene_from_ply(arguments.ply, arguments.data, arguments.dataparser_transforms, arguments.rasterize_mode)
    return scene, BackboneConfig()


def _config_of(info: BackboneInfo, arguments: LiftArguments) -> BackboneConfig:
    if info.weights not in NAMED_WEIGHTS and arguments.backbone.weights is None:
        raise InputError(
            f"{arguments.export} was made with weights from a file: give it again with --backbone.weights, or others."
        )
    from fit3d_ns.lifting.scene import config_of

    return config_of(info)


def parse(words: Sequence[str] | None = None) -> LiftArguments:
    """The arguments of the command line."""
    return read_arguments(LiftArguments, "fit3d-lift", words)


@ends_in_one_sentence
def main() -> None:
    """Console script `fit3d-lift`."""
    arguments = parse()
    quiet_third_parties()
    run(arguments)


if __name__ == "__main__":
    main()
