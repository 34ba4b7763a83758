"""The whole way on the sample room: train, export, and leave pictures of held-out views in demo/."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOM = Path(__file__).parent / "room"
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
    run("fit3d-export", "--load-config", str(config), "--output-dir", str(DEMO / "runs"))
    pictures = DEMO / "held-out.png"
    shutil.copyfile(DEMO / "runs" / "room" / "previews.png", pictures)
    print(f"Done in {time.monotonic() - start:.0f} s. Look at {pictures} (photo | rgb | feature_pca | depth).")
    print(f"Walk through the scene: ns-viewer --load-config {config}")


if __name__ == "__main__":
    main()
