"""pycolmap's steps: features, matches, poses; each goes on from what the database holds already."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fit3d_ns.common.errors import InputError
from fit3d_ns.common.optional import require_package
from fit3d_ns.reconstruction.pairs import Pair
from fit3d_ns.reconstruction.watched import watched

Array = np.ndarray[Any, np.dtype[Any]]
CameraModel = Literal["OPENCV", "SIMPLE_RADIAL", "RADIAL", "OPENCV_FISHEYE"]
Mapper = Literal["incremental", "global"]

SEED = 0
_BLOCK = 64
"""Pairs between two commits of the database: what a run that is killed loses at most."""


def load_pycolmap() -> Any:
    """pycolmap, quiet and seeded.

    Raises:
        InputError: it is not installed.
    """
    pycolmap = require_package("pycolmap", "fit3d-capture needs", "pycolmap>=4.2,<5")
    pycolmap.logging.minloglevel = 3
    pycolmap.set_random_seed(SEED)
    return pycolmap


def extract_features(
    database: Path, images: Path, groups: Sequence[Sequence[str]], camera_model: CameraModel, max_size: int
) -> None:
    """Find features in images; those that the database knows are left alone.

    Args:
        database: of COLMAP; made if it is not there.
        images: folder of the images.
        groups: names of images that share a camera.
        camera_model: of all cameras.
        max_size: longest side of the image that features are sought in.
    """
    pycolmap = load_pycolmap()
    extraction = pycolmap.FeatureExtractionOptions(max_image_size=max_size, use_gpu=False)
    for group in groups:
        reader = pycolmap.ImageReaderOptions(camera_model=camera_model)
        with pycolmap.Database.open(database) as opened:
            known = {image.name: image.camera_id for image in opened.read_all_images()}
        camera = next((known[name] for name in group if name in known), None)
        if camera is not None:
            reader.existing_camera_id = camera
        token = pycolmap.CancellationToken()
        before = _count(database, "keypoints") - sum(name in known for name in group)

        def work(names: Sequence[str] = group, reader: Any = reader, token: Any = token) -> None:
            pycolmap.extract_features(
                database_path=database,
                image_path=images,
                image_names=list(names),
                camera_mode=pycolmap.CameraMode.SINGLE,
                reader_options=reader,
                extraction_options=extraction,
                device=pycolmap.Device.cpu,
                cancellation_token=token,
            )

        def done(before: int = before) -> int:
            return _count(database, "keypoints") - before

        watched(work, "Finding features", "photos", len(group), done, token.cancel)


def read_descriptors(database: Path) -> dict[str, Array]:
    """Descriptors of the features of each image, uint8 [F, 128]."""
    pycolmap = load_pycolmap()
    with pycolmap.Database.open(database) as opened:
        return {
            image.name: np.asarray(opened.read_descriptors(image.image_id).data)
            for image in opened.read_all_images()
            if opened.exists_descriptors(image.image_id)
        }


def match_features(database: Path, pairs: Sequence[Pair], pairs_file: Path) -> None:
    """Match the features of pairs of images, and keep the matches that one geometry explains."""
    pycolmap = load_pycolmap()
    pairs_file.write_text("".join(f"{first} {second}\n" for first, second in pairs))
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = SEED
    token = pycolmap.CancellationToken()

    def work() -> None:
        pycolmap.match_image_pairs(
            database_path=database,
            matching_options=pycolmap.FeatureMatchingOptions(use_gpu=False),
            pairing_options=pycolmap.ImportedPairingOptions(match_list_path=pairs_file, block_size=_BLOCK),
            verification_options=verification,
            device=pycolmap.Device.cpu,
            cancellation_token=token,
        )

    watched(
        work, "Comparing photos", "pairs", len(pairs), lambda: _count(database, "two_view_geometries"), token.cancel
    )


def find_poses(database: Path, images: Path, folder: Path, mapper: Mapper, total: int) -> list[Any]:
    """Poses of the images and points of the scene.

    Args:
        database: with features and matches.
        images: folder of the images.
        folder: for pycolmap to write in; made, and empty.
        mapper: incremental adds photo after photo; global solves for all at once.
        total: number of images.

    Returns:
        `pycolmap.Reconstruction` of each model, the one with most images first; empty if there is none.

    Raises:
        InputError: pycolmap gives up.
    """
    pycolmap = load_pycolmap()
    token = pycolmap.CancellationToken()
    registered = [0]

    def counted() -> None:
        registered[0] += 1

    def incremental() -> dict[int, Any]:
        options = pycolmap.IncrementalPipelineOptions(min_model_size=3, random_seed=SEED)
        return dict(
            pycolmap.incremental_mapping(
                database_path=database,
                image_path=images,
                output_path=folder,
                options=options,
                initial_image_pair_callback=lambda: registered.__setitem__(0, 2),
                next_image_callback=counted,
                cancellation_token=token,
            )
        )

    def all_at_once() -> dict[int, Any]:
        options = pycolmap.GlobalPipelineOptions(min_model_size=3, random_seed=SEED)
        return dict(
            pycolmap.global_mapping(database_path=database, image_path=images, output_path=folder, options=options)
        )

    try:
        if mapper == "incremental":
            models = watched(incremental, "Finding poses", "photos", total, lambda: registered[0], token.cancel)
        else:
            models = watched(all_at_once, "Finding poses", "photos", total, lambda: 0, lambda: False)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"pycolmap found no poses ({reason}): try --mapper, or other photos.") from error
    return sorted(models.values(), key=lambda model: (-model.num_reg_images(), -model.num_points3D()))


def _count(database: Path, table: str) -> int:
    """Rows of a table, as others that write see them committed; 0 while it cannot be read."""
    try:
        name = f"{database.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(name, uri=True, timeout=0.1)) as connection:
            return int(connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])
    except sqlite3.Error:
        return 0
