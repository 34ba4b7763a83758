"""A COLMAP text model that says what a capture's transforms.json says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation


def write_colmap_model(capture: Path) -> None:
    """Write `sparse/0/{cameras,images,points3D}.txt` beside the capture's images."""
    meta = json.loads((capture / "transforms.json").read_text())
    folder = capture / "sparse" / "0"
    folder.mkdir(parents=True)
    intrinsics = " ".join(str(meta[key]) for key in ("fl_x", "fl_y", "cx", "cy"))
    (folder / "cameras.txt").write_text(f"1 PINHOLE {meta['w']} {meta['h']} {intrinsics}\n")
    lines = []
    for index, frame in enumerate(meta["frames"], start=1):
        camera_to_world = np.array(frame["transform_matrix"]) @ np.diag([1, -1, -1, 1])
        world_to_camera = np.linalg.inv(camera_to_world)
        x, y, z, w = Rotation.from_matrix(world_to_camera[:3, :3]).as_quat()
        tx, ty, tz = world_to_camera[:3, 3]
        lines += [f"{index} {w} {x} {y} {z} {tx} {ty} {tz} 1 {Path(frame['file_path']).name}", "0 0 -1"]
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    points = (capture / "points.ply").read_text().split("end_header\n")[1].splitlines()
    rows = [f"{index} {' '.join(row.split()[:6])} 0.5 1 0" for index, row in enumerate(points, start=1)]
    (folder / "points3D.txt").write_text("\n".join(rows) + "\n")
