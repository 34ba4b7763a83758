"""The geometry of a labelled view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class ConsistencyView:
    """The geometry of one view: a pinhole camera and the depth that it sees.

    The depth map may be smaller than the image, as long as it shows the same field of view and `K` belongs to it.
    """

    depth: Array
    """[H, W] float, along the camera's z axis; 0 where unknown. Any unit of length, the same as the pose's."""
    K: Array
    """[3, 3] in pixels of `depth`; the centre of the top-left pixel is at (0.5, 0.5)."""
    camera_to_world: Array
    """[4, 4], OpenCV axes: x right, y down, z forward."""
    scene: str = ""
    """Only views of the same scene are paired."""

    def __post_init__(self) -> None:
        shapes = (np.shape(self.K), np.shape(self.camera_to_world), np.ndim(self.depth))
        if shapes != ((3, 3), (4, 4), 2):
            raise ValueError(
                f"a view needs K [3, 3], camera_to_world [4, 4] and depth [H, W], "
                f"not {list(shapes[0])}, {list(shapes[1])} and {list(np.shape(self.depth))}"
            )
