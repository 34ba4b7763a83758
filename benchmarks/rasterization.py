"""The CPU rasteriser against its vectorised torch twin and against one matrix product of the same work.

    python -m benchmarks.rasterization [--json out.json]

448x336 pixels, 20,000 Gaussians, about 60 contributing to a pixel. Both sides run alternately in one process;
medians and minima after a warm-up. The floor is the time of one GEMM with 2 x (contributing pairs) x D
operations, the least arithmetic that blending D channels takes (gradients of features: the same again).
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from fit3d_ns.rasterization import rasterization
from fit3d_ns.rasterization.threads import thread_count
from fit3d_ns.rasterization.torch_reference import rasterization_reference

WIDTH, HEIGHT, COUNT = 448, 336, 20_000
GEOMETRY = ("means", "quats", "scales", "opacities")


@dataclass
class Row:
    """Milliseconds; `twin` and `floor` are None where they were not measured."""

    name: str
    median_ms: float
    min_ms: float
    twin_median_ms: float | None = None
    twin_min_ms: float | None = None
    floor_ms: float | None = None

    @property
    def ratio(self) -> float | None:
        """How many times faster than the twin, by medians of the interleaved runs."""
        return None if self.twin_median_ms is None else self.twin_median_ms / self.median_ms

    @property
    def ratio_of_minima(self) -> float | None:
        return None if self.twin_min_ms is None else self.twin_min_ms / self.min_ms


def scene(n: int = COUNT, seed: int = 0) -> dict[str, Tensor]:
    """A box of Gaussians that fills the image."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    K = torch.tensor([[400.0, 0, WIDTH / 2], [0, 400.0, HEIGHT / 2], [0, 0, 1]])
    return {
        "means": (uniform(n, 3) - 0.5) * torch.tensor([6.0, 4.5, 4.0]) + torch.tensor([0.0, 0.0, 5.0]),
        "quats": torch.randn(n, 4, generator=generator),
        "scales": 0.015 + 0.075 * uniform(n, 3),
        "opacities": 0.02 + 0.3 * uniform(n),
        "viewmats": torch.eye(4)[None],
        "Ks": K[None],
    }


def contributing_pairs(inputs: dict[str, Tensor]) -> int:
    """Pixel-Gaussian pairs with a weight: the useful work of blending."""
    from fit3d_ns.rasterization import cpu
    from fit3d_ns.rasterization.threads import kernel_launch

    with torch.no_grad(), kernel_launch():
        means2d, depths, ldl, _, _, radii = cpu.Project.apply(
            *(inputs[k] for k in ("means", "quats", "scales", "viewmats", "Ks")), WIDTH, HEIGHT, 0.3, 0.01, 1e10, 0.0
        )
        m, e, z, r = (t[0].numpy() for t in (means2d, ldl, depths, radii))
        tiles = cpu.bin_gaussians(m, e, inputs["opacities"].numpy(), z, r, WIDTH, HEIGHT)
        return int(cpu.kernels().wide.count_pairs(tiles.offsets, tiles.lists, tiles.packed, (WIDTH, HEIGHT)))


def gemm_ms(operations: float, channels: int, repeats: int) -> float:
    """One GEMM [m, 256] x [256, D] on all of torch's threads, its best time scaled to exactly `operations`."""
    m = max(int(operations / (2 * 256 * channels)), 1)
    a, b = torch.rand(m, 256), torch.rand(256, channels)
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        a @ b
        times.append((time.perf_counter() - start) * 1e3)
    return min(times[1:]) * operations / (2.0 * m * 256 * channels)


Render = Callable[..., tuple[Tensor, Tensor, dict]]


def once(render: Render, inputs: dict[str, Tensor], learns: tuple[str, ...]) -> tuple[float, float]:
    """Forward and backward milliseconds."""
    leaves = {k: v.detach().requires_grad_(k in learns) for k, v in inputs.items() if k != "sh_degree"}
    options = {k: v for k, v in inputs.items() if k == "sh_degree"}
    start = time.perf_counter()
    image, _, _ = render(**leaves, **options, width=WIDTH, height=HEIGHT)
    middle = time.perf_counter()
    gradient = torch.ones_like(image)
    begin = time.perf_counter()
    image.backward(gradient)
    return (middle - start) * 1e3, (time.perf_counter() - begin) * 1e3


def measure(repeats: int, twin_limit: int) -> tuple[list[Row], int]:
    base = scene()
    n = len(base["means"])
    generator = torch.Generator().manual_seed(1)
    pairs = contributing_pairs(base)
    cases: list[tuple[str, int, dict, tuple[str, ...]]] = [
        ("RGB (SH 3)", 3, {"colors": torch.randn(n, 16, 3, generator=generator) * 0.3, "sh_degree": 3}, GEOMETRY),
        ("RGB+64", 67, {"colors": torch.rand(n, 67, generator=generator)}, GEOMETRY),
        ("64, features only", 64, {"colors": torch.rand(n, 64, generator=generator)}, ()),
        ("384", 384, {"colors": torch.rand(n, 384, generator=generator)}, GEOMETRY),
        ("384, features only", 384, {"colors": torch.rand(n, 384, generator=generator)}, ()),
    ]
    rows = []
    for name, channels, extra, geometry in cases:
        inputs, learns = {**base, **extra}, (*geometry, "colors")
        ours: list[tuple[float, float]] = []
        twin: list[tuple[float, float]] = []
        once(rasterization, inputs, learns)
        with_twin = channels <= twin_limit
        if with_twin:
            once(rasterization_reference, inputs, learns)
        for _ in range(repeats):
            ours.append(once(rasterization, inputs, learns))
            if with_twin:
                twin.append(once(rasterization_reference, inputs, learns))
        floor = gemm_ms(2.0 * pairs * channels, channels, repeats) if channels > 4 else None
        for i, direction in enumerate(("forward", "backward")):
            mine, theirs = [t[i] for t in ours], [t[i] for t in twin]
            # Backward needs one product for the features' gradient and one more for the geometry's.
            work = 1 + (i == 1 and bool(geometry))
            rows.append(
                Row(
                    f"{name} {direction}",
                    median(mine),
                    min(mine),
                    median(theirs) if theirs else None,
                    min(theirs) if theirs else None,
                    floor * work if floor is not None else None,
                )
            )
    return rows, pairs


def processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def show(value: float | None, suffix: str = "") -> str:
    return "" if value is None else f"{value:.1f}{suffix}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--twin-limit", type=int, default=70, help="widest case for which the torch twin runs too")
    arguments = parser.parse_args()
    rows, pairs = measure(arguments.repeats, arguments.twin_limit)
    title = (
        f"{WIDTH}x{HEIGHT}, {COUNT} Gaussians, {pairs / (WIDTH * HEIGHT):.0f} contributing per pixel; "
        f"{processor()}, {thread_count()} threads"
    )
    table = Table("", "ms (min)", "torch twin (min)", "faster (minima)", "GEMM floor", "x floor", title=title)
    for row in rows:
        twin = "" if row.twin_median_ms is None else f"{row.twin_median_ms:.0f} ({row.twin_min_ms:.0f})"
        faster = "" if row.ratio is None else f"{row.ratio:.1f}x ({row.ratio_of_minima:.1f}x)"
        over = None if row.floor_ms is None else row.min_ms / row.floor_ms
        table.add_row(
            row.name, f"{row.median_ms:.1f} ({row.min_ms:.1f})", twin, faster, show(row.floor_ms), show(over, "x")
        )
    Console(width=130).print(table)
    if arguments.json:
        report = {
            "date": time.strftime("%Y-%m-%d"),
            "processor": processor(),
            "threads": thread_count(),
            "width": WIDTH,
            "height": HEIGHT,
            "gaussians": COUNT,
            "pairs": pairs,
            "rows": [{**asdict(row), "ratio": row.ratio, "ratio_of_minima": row.ratio_of_minima} for row in rows],
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
