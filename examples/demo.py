"""The whole way on the sample rooms, with everything it leaves in demo/.

Train feature Gaussians of one room, export them, fine-tune the backbone on them, and probe original and fine-tuned
features in the other room, which nothing was trained on.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOM = Path(__file__).parent / "room"
OTHER_ROOM = Path(__file__).parent / "other_room"
DEMO = Path("demo")


def run(*command: str) -> None:
    """Run a console script of this environment and stop with its exit code if it fails."""
    print("$", *command, flush=True)
    script = Path(sys.executable).with_name(command[0])
    result = subprocess.run([str(script), *command[1:]])
    if result.returncode != 0:
        raise SystemExit(result.returncode)


def main() -> None:
    start = time.monotonic()
    run(
        *("ns-train", "fit3d-features-fast", "--data", str(ROOM), "--output-dir", str(DEMO / "outputs")),
        *("--vis", "tensorboard", "--timestamp", "demo"),
        *("--pipeline.datamanager.backbone.weights", "offline"),
    )
    config = DEMO / "outputs" / "room" / "fit3d-features-fast" / "demo" / "config.yml"
    run("ns-eval", "--load-config", str(config), "--output-path", str(DEMO / "metrics.json"))
    run("fit3d-export", "--load-config", str(config), "--output-dir", str(DEMO / "runs"), "--overwrite")
    pictures = DEMO / "held-out.png"
    shutil.copyfile(DEMO / "runs" / "room" / "previews.png", pictures)
    finetuned = DEMO / "finetuned"
    run(
        *("fit3d-finetune", "--exports", str(DEMO / "runs"), "--output-dir", str(finetuned)),
        *("--epochs", "6"),
    )
    run(
        *("fit3d-probe", "--finetuned", str(finetuned), "--output-dir", str(DEMO / "probe")),
        *("--train-data", str(ROOM), "--test-data", str(OTHER_ROOM)),
    )
    # Only now: the scripts above say what is missing in a clearer way than an import here would.
    from fit3d_finetune.probing.results import ProbeResults
    from fit3d_finetune.report.headline import headline

    print(f"Done in {time.monotonic() - start:.0f} s. Held-out views (photo | rgb | feature_pca | depth): {pictures}")
    print(f"Walk through the scene: ns-viewer --load-config {config}")
    print(f"Report: {DEMO / 'probe' / 'report.html'}")
    print(headline(ProbeResults.load(DEMO / "probe" / "results.json")))


if __name__ == "__main__":
    main()
