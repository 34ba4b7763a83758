"""What was reconstructed, as arrays: where the photos were taken, which points they see."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.sparse import csr_matrix

from fit3d_ns.common.console import progress
from fit3d_ns.reconstruction.frames import measured_image, sharpness

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Model:
    """One model: N registered photos, P points, O observations of points in photos."""

    names: list[str]
    """File names of the photos [N], ascending."""
    centres: Array
    """Where they were taken [N, 3], in the model's own unit."""
    photo: Array
    """The photo of each observation [O]."""
    point: Array
    """The point of each observation [O], 0 to P - 1."""
    xy: Array
    """Where the photo shows it [O, 2], in pixels."""
    longest_side: int
    """Of the photos, in pixels."""
    error: float
    """Mean reprojection error in pixels."""
    cameras: list[dict[str, Any]]
    """Model, size and parameters of each, as COLMAP has them."""

    @property
    def points(self) -> int:
        return int(self.point.max(initial=-1)) + 1

    def shared_points(self) -> Array:
        """How many points each two photos both see [N, N]; 0 on the diagonal."""
        ones = np.ones(len(self.photo), dtype=np.float32)
        sees = csr_matrix((ones, (self.photo, self.point)), shape=(len(self.names), max(1, self.points)))
        sees.data[:] = 1.0
        shared: Array = np.asarray((sees @ sees.T).todense())
        np.fill_diagonal(shared, 0.0)
        return shared


def read_model(reconstruction: Any) -> Model:
    """A `pycolmap.Reconstruction` as arrays."""
    images = sorted((reconstruction.image(i) for i in reconstruction.reg_image_ids()), key=lambda image: image.name)
    index_of = {image.image_id: index for index, image in enumerate(images)}
    where = [np.array([p.xy for p in image.points2D], dtype=np.float64).reshape(-1, 2) for image in images]
    photo, point, xy = [], [], []
    for number, entry in enumerate(reconstruction.points3D.values()):
        for element in entry.track.elements:
            index = index_of[element.image_id]
            photo.append(index)
            point.append(number)
            xy.append(where[index][element.point2D_idx])
    cameras = [reconstruction.camera(i) for i in sorted({image.camera_id for image in images})]
    return Model(
        names=[image.name for image in images],
        centres=np.array([image.projection_center() for image in images]).reshape(-1, 3),
        photo=np.array(photo, dtype=np.int64),
        point=np.array(point, dtype=np.int64),
        xy=np.array(xy).reshape(-1, 2),
        longest_side=max((max(camera.width, camera.height) for camera in cameras), default=0),
        error=float(reconstruction.compute_mean_reprojection_error()),
        cameras=[
            {
                "model": camera.model.name,
                "width": int(camera.width),
                "height": int(camera.height),
                "params": [float(value) for value in camera.params],
            }
            for camera in cameras
        ],
    )


def measure_photos(model: Model, images: Path) -> tuple[Array, Array]:
    """Look at the photos of a model.

    Args:
        model: says which photos, and where they show points.
        images: their folder.

    Returns:
        Sharpness of each photo [N], and the grey value 0..255 at each observation [O].
    """
    sharp = np.zeros(len(model.names))
    values = np.zeros(len(model.photo))
    with progress("photos") as bar:
        for index in bar.track(range(len(model.names)), description="Checking photos"):
            grey = cv2.imread(str(images / model.names[index]), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
            sharp[index] = sharpness(measured_image(grey))
            mine = np.flatnonzero(model.photo == index)
            x, y = model.xy[mine].astype(np.int64).T
            smooth = cv2.blur(grey, (5, 5))
            values[mine] = smooth[np.clip(y, 0, grey.shape[0] - 1), np.clip(x, 0, grey.shape[1] - 1)]
    return sharp, values
