"""fit3d-export: trained scenes as `runs/<scene>/`, the artefact that fine-tuning reads."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fit3d_ns.commands.needs import require_nerfstudio
from fit3d_ns.common.choices import FeatureStorage
from fit3d_ns.common.command_line import read_arguments
from fit3d_ns.common.ending import ends_in_one_sentence
from fit3d_ns.common.errors import InputError, exits_on_input_error
from fit3d_ns.common.output_place import require_writable
from fit3d_ns.common.third_parties import quiet_third_parties
from fit3d_ns.remote.folder import RemoteFolder, is_url


@dataclass
class ExportArguments:
    """Export trained scenes: one folder per scene with Gaussians, features, cameras and a splat.ply."""

    load_config: Path | None = None
    """The config.yml that ns-train wrote."""
    all: Path | None = None
    """Export every finished fit3d run under this folder instead (the newest of each scene)."""
    output_dir: str = "runs"
    """Where the scene's folder is made; also s3://BUCKET/runs, gs:// and az://."""
    name: str | None = None
    """Name of that folder and of the scene; default: the run's --experiment-name (the capture's folder)."""
    overwrite: bool = False
    """Replace an export of another content. Whatever is no export is never replaced."""
    previews: int = 4
    """Held-out views in previews.png (photo | rgb | feature_pca | depth); 0 for none."""
    feature_storage: FeatureStorage = "fp16"
    """How features are kept: int8 (one scale per channel) takes half the room of fp16 and needs a fit3d that reads
    export format version 2."""


@exits_on_input_error
def run(arguments: ExportArguments) -> None:
    """Export what the arguments name."""
    if (arguments.load_config is None) == (arguments.all is None):
        raise InputError("give either --load-config with a config.yml, or --all with the folder of many runs.")
    if arguments.all is not None and arguments.name is not None:
        raise InputError("--name names one scene: give it with --load-config, not with --all.")
    if arguments.previews < 0:
        raise InputError(f"--previews is {arguments.previews}; give at least 0.")
    require_nerfstudio("fit3d-export needs")
    from fit3d_ns.method.run_folder import scene_of
    from fit3d_ns.method.runs import finished_runs, read_config
    from fit3d_ns.scene.place import require_export_place

    paths = [arguments.load_config] if arguments.load_config else finished_runs(Path(str(arguments.all)))
    place = str(arguments.output_dir)
    if is_url(place):
        _export_to_store(paths, RemoteFolder(place), arguments)
        return
    output_dir = Path(place)
    require_writable(output_dir)
    if arguments.all is not None:
        for path in paths:  # all places before the first export
            require_export_place(output_dir, scene_of(path, read_config(path)))
    for path in paths:
        _export(path, output_dir, arguments)


def _export(path: Path, output_dir: Path, arguments: ExportArguments) -> Path:
    from fit3d_ns.method.export import export_run

    return export_run(
        path, output_dir, arguments.previews, arguments.feature_storage, arguments.name, arguments.overwrite
    )


def _export_to_store(paths: Sequence[Path], folder: RemoteFolder, arguments: ExportArguments) -> None:
    """Export on this machine, and upload each scene when it is whole."""
    from fit3d_ns.scene.upload import upload_export

    folder.require_writable()
    for path in paths:
        with tempfile.TemporaryDirectory(prefix="fit3d-export-") as temporary:
            made = _export(path, Path(temporary), arguments)
            upload_export(folder, made, arguments.overwrite)


def parse(words: Sequence[str] | None = None) -> ExportArguments:
    """The arguments of the command line."""
    return read_arguments(ExportArguments, "fit3d-export", words)


@ends_in_one_sentence
def main() -> None:
    """Console script `fit3d-export`."""
    arguments = parse()
    quiet_third_parties()
    run(arguments)


if __name__ == "__main__":
    main()
