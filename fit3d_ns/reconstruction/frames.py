"""Which frames of a video to use: the sharp ones, so far apart that the picture has moved, and none where it stands."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

MEASURED_SIDE = 640
"""Longest side in pixels of the grey image that sharpness and motion are measured on."""
STEP = 0.04
"""Motion from one picked frame to the next, as a share of the longest side: at least so much."""
LOST = 0.25
"""What counts as the motion between two frames in which nothing could be followed (a cut, a wild turn)."""
STANDING = 0.0005
"""Motion between two frames below this is noise: the camera stands."""

_FEATURES = 200
_FOLLOWED = 12
"""So many features must have been followed for their motion to mean something."""


def measured_image(image: Array) -> Array:
    """A uint8 image [H, W] or [H, W, 3] (RGB or BGR) in grey, no larger than `MEASURED_SIDE`: uint8 [h, w]."""
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    factor = MEASURED_SIDE / max(grey.shape)
    if factor >= 1:
        return grey
    size = (max(1, round(grey.shape[1] * factor)), max(1, round(grey.shape[0] * factor)))
    shrunk: Array = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return shrunk


def sharpness(grey: Array) -> float:
    """Variance of the Laplacian of a grey image [h, w]: the larger, the sharper, for images of the same things."""
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())


def motion(before: Array, after: Array) -> float:
    """How far the picture moves between two grey images [h, w]: the median way of the features that can be followed.

    Returns:
        A share of the longest side; `LOST` where too few features can be followed.
    """
    moved = _followed(before, after)
    # The features of a sharp image are not found in a blurred one, but those of the blurred one are in the sharp one.
    return moved if moved < LOST else _followed(after, before)


def _followed(before: Array, after: Array) -> float:
    corners = cv2.goodFeaturesToTrack(before, _FEATURES, 0.01, 7)
    if corners is None or len(corners) < _FOLLOWED:
        # Nothing to follow: a wall stays a wall, whereas anything else has changed.
        return 0.0 if float(cv2.absdiff(before, after).mean()) < 2.0 else LOST
    there, found, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, None)
    back, returned, _ = cv2.calcOpticalFlowPyrLK(after, before, there, None)
    # A feature that does not come back to where it began was not followed.
    kept = (found[:, 0] == 1) & (returned[:, 0] == 1) & (np.linalg.norm(back - corners, axis=2)[:, 0] < 1.0)
    if int(kept.sum()) < max(_FOLLOWED, len(corners) // 10):
        return LOST
    way = np.linalg.norm(there - corners, axis=2)[kept, 0]
    return min(float(np.median(way)) / max(before.shape), LOST)


def pick_frames(sharp: Array, moved: Array, most: int, step: float = STEP) -> list[int]:
    """Pick the frames of a video.

    The way of the picture is cut into stretches of at least `step`, so long that there are at most `most`; of each the
    sharpest frame is picked among those that are a third of a stretch away from the one before.

    Args:
        sharp: sharpness of every frame [N].
        moved: motion from the frame before [N], as a share of the longest side; the first is not used.
        most: how many frames at most, >= 1.
        step: share of the longest side.

    Returns:
        Indices in ascending order.
    """
    count = len(sharp)
    if count == 0:
        return []
    steps = np.where(np.asarray(moved) < STANDING, 0.0, moved)
    steps[0] = 0.0
    way = np.cumsum(steps)
    stretches = int(np.clip(np.floor(way[-1] / step + 1e-6) + 1, 1, min(most, count)))
    length = way[-1] / stretches if way[-1] > 0 else 1.0
    stretch = np.minimum((way / length).astype(np.int64), stretches - 1)
    picked: list[int] = []
    for index in range(stretches):
        candidates = np.flatnonzero(stretch == index)
        if picked:
            candidates = candidates[way[candidates] - way[picked[-1]] >= length / 3]
        if len(candidates) == 0:  # one jump went over the whole stretch, or all are like the last one
            continue
        picked.append(int(candidates[np.argmax(np.asarray(sharp)[candidates])]))
    return picked
