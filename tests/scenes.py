"""Small captures for tests, made from the sample room in examples/room."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOM = Path(__file__).parent.parent / "examples" / "room"

TINY_BACKBONE = (
    *("--pipeline.datamanager.backbone.name", "vit_tiny_patch16_224"),
    *("--pipeline.datamanager.backbone.weights", "random"),
)
"""Command line of a backbone that needs no weights and takes milliseconds."""


def write_capture(
    folder: Path,
    views: int = 10,
    size: tuple[int, int] = (112, 84),
    points: int | None = 1500,
    distortion: tuple[float, float] = (0.0, 0.0),
    masks: bool = False,
    save: Callable[[Image.Image, Path], None] | None = None,
    suffix: str = ".png",
) -> Path:
    """Write a nerfstudio capture: `views` of the sample room's photos at `size` (width, height).

    Args:
        points: number of seed points, or None for no point cloud.
        distortion: k1, k2 written to transforms.json (the photos stay as they are).
        masks: write masks that leave out the left third of each photo.
        save: how to write a photo, instead of as 8-bit RGB.
        suffix: file type of the photos.
    """
    room: dict[str, Any] = json.loads((ROOM / "transforms.json").read_text())
    width, height = size
    factor = width / room["w"]
    (folder / "images").mkdir(parents=True)
    frames = room["frames"][:: max(1, len(room["frames"]) // views)][:views]
    written = []
    for frame in frames:
        name = Path(frame["file_path"]).with_suffix(suffix).name
        photo = Image.open(ROOM / frame["file_path"]).resize(size, Image.Resampling.BOX)
        if save is None:
            photo.save(folder / "images" / name)
        else:
            save(photo, folder / "images" / name)
        entry = {"file_path": f"images/{name}", "transform_matrix": frame["transform_matrix"]}
        if masks:
            (folder / "masks").mkdir(exist_ok=True)
            mask = np.full((height, width), 255, np.uint8)
            mask[:, : width // 3] = 0
            Image.fromarray(mask).save(folder / "masks" / Path(name).with_suffix(".png"))
            entry["mask_path"] = f"masks/{Path(name).with_suffix('.png')}"
        written.append(entry)
    meta: dict[str, Any] = {key: room[key] for key in ("camera_model", "p1", "p2")}
    meta |= {"w": width, "h": height, "k1": distortion[0], "k2": distortion[1]}
    meta |= {key: room[key] * factor for key in ("fl_x", "fl_y", "cx", "cy")}
    if points is not None:
        lines = (ROOM / "sparse_pc.ply").read_text().splitlines()
        start = lines.index("end_header") + 1
        header = [f"element vertex {points}" if line.startswith("element") else line for line in lines[:start]]
        body = lines[start :: max(1, (len(lines) - start) // points)][:points]
        (folder / "points.ply").write_text("\n".join(header + body) + "\n")
        meta["ply_file_path"] = "points.ply"
    (folder / "transforms.json").write_text(json.dumps({**meta, "frames": written}))
    return folder
