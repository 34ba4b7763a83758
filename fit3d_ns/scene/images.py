"""Whether the images of an export are there, and still those that it was made from."""

from __future__ import annotations

from pathlib import Path

from fit3d_ns.common.errors import InputError
from fit3d_ns.scene.description import SceneInfo, ViewInfo, file_sha256, resolve


def check_scene_images(scene: SceneInfo, directory: Path) -> None:
    """Check that the images and masks of a scene are there and that the images are those it was made from."""
    root = Path(scene.images_root)
    files = [(view, resolve(view.path, root)) for view in scene.views]
    wanted = [path for _, path in files]
    wanted += [resolve(view.mask_path, root) for view in scene.views if view.mask_path is not None]
    missing = [path for path in wanted if not path.is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(wanted)} images and masks of {directory} are missing, the first is {missing[0]}; "
            f"if they moved, give their folder with --images-root."
        )
    changed = [path for view, path in files if _content_changed(view, path)]
    if changed:
        raise InputError(
            f"{len(changed)} of {len(files)} images of {directory} changed since the export, "
            f"the first is {changed[0]}; "
            f"restore them (or give their folder with --images-root), or train and export the scene again."
        )


def _content_changed(view: ViewInfo, path: Path) -> bool:
    try:
        return file_sha256(path) != view.sha256
    except OSError as error:
        raise InputError(f"image {path} cannot be read ({error.strerror}); check its permissions.") from error
