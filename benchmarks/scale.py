"""Does anything grow faster than the number of scenes? Ten thousand of them, without their Gaussians.

    python -m benchmarks.scale EXPORT [--counts 100 1000 10000] [--output benchmarks/results/scale.md]

Every scene is a folder of hard links to a small export, so that what is measured is what is done for each scene, and
not reading Gaussians: finding and validating exports (images unchanged), the order of an epoch, reserving and opening
kept targets, and what fit3d-scenes does before it starts and at every look. Times are of one run each, in a process
of its own for each number; exponents p of time = c N^p are fitted to all. Memory: the peak of the process less what it
had before it began.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from benchmarks.markdown import header, row
from benchmarks.memory import resident
from benchmarks.report import commit
from benchmarks.timing import fitted_exponent
from fit3d_ns.common.atomic import atomic_file

T = TypeVar("T")

COUNTS = (100, 1_000, 10_000)
STEPS = 1_000
"""Whose samples are drawn."""
GAUSSIANS, VIEWS = 50, 3
CAPTURES = "captures"
PARTS = {
    "find": "finding exports",
    "order": f"an epoch's order and {STEPS:,} steps of it",
    "targets": "reserving kept targets, and reading one view of each scene",
    "plan": "fit3d-scenes: what is exported already",
    "look": "fit3d-scenes: one look at all scenes",
}


def small_export(export: Path, folder: Path) -> Path:
    """An export of few Gaussians and views, with the images of a real one."""
    from fit3d_ns.scene.gaussians import FeatureGaussians

    whole = FeatureGaussians.load(export)
    few = {
        name: getattr(whole, name)[:GAUSSIANS] for name in ("means", "quats", "scales", "opacities", "sh", "features")
    }
    root = Path(whole.scene.images_root).absolute()
    views = [dataclasses.replace(view, path=str(root / view.path), mask_path=None) for view in whole.scene.views]
    scene = dataclasses.replace(
        whole.scene, views=tuple(views[:VIEWS]), num_gaussians=GAUSSIANS, images_root=str(folder / CAPTURES)
    )
    small = dataclasses.replace(whole, **few, scene=scene)
    small.save(folder / "scene")
    return folder / "scene"


def link_scenes(template: Path, folder: Path, count: int) -> None:
    """So many exports with the files of one."""
    for index in range(count):
        scene = folder / f"scene_{index:06d}"
        scene.mkdir(parents=True)
        for file in ("scene.json", "gaussians.safetensors"):
            os.link(template / file, scene / file)


def measured(runs: Path, work: Path, count: int) -> dict[str, float]:
    """Seconds of every part, and bytes of memory, for the scenes in a folder."""
    import torch

    from fit3d_finetune.targets.files import StoredTarget, TargetFolder, read_target, write_targets
    from fit3d_finetune.targets.finding import find_scenes
    from fit3d_finetune.targets.scenes import view_refs
    from fit3d_finetune.training.order import Order
    from fit3d_finetune.training.recipe import PRESETS
    from fit3d_ns.commands.scenes import ScenesArguments, is_exported, make_plan
    from fit3d_ns.scheduling.plan import Status
    from fit3d_ns.scheduling.summary import table

    found: dict[str, float] = {}
    before = resident("VmRSS")

    def timed(part: str, run: Callable[[], T]) -> T:
        start = time.perf_counter()
        result = run()
        found[part] = time.perf_counter() - start
        return result

    find_scenes(next(runs.iterdir()))  # loads libraries
    scenes = timed("find", lambda: find_scenes(runs))

    def order() -> None:
        refs = view_refs(scenes, "train")
        recipe = dataclasses.replace(PRESETS["recommended"], block_scenes=50)
        drawn = Order(len(refs), recipe, 0, [ref.scene for ref in refs])
        for step in range(STEPS):
            drawn.of(step)

    timed("order", order)
    kept = work / "targets"
    kept.mkdir(parents=True)
    h, w = scenes[0].grid(0)
    views = [StoredTarget(torch.rand(h, w, scenes[0].feature_dim).half(), torch.rand(h, w).half(), None)
             for _ in range(VIEWS)]  # fmt: skip
    write_targets(kept / "first.safetensors", views)
    files = [kept / f"{index:064x}.safetensors" for index in range(count)]
    for file in files:
        os.link(kept / "first.safetensors", file)

    def targets() -> None:
        folder = TargetFolder(kept, 1 << 60)
        for file in files:
            assert folder.claim(file, file.stat().st_size)
            read_target(file, 1)

    timed("targets", targets)
    folder = Path(scenes[0].load().scene.images_root)
    captures = tuple(folder / f"scene_{index:06d}" for index in range(count))
    for capture in captures:
        capture.mkdir(parents=True, exist_ok=True)
    plan = make_plan(ScenesArguments(captures, runs, work / "work"))
    timed("plan", lambda: [is_exported(plan, name) for name in plan.captures])
    for name in plan.captures:
        Status(name, "done", figures={"psnr": 30.0, "gaussians": 1.0}).save(plan)
    timed("look", lambda: table([Status.load(plan, name) for name in plan.captures]))
    found["memory"] = resident("VmHWM") - before
    return found


def in_own_process(template: Path, count: int) -> dict[str, float]:
    with TemporaryDirectory(dir=template.parent) as temporary:
        runs, work = Path(temporary) / "runs", Path(temporary) / "work"
        link_scenes(template, runs, count)
        command = [sys.executable, "-m", "benchmarks.scale", "--measure", str(runs), str(work), str(count)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
        result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return result


def page(found: dict[int, dict[str, float]]) -> list[str]:
    """The lines of the table."""
    counts = list(found)
    lines = header("part", *(f"{count:,} scenes" for count in counts), "exponent", "each, of the most")
    for part, what in PARTS.items():
        seconds = [found[count][part] for count in counts]
        exponent = fitted_exponent([(float(count), taken) for count, taken in zip(counts, seconds, strict=True)])
        each = 1e3 * seconds[-1] / counts[-1]
        lines.append(row(what, *(f"{taken:.2f} s" for taken in seconds), f"{exponent:.2f}", f"{each:.2f} ms"))
    memory = [found[count]["memory"] for count in counts]
    each = (memory[-1] - memory[0]) / (counts[-1] - counts[0])
    shown = (f"{taken / 1e6:.0f} MB" for taken in memory)
    return [*lines, row("memory, all parts", *shown, "", f"{each / 1e3:.1f} kB")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every number of scenes and write the page."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--measure"]:
        print(json.dumps(measured(Path(given[1]), Path(given[2]), int(given[3]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path, help="a folder that fit3d-export or fit3d-lift wrote")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "scale.md")
    chosen = parser.parse_args(given)
    with TemporaryDirectory() as temporary:
        template = small_export(chosen.export, Path(temporary))
        found = {count: in_own_process(template, count) for count in sorted(chosen.counts)}
    lines = [
        "# Many scenes",
        "",
        f"Made by `python -m benchmarks.scale`, commit {commit()}: exports of {GAUSSIANS} Gaussians and {VIEWS} views,",
        "so that what is measured is done for every scene whatever its size. One run each; exponents of time = c N^p.",
        "",
        *page(found),
    ]
    with atomic_file(chosen.output) as written:
        written.write_text("\n".join(lines) + "\n")
    print(f"Results: {chosen.output}")


if __name__ == "__main__":
    main()
