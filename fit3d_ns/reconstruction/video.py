"""Frames of a video: measured in a first pass, picked, and written in a second one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fit3d_ns.common.console import logger, progress
from fit3d_ns.common.errors import InputError
from fit3d_ns.reconstruction.frames import measured_image, motion, pick_frames, sharpness
from fit3d_ns.reconstruction.photos import MIN_PHOTOS, save_jpeg

Array = np.ndarray[Any, np.dtype[Any]]

_READ_SHARE = 0.9
"""A video of which less of the frames than this can be decoded was cut off."""
_LOOKED_AT = 60
"""Frames from which `look_at_video` takes its rate."""


def frames_of_video(video: Path, folder: Path, most: int) -> dict[str, str]:
    """Write the picked frames of a video as JPEGs.

    Args:
        video: any that OpenCV decodes; turned upright as it says.
        folder: gets frame_00001.jpg ...; made, and empty.
        most: how many frames at most.

    Returns:
        For each file name which frame of the video it is ("frame 17", counted from 0).

    Raises:
        InputError: it is no video, or fewer than three frames differ enough.
    """
    sharp, moved = _measure(video)
    picked = pick_frames(np.asarray(sharp), np.asarray(moved), most)
    if len(picked) < MIN_PHOTOS:
        raise InputError(
            f"{video}: of its {len(sharp)} frames only {len(picked)} show something from another place, and "
            f"{MIN_PHOTOS} are needed: walk around what is filmed."
        )
    logger.info("%s: %d of %d frames are used, the sharpest of each stretch", video.name, len(picked), len(sharp))
    names: dict[str, str] = {}
    wanted = set(picked)
    with progress("frames") as bar:
        task = bar.add_task("Writing frames", total=len(picked))
        for index, frame in decoded_frames(video, until=picked[-1]):
            if index in wanted:
                name = f"frame_{len(names) + 1:05d}.jpg"
                save_jpeg(folder / name, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
                names[name] = f"frame {index}"
                bar.advance(task)
    return names


def _measure(video: Path) -> tuple[list[float], list[float]]:
    """Sharpness of every frame, and its motion from the one before."""
    sharp: list[float] = []
    moved: list[float] = []
    before: Array | None = None
    with _opened(video) as capture:
        announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    with progress("frames") as bar:
        task = bar.add_task("Looking for sharp frames", total=announced if announced > 0 else None)
        for _, frame in decoded_frames(video):
            grey = measured_image(frame)
            sharp.append(sharpness(grey))
            moved.append(0.0 if before is None or before.shape != grey.shape else motion(before, grey))
            before = grey
            bar.advance(task)
    if not sharp:
        raise _no_video(video)
    if len(sharp) < _READ_SHARE * announced:
        logger.warning("%s: %d of the %d frames that it announces can be decoded", video, len(sharp), announced)
    return sharp, moved


def look_at_video(video: Path) -> tuple[int, float]:
    """How many frames a video announces (0: it does not), and seconds to look at one, found on the first ones.

    Raises:
        InputError: it is no video.
    """
    with _opened(video) as capture:
        announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    start, count = time.perf_counter(), 0
    before: Array | None = None
    for _, frame in decoded_frames(video, until=_LOOKED_AT - 1):
        grey = measured_image(frame)
        sharpness(grey)
        if before is not None:
            motion(before, grey)
        before, count = grey, count + 1
    if not count:
        raise _no_video(video)
    return max(0, announced), (time.perf_counter() - start) / count


def decoded_frames(video: Path, until: int | None = None) -> Iterator[tuple[int, Array]]:
    """Frames with their index, uint8 [H, W, 3] BGR, to the end or up to one."""
    with _opened(video) as capture:
        index = 0
        while until is None or index <= until:
            there, frame = capture.read()
            if not there:
                return
            yield index, frame
            index += 1


@contextmanager
def _opened(video: Path) -> Iterator[cv2.VideoCapture]:
    # By ffmpeg alone: other readers of OpenCV take a photo, or a name with a number in it, for a video.
    capture = cv2.VideoCapture(str(video), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise _no_video(video)
        yield capture
    finally:
        capture.release()


def _no_video(video: Path) -> InputError:
    return InputError(f"{video} is no video that can be decoded: give an .mp4, .mov or .webm, or a folder of photos.")
