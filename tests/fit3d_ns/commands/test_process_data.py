"""From photos alone: ns-process-data (COLMAP), training and export."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from fit3d_ns.scene.gaussians import FeatureGaussians
from tests.console_scripts import run_script, train_briefly

FOX = Path(__file__).parents[4] / "shared" / "data" / "fox" / "images"

pytestmark = [
    pytest.mark.slow,  # about two minutes on two busy cores
    pytest.mark.skipif(not FOX.is_dir(), reason=f"needs the fox photos in {FOX}"),
    *(
        pytest.mark.skipif(shutil.which(program) is None, reason=f"needs the program {program}, which is optional")
        for program in ("colmap", "ffmpeg")
    ),
]


def test_photos_become_a_trained_scene_and_an_export(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in sorted(FOX.glob("*.jpg"))[:14]:
        with Image.open(path) as photo:
            photo.resize((270, 480), Image.Resampling.LANCZOS).save(photos / path.name, quality=95)

    capture = tmp_path / "fox"
    run_script(
        *("ns-process-data", "images", "--data", photos, "--output-dir", capture),
        *("--no-gpu", "--matching-method", "exhaustive"),
    )
    registered = json.loads((capture / "transforms.json").read_text())["frames"]
    assert len(registered) >= 12, f"COLMAP registered {len(registered)} of 14 photos"

    config = train_briefly(capture, tmp_path / "outputs", steps=60)
    run_script("fit3d-export", "--load-config", config, "--output-dir", tmp_path / "runs")
    (export,) = (path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    gaussians = FeatureGaussians.load(export)
    assert len(gaussians.means) > 0
