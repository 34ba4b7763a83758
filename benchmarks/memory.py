"""Peak memory, each figure in a process of its own.

    python -m benchmarks.memory rgb|wide              # one rendering, as JSON
    python -m benchmarks.memory scenes FOLDER COUNT   # the data side of fine-tuning

A rendering may take its inputs, their gradients and 2 GB: what is reported is the peak of resident memory over a
forward and backward less what was there before (with the inputs) and less the gradients.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.rasterization import GEOMETRY, colors, once, scene
from benchmarks.rows import Aim, Row, Setting
from benchmarks.scenes import TargetJob, write_scenes
from fit3d_ns.rasterization import rasterization

RENDERINGS = {"rgb": (1_000_000, 3), "wide": (200_000, 64)}
"""Gaussians and channels."""
WIDTH, HEIGHT = 1920, 1080
FEW, MANY = 10, 200
BATCHES = 20


def resident(field: str) -> int:
    """Bytes of "VmRSS" (now) or "VmHWM" (the most so far) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")


def rendering(kind: str) -> dict[str, int]:
    """Bytes of a forward and backward: the peak above what was there before, and the inputs (and each gradient)."""
    count, channels = RENDERINGS[kind]
    small = {**scene(1000), **colors(1000, channels)}
    learns = (*GEOMETRY, "colors")
    once(rasterization, small, learns)  # loads libraries and kernels
    inputs = {**scene(count, width=WIDTH, height=HEIGHT), **colors(count, channels)}
    # As many pixels are reached as by a trained scene, not a million times over.
    inputs["scales"] = inputs["scales"] * (20_000 / count) ** 0.5
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on
    before = resident("VmRSS")
    once(rasterization, inputs, learns, WIDTH, HEIGHT)
    return {"above": resident("VmHWM") - before, "inputs": sum(inputs[name].nbytes for name in learns)}


def in_own_process(*arguments: str) -> dict[str, int]:
    command = [sys.executable, "-m", "benchmarks.memory", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    result: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(setting: Setting) -> list[Row]:
    rows = []
    for kind, (count, channels) in RENDERINGS.items():
        taken = in_own_process(kind)
        name = f"{WIDTH}x{HEIGHT}, {count:,} Gaussians, {'RGB' if channels == 3 else channels}, forward and backward"
        beyond = (taken["above"] - taken["inputs"]) / 1e9  # gradients are as large as their inputs
        note = f"{taken['inputs'] / 1e9:.2f} GB of inputs"
        aim = Aim("ours", "at most", 2.0)
        rows.append(Row(f"{name}: above inputs and gradients", "GB", max(beyond, 0.0), aim=aim, note=note))
    few, many = (FEW // 2, FEW) if setting.quick else (FEW, MANY)
    with TemporaryDirectory() as folder:
        write_scenes(setting.exports[0], Path(folder), many)
        peaks = [in_own_process("scenes", folder, str(count))["peak"] / 1e6 for count in (few, many)]
    name = f"fine-tuning's data side, {many} scenes"
    rows.append(Row(name, "MB", peaks[1], peaks[0], f"{few} scenes", aim=Aim("ratio", "at most", 1.2)))
    return rows


def main(arguments: list[str]) -> None:
    if arguments[0] == "scenes":
        TargetJob(Path(arguments[1]), int(arguments[2])).prepare(BATCHES)
        print(json.dumps({"peak": resident("VmHWM")}))
    else:
        print(json.dumps(rendering(arguments[0])))


if __name__ == "__main__":
    main(sys.argv[1:])
