"""Captures of the sample room with faults put in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.scenes import write_capture

OTHER_ROOM = Path(__file__).parents[3] / "examples" / "room_c" / "images"


def write_whole_room(folder: Path) -> Path:
    """All 40 photos of the sample room at half their size, as files that lose nothing."""
    return write_capture(folder, views=40, size=(224, 168), points=6000)


def photo_of(capture: Path, index: int) -> Path:
    """The photo of a frame."""
    frame = json.loads((capture / "transforms.json").read_text())["frames"][index]
    return capture / str(frame["file_path"])


def replace_photo(capture: Path, index: int) -> Path:
    """Another room's photo in place of a frame's; returns the photo."""
    path = photo_of(capture, index)
    other = sorted(OTHER_ROOM.iterdir())[index]
    with Image.open(path) as photo:
        size = photo.size
    Image.open(other).convert("RGB").resize(size).save(path)
    return path


def brighten_photo(capture: Path, index: int, factor: float) -> Path:
    """Multiply the pixels of a frame's photo and clip them; returns the photo."""
    path = photo_of(capture, index)
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(float) * factor
    Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8)).save(path)
    return path


def turn_camera(capture: Path, index: int, degrees: float) -> Path:
    """Turn a frame's camera about its vertical axis; returns the photo."""
    path = capture / "transforms.json"
    meta = json.loads(path.read_text())
    angle = np.deg2rad(degrees)
    turn = np.eye(4)
    turn[0, 0] = turn[2, 2] = np.cos(angle)
    turn[0, 2], turn[2, 0] = np.sin(angle), -np.sin(angle)
    pose = np.array(meta["frames"][index]["transform_matrix"])
    meta["frames"][index]["transform_matrix"] = (pose @ turn).tolist()
    path.write_text(json.dumps(meta))
    return photo_of(capture, index)
