"""Tiny captures and runs, made the way a user makes them: with the console scripts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOM = Path(__file__).parents[2] / "examples" / "room"

TINY_TRAINING = (
    *("--vis", "tensorboard", "--viewer.quit-on-train-completion", "True"),
    *("--steps-per-eval-image", "0", "--steps-per-eval-all-images", "0", "--steps-per-save", "1000"),
    *("--pipeline.datamanager.backbone.name", "vit_tiny_patch16_224"),
    *("--pipeline.datamanager.backbone.weights", "random"),
    *("--pipeline.model.feature-dim", "16"),
    *("--pipeline.model.feature-start-step", "10"),
    *("--pipeline.model.resolution-schedule", "10"),
    *("--pipeline.model.sh-degree-interval", "20"),
)
"""Options that make a run of some dozen steps pass through all parts of the training."""


def console_script(name: str) -> str:
    """Path of a console script of the environment that runs the tests."""
    return str(Path(sys.executable).with_name(name))


def run_script(name: str, *arguments: str, timeout: float = 300) -> str:
    """Run a console script to its end and return what it wrote; fail with that text if it fails."""
    result = subprocess.run(
        [console_script(name), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        env={**os.environ, "COLUMNS": "400"},
    )
    assert result.returncode == 0, f"{name} ended with exit code {result.returncode}:\n{result.stdout[-6000:]}"
    return result.stdout


def write_tiny_room(folder: Path, views: int = 10, scale: float = 0.5, points: int = 2000) -> Path:
    """The sample room with fewer and smaller images and fewer points."""
    (folder / "images").mkdir(parents=True)
    transforms = json.loads((ROOM / "transforms.json").read_text())
    frames = transforms["frames"]
    transforms["frames"] = frames[:: len(frames) // views][:views]
    for key in ("fl_x", "fl_y", "cx", "cy"):
        transforms[key] *= scale
    transforms["w"], transforms["h"] = round(transforms["w"] * scale), round(transforms["h"] * scale)
    for frame in transforms["frames"]:
        with Image.open(ROOM / frame["file_path"]) as image:
            image.resize((transforms["w"], transforms["h"]), Image.Resampling.LANCZOS).save(
                folder / frame["file_path"], quality=95
            )
    (folder / "transforms.json").write_text(json.dumps(transforms))
    lines = (ROOM / "sparse_pc.ply").read_text().splitlines()
    header = lines.index("end_header") + 1
    body = lines[header:]
    body = body[:: len(body) // points][:points]
    head = [f"element vertex {len(body)}" if line.startswith("element vertex") else line for line in lines[:header]]
    (folder / "sparse_pc.ply").write_text("\n".join(head + body) + "\n")
    return folder


def train_tiny(data: Path, output_dir: Path, steps: int = 80) -> Path:
    """Train `fit3d-features-fast` for a few steps and return the run's config.yml."""
    run_script(
        *("ns-train", "fit3d-features-fast", "--data", str(data), "--output-dir", str(output_dir)),
        *("--timestamp", "tiny", "--max-num-iterations", str(steps), *TINY_TRAINING),
    )
    (config,) = output_dir.glob("*/*/tiny/config.yml")
    return config
