"""Exports in a folder or on object storage: found, validated and of one backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from fit3d_finetune.targets.export_files import ExportFiles, LocalExport, RemoteExport, read_head
from fit3d_finetune.targets.scenes import Scene
from fit3d_ns.common.console import logger, progress
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.output_place import default_cache_dir
from fit3d_ns.common.temporaries import sweep_leftovers
from fit3d_ns.remote.cache import RemoteCache
from fit3d_ns.remote.folder import RemoteFolder, is_url
from fit3d_ns.scene.description import SceneInfo, file_sha256
from fit3d_ns.scene.gaussians import GAUSSIANS_FILE, SCENE_FILE, FeatureGaussians

REMOTE_CACHE_BYTES = 20 * 10**9


def find_scenes(
    exports: Path | str,
    images_root: Path | str | None = None,
    skip_broken: bool = False,
    cache_bytes: int = REMOTE_CACHE_BYTES,
) -> list[Scene]:
    """Read and validate every export under `exports` (a folder of exports, or a single one).

    Args:
        exports: e.g. runs/, or s3://bucket/runs; folders whose names start with a dot are left out (writes that were
            cut short).
        images_root: where the images are now, if they moved: a folder that holds one folder per scene name, or
            the root of all images; on object storage, too, for exports that are there.
        skip_broken: leave out exports that fail their validation, with a warning, instead of stopping.
        cache_bytes: disk space for files of object storage.

    Raises:
        InputError: no exports, a broken one, or exports of different backbones.
    """
    place = str(exports)
    readers = _remote(place, images_root, cache_bytes) if is_url(place) else _local(Path(place), images_root)
    scenes: list[Scene] = []
    broken = 0
    with progress("exports") as bar:
        task = bar.add_task("Checking exports", total=len(readers))
        for read in readers:
            try:
                scene = read()
                if scene is not None:
                    scenes.append(scene)
            except InputError as error:
                if not skip_broken:
                    raise
                broken += 1
                logger.warning("Left out: %s", error)
            bar.advance(task)
    if not scenes:
        if broken:
            raise InputError(f"all {broken} exports in {place} are broken: export the scenes again with fit3d-export.")
        raise InputError(f"--exports {place} holds no exports: make them with fit3d-export --output-dir {place}.")
    _require_one_backbone(scenes)
    return scenes


def _local(exports: Path, images_root: Path | str | None) -> list[Callable[[], Scene | None]]:
    if isinstance(images_root, str) and is_url(images_root):
        raise InputError(f"--images-root {images_root}: exports in a folder have their images in one, too.")
    sweep_leftovers(exports)
    root = None if images_root is None else Path(images_root)
    return [partial(_read_local, folder, root) for folder in _export_folders(exports)]


def _export_folders(exports: Path) -> list[Path]:
    if not exports.is_dir():
        raise InputError(
            f"--exports {exports} is not a folder: give the folder that fit3d-export wrote to, e.g. runs/."
        )
    if (exports / SCENE_FILE).is_file():
        return [exports]
    return sorted(
        folder
        for folder in exports.iterdir()
        if not folder.name.startswith(".") and ((folder / SCENE_FILE).is_file() or (folder / GAUSSIANS_FILE).is_file())
    )


def _read_local(folder: Path, images_root: Path | None) -> Scene:
    name = folder.resolve().name
    root = None if images_root is None else _root_of_scene(images_root, name)
    gaussians = FeatureGaussians.load(folder, images_root=root, sweep=False)
    info = gaussians.scene
    files = LocalExport(folder, Path(info.images_root))
    return _scene(name, files, file_sha256(folder / GAUSSIANS_FILE), info)


def _remote(exports: str, images_root: Path | str | None, cache_bytes: int) -> list[Callable[[], Scene | None]]:
    folder = RemoteFolder(exports)
    cache = RemoteCache(default_cache_dir() / "remote", cache_bytes)
    names = [name for name in folder.folders() if not name.startswith(".")]
    if not names and folder.find(SCENE_FILE) is not None:
        parent, _, name = folder.url.rpartition("/")
        folder, names = RemoteFolder(parent), [name]
    return [partial(_read_remote, folder, name, images_root, cache) for name in names]


def _read_remote(folder: RemoteFolder, name: str, images_root: Path | str | None, cache: RemoteCache) -> Scene | None:
    head = read_head(folder, name)
    if head is None:
        return None
    images = _images_of(head.scene, name, images_root, folder.below(name))
    files = RemoteExport(name, folder, head.files, head.position_part, images, cache)
    return _scene(name, files, head.identity, head.scene)


def _images_of(info: SceneInfo, name: str, images_root: Path | str | None, place: str) -> Path | RemoteFolder:
    """Where the images of an export on object storage are."""
    first = info.views[0].path
    if images_root is not None and is_url(str(images_root)):
        root = RemoteFolder(str(images_root))
        own = RemoteFolder(root.below(name))
        return own if own.find(first) is not None else root
    folder = Path(info.images_root) if images_root is None else _root_of_scene(Path(images_root), name)
    if not (folder / first).is_file():
        raise InputError(
            f"the images of {place} are not in {folder}: give --images-root, a folder or an address on object "
            "storage, with one folder for each scene or for all of them."
        )
    return folder


def _root_of_scene(images_root: Path, name: str) -> Path:
    """The scene's own folder below --images-root, where it has one."""
    return images_root / name if (images_root / name).is_dir() else images_root


def _scene(name: str, files: ExportFiles, identity: str, info: SceneInfo) -> Scene:
    return Scene(
        name=name,
        files=files,
        gaussians_sha256=identity,
        backbone=info.backbone,
        decoder=info.decoder,
        feature_dim=info.feature_dim,
        views=info.views,
    )


_OF_THE_BACKBONE = ("name", "layer", "weights_sha256", "patch_size", "embed_dim")


def _require_one_backbone(scenes: Sequence[Scene]) -> None:
    first = scenes[0]
    for scene in scenes[1:]:
        a, b = first.backbone, scene.backbone
        if any(getattr(a, key) != getattr(b, key) for key in _OF_THE_BACKBONE):
            raise InputError(
                f"{first.files} and {scene.files} were made with different backbones "
                f"({a.description} layer {a.layer}, and {b.description} layer {b.layer}): "
                "give exports of one backbone."
            )
