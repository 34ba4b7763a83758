"""How time grows: exponents p of time = c size^p, fitted to the points that stand beside them.

1 is growth in proportion; what every call costs alike makes it less.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from benchmarks.lifting import Problem
from benchmarks.rasterization import COUNT, GEOMETRY, HEIGHT, WIDTH, colors, once, scene
from benchmarks.rows import Row, Setting
from benchmarks.scenes import TargetJob, write_scenes
from benchmarks.timing import alternately, fitted_exponent
from fit3d_ns.lifting.maps import lift_feature_maps
from fit3d_ns.rasterization import rasterization

S = TypeVar("S", int, float)


def grows(name: str, sizes: Sequence[S], run: Callable[[S], float], repeats: int) -> Row:
    """The exponent of the least time of each size; all sizes run in every round. `run` gives seconds."""
    columns = alternately([lambda size=size: run(size) for size in sizes], repeats)  # type: ignore[misc]
    points = tuple((float(size), min(column)) for size, column in zip(sizes, columns, strict=True))
    shown = ", ".join(f"{size:,.0f}: {1e3 * least:,.0f} ms" for size, least in points)
    return Row(name, "", fitted_exponent(points), note=shown, points=points)


def rendered(n: int = COUNT, channels: int = 3, scale: float = 1.0) -> float:
    """Seconds of forward and backward; geometry learns where colour is rendered."""
    width, height = round(WIDTH * scale), round(HEIGHT * scale)
    base = scene(n, width=width, height=height)
    # The same share of the picture is covered, whatever the number.
    base["scales"] = base["scales"] * (COUNT / n) ** 0.5
    inputs = {**base, **colors(n, channels)}
    learns = (*(GEOMETRY if channels == 3 else ()), "colors")
    return sum(once(rasterization, inputs, learns, width, height))


def lifted(problem: Problem, views: int) -> float:
    """Seconds of lifting 64 channels from the first views."""
    maps = [problem.train.maps[i] for i in range(views)]
    start = time.perf_counter()
    lift_feature_maps(problem.splats, problem.train.cameras[:views], maps, 64)
    return time.perf_counter() - start


def measure(setting: Setting) -> list[Row]:
    quick, repeats = setting.quick, 2 if setting.quick else 5
    counts = (10_000, 40_000) if quick else (10_000, 20_000, 40_000, 80_000, 160_000)
    scales = (1.0, 2.0) if quick else (0.5, 1.0, 2.0, 4.0)
    widths = (32, 128) if quick else (32, 64, 128, 256, 512)
    scenes = (4, 8) if quick else (4, 8, 16, 32)
    rows = [
        grows("RGB, with the number of Gaussians (same coverage)", counts, lambda n: rendered(n=n), repeats),
        grows(
            f"RGB, with pixels ({WIDTH}x{HEIGHT} and others)",
            [WIDTH * HEIGHT * scale**2 for scale in scales],
            lambda pixels: rendered(scale=(pixels / (WIDTH * HEIGHT)) ** 0.5),
            repeats,
        ),
        grows("features only, with channels", widths, lambda channels: rendered(channels=channels), repeats),
    ]
    problem = Problem.of(setting.exports[0])
    available = len(problem.train.views)
    views = sorted({available // part for part in ((4, 1) if quick else (8, 4, 2, 1)) if available // part})
    if len(views) > 1:
        rows.append(
            grows("lifting 64 channels, with views", views, lambda count: lifted(problem, count), min(repeats, 3))
        )
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_scenes(setting.exports[0], folder, scenes[-1])

        def prepared(count: int) -> float:
            start = time.perf_counter()
            TargetJob(folder, count).prepare()
            return time.perf_counter() - start

        rows.append(grows("finding exports and making targets, with scenes", scenes, prepared, 1 if quick else 2))
    return rows
