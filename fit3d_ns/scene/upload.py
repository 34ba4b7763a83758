"""An export of this machine to a folder of exports on object storage."""

from __future__ import annotations

from pathlib import Path

from fit3d_ns.common.console import logger
from fit3d_ns.common.errors import InputError
from fit3d_ns.remote.folder import RemoteFolder, upload_whole
from fit3d_ns.scene.place import SCENE_FILE


def upload_export(folder: RemoteFolder, made: Path, overwrite: bool = False) -> None:
    """Put an export of this machine into a folder of exports on object storage.

    Raises:
        InputError: an export of another content is there, and is not to be replaced.
    """
    name = made.name
    files = {f"{name}/{file.name}": file for file in sorted(made.iterdir())}
    scene = f"{name}/{SCENE_FILE}"
    if folder.find(scene) is not None:
        if folder.read(scene) == files[scene].read_bytes():
            logger.info("%s is there already, and the same", folder.below(name))
            return
        if not overwrite:
            raise InputError(
                f"{folder.below(name)} holds another export already: give --overwrite to replace it, or another "
                "--output-dir or --name."
            )
    upload_whole(folder, files, last=scene)
    logger.info("Uploaded: %s", folder.below(name))
