"""pycolmap's steps: features, matches, poses; each goes on from what the database holds already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fit3d_ns.common.choices import CameraModel, Mapper
from fit3d_ns.common.cores import usable_cores
from fit3d_ns.common.errors import InputError, one_line
from fit3d_ns.common.optional import require_package
from fit3d_ns.reconstruction.pairs import Pair
from fit3d_ns.reconstruction.watched import watched

T = TypeVar("T")
Array = np.ndarray[Any, np.dtype[Any]]

SEED = 0
_PHOTOS, _PAIRS = 4, 32
"""So many at a time for each core are given to pycolmap, which says nothing of how far it is, and whose database nobody
else may read meanwhile: it does not wait for locks. What a run that is killed loses at most."""


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
    token, done = pycolmap.CancellationToken(), [0]
    with pycolmap.Database.open(database) as opened:
        cameras = {image.name: image.camera_id for image in opened.read_all_images()}

    def work() -> None:
        for group in groups:
            for names in _portions(group, _PHOTOS * usable_cores()):
                reader = pycolmap.ImageReaderOptions(camera_model=camera_model)
                camera = next((cameras[name] for name in group if name in cameras), None)
                if camera is not None:
                    reader.existing_camera_id = camera
                pycolmap.extract_features(
                    database_path=database,
                    image_path=images,
                    image_names=names,
                    camera_mode=pycolmap.CameraMode.SINGLE,
                    reader_options=reader,
                    extraction_options=extraction,
                    device=pycolmap.Device.cpu,
                    cancellation_token=token,
                )
                if token.is_cancelled:
                    return
                with pycolmap.Database.open(database) as opened:
                    cameras.update((image.name, image.camera_id) for image in opened.read_all_images())
                done[0] += len(names)

    total = sum(map(len, groups))
    watched(work, "Finding features", "photos", total, lambda: done[0], token.cancel)


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
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = SEED
    token, done = pycolmap.CancellationToken(), [0]

    def work() -> None:
        for portion in _portions(pairs, _PAIRS * usable_cores()):
            pairs_file.write_text("".join(f"{first} {second}\n" for first, second in portion))
            pycolmap.match_image_pairs(
                database_path=database,
                matching_options=pycolmap.FeatureMatchingOptions(use_gpu=False),
                pairing_options=pycolmap.ImportedPairingOptions(match_list_path=pairs_file),
                verification_options=verification,
                device=pycolmap.Device.cpu,
                cancellation_token=token,
            )
            if token.is_cancelled:
                return
            done[0] += len(portion)

    watched(work, "Comparing photos", "pairs", len(pairs), lambda: done[0], token.cancel)


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
        reason = one_line(error)
        raise InputError(f"pycolmap found no poses ({reason}): try --mapper, or other photos.") from error
    return sorted(models.values(), key=lambda model: (-model.num_reg_images(), -model.num_points3D()))


def _portions(items: Sequence[T], size: int) -> Iterator[list[T]]:
    return (list(items[start : start + size]) for start in range(0, len(items), size))
