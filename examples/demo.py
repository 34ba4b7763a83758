"""The whole way on the sample rooms, with everything it leaves in demo/.

Train feature Gaussians of three rooms, export them, fine-tune the backbone on them, and probe original and fine-tuned
features in rooms that nothing was trained on: probes learn from the labels of one and are tested in the other.
Fine-tuning needs no labels. Pictures show what it learned from, and depth and normals of the other room by the heads
that it kept.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOMS = tuple(Path(__file__).parent / name for name in ("room", "room_b", "room_c"))
LABELLED_ROOM = Path(__file__).parent / "labelled_room"
OTHER_ROOM = Path(__file__).parent / "other_room"
DEMO = Path("demo")
SHOWN_VIEW = 33
"""Of the room, whose targets are shown."""
PHOTOS = 3
"""Of the other room, in the picture of predictions."""


def run(*command: str) -> None:
    """Run a console script of this environment and stop with its exit code if it fails."""
    print("$", *command, flush=True)
    start = time.monotonic()
    script = Path(sys.executable).with_name(command[0])
    result = subprocess.run([str(script), *command[1:]])
    if result.returncode != 0:
        raise SystemExit(result.returncode)
    print(f"({time.monotonic() - start:.0f} s)", flush=True)


def draw(finetuned: Path) -> tuple[Path, Path]:
    """Draw what fine-tuning learned from and what its heads predict; returns both pictures."""
    # Only now: the scripts that ran before say what is missing in a clearer way than an import above would.
    from fit3d_finetune import load_geometry
    from fit3d_finetune.backbone.hub import read_finetuned
    from fit3d_finetune.probing.data.datasets import read_data
    from fit3d_finetune.report.sheets import predictions_sheet, save_png, targets_sheet
    from fit3d_finetune.targets.finding import find_scenes

    [scene] = find_scenes(DEMO / "runs" / "room")
    [unseen] = read_data([str(OTHER_ROOM)])
    targets, predictions = DEMO / "targets.png", DEMO / "predictions.png"
    save_png(targets_sheet(scene, SHOWN_VIEW, read_finetuned(finetuned).original), targets)
    spread = unseen.images[:: len(unseen.images) // PHOTOS][:PHOTOS]
    save_png(predictions_sheet(load_geometry(finetuned), spread), predictions)
    return targets, predictions


def main() -> None:
    start = time.monotonic()
    run(
        *("fit3d-scenes", "--scenes", *map(str, ROOMS), "--output-dir", str(DEMO / "runs")),
        *("--work-dir", str(DEMO / "scenes"), "--method", "fit3d-features-fast", "--jobs", str(len(ROOMS))),
        "--train-options=--pipeline.datamanager.backbone.weights offline",
    )
    config = DEMO / "scenes" / "outputs" / "room" / "fit3d-features-fast" / "attempt-1" / "config.yml"
    pictures = DEMO / "held-out.png"
    shutil.copyfile(DEMO / "runs" / "room" / "previews.png", pictures)
    finetuned = DEMO / "finetuned"
    run("fit3d-finetune", "--exports", str(DEMO / "runs"), "--output-dir", str(finetuned), "--keep-heads")
    run(
        *("fit3d-probe", "--finetuned", str(finetuned), "--output-dir", str(DEMO / "probe")),
        *("--train-data", str(LABELLED_ROOM), "--test-data", str(OTHER_ROOM), "--precision", "auto"),
        *("--seeds", "0", "1"),  # a third one changes little here and takes three quarters of a minute
    )
    targets, predictions = draw(finetuned)
    from fit3d_finetune.probing.results import ProbeResults
    from fit3d_finetune.report.headline import headline

    print(f"Done in {time.monotonic() - start:.0f} s. Held-out views (photo | rgb | feature_pca | depth): {pictures}")
    print(f"What fine-tuning learned from (photo | its features | the scene's; weights | depth | normals): {targets}")
    print(f"A room it never saw (photo | depth | true depth | normals | true normals): {predictions}")
    print(f"Walk through the scene: ns-viewer --load-config {config}")
    print(f"Report: {DEMO / 'probe' / 'report.html'}")
    print(headline(ProbeResults.load(DEMO / "probe" / "results.json")))


if __name__ == "__main__":
    main()
