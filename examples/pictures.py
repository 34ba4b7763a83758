"""The pictures of docs/targets.md, from what `make demo` left in demo/: python examples/pictures.py [EXPORTS ...]

docs/targets.png is demo/targets.png. docs/what_targets_change.png shows a photo of the other room by three backbones:
the original; fine-tuned on features alone; and on depth and normals too. Each has linear heads of its own for depth and
normals, solved on the same views. Tuned and solved on EXPORTS, demo/runs/room where none are given.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
from demo import DEMO, OTHER_ROOM, run

from fit3d_finetune import GeometryReader, load_geometry
from fit3d_finetune.probing.data.datasets import read_data
from fit3d_finetune.probing.data.labelled_images import LabelledImage
from fit3d_finetune.probing.metrics import depth_metrics, normal_metrics
from fit3d_finetune.report.sheets import comparison_sheet, predicted_shape, save_png, true_shape

DOCS = Path(__file__).parent.parent / "docs"
WORK = DEMO / "pictures"
SHOWN_PHOTO = 20
PASSES = 6
"""Over one room; over several together no more than that, and at least two over each."""
MAX_DEPTH = 10.0
FEATURES_ALONE = ("--depth-weight", "0", "--normal-weight", "0", "--class-token-weight", "0")
RECIPES = {
    # One step of no size: the original, with heads.
    "original": (*FEATURES_ALONE, "--max-steps", "1", "--lr", "1e-12"),
    "features": FEATURES_ALONE,
    "all_targets": (),
}


def tuned(name: str, exports: list[Path]) -> GeometryReader:
    """The backbone of a recipe with heads."""
    together = WORK / "runs"
    together.mkdir(parents=True, exist_ok=True)
    for export in exports:
        link = together / export.name
        link.unlink(missing_ok=True)
        link.symlink_to(export.resolve(), target_is_directory=True)
    run(
        *("fit3d-finetune", "--exports", str(together), "--output-dir", str(WORK / name), "--keep-heads"),
        *("--val-fraction", "0", "--epochs", str(max(2, PASSES // len(exports))), *RECIPES[name]),
    )
    return load_geometry(WORK / name)


def errors(reader: GeometryReader, image: LabelledImage) -> tuple[float, float]:
    """RMSE of depth in metres and of normals in degrees."""
    predicted, truth = predicted_shape(reader, image), true_shape(image)
    assert truth is not None
    depth = depth_metrics(truth.depth, predicted.depth, MAX_DEPTH)
    return depth["rmse"], normal_metrics(truth.normals, predicted.normals)["rmse"]


def main(exports: list[Path]) -> None:
    [room] = read_data([str(OTHER_ROOM)])
    readers = []
    for name in RECIPES:
        readers.append(tuned(name, exports))
        depth, angle = np.mean([errors(readers[-1], image) for image in room.images], axis=0)
        print(f"{name}: in the other room depth RMSE {depth:.3f} m, normals RMSE {angle:.1f} degrees")
    save_png(comparison_sheet(readers, room.images[SHOWN_PHOTO]), DOCS / "what_targets_change.png")
    shutil.copyfile(DEMO / "targets.png", DOCS / "targets.png")


if __name__ == "__main__":
    main([Path(path) for path in sys.argv[1:]] or [DEMO / "runs" / "room"])
