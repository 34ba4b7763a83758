"""What the position term gives: held-out cosine of lifted features, scene by scene.

    python -m benchmarks.view_dependence bench-rooms/runs/* [--output view_dependence.md]

Every scene's Gaussians, training views and feature maps are those of its export; what is compared are ways to lift the
same maps into the same Gaussians. The figure is the mean cosine, over all patches of the views that nothing was trained
on, between what is rendered (with the position term, if there is one) and the backbone's features.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from benchmarks.lifting import BACK_PROJECTION, DIM, SOLVE, Problem, Reached, solved
from benchmarks.markdown import header, row
from benchmarks.report import commit
from fit3d_ns.common.atomic import atomic_file

WAYS = {
    "back-projection": lambda problem: solved(problem, DIM, BACK_PROJECTION),
    "solve": lambda problem: solved(problem, DIM, SOLVE),
    "solve with position term": lambda problem: solved(problem, DIM, SOLVE, "position"),
}
LATEST = "solve with position term"


def compared(export: Path) -> dict[str, Reached]:
    """All ways for one export."""
    problem = Problem.of(export)
    solved(problem, 1, SOLVE)  # compiles the kernels
    return {name: way(problem) for name, way in WAYS.items()}


def page(scenes: dict[str, dict[str, Reached]]) -> list[str]:
    """The lines of the results page."""
    lines = header("scene", *(f"{name}: cosine" for name in WAYS), "gain", *(f"{name}: s" for name in WAYS))
    for scene, ways in scenes.items():
        gain = ways[LATEST].cosine - ways["solve"].cosine
        cosines = (f"{ways[name].cosine:.4f}" for name in WAYS)
        lines.append(row(scene, *cosines, f"{gain:+.4f}", *(f"{ways[name].seconds:.1f}" for name in WAYS)))
    means = (f"{mean(ways[name].cosine for ways in scenes.values()):.4f}" for name in WAYS)
    gains = [ways[LATEST].cosine - ways["solve"].cosine for ways in scenes.values()]
    lines.append(row("mean", *means, f"{mean(gains):+.4f}", *("" for _ in WAYS)))
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Lift every export in all ways and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exports", type=Path, nargs="+", help="folders that fit3d-export or fit3d-lift wrote")
    results = Path(__file__).parent / "results"
    parser.add_argument("--output", type=Path, default=results / "view_dependence.md")
    given = parser.parse_args(arguments)
    lines = [
        "# The position term",
        "",
        f"Made by `python -m benchmarks.view_dependence`, commit {commit()}; {DIM} channels. Cosine: held-out views.",
        "Seconds: principal components, blending weights and solve, once; other work may have run beside it.",
        "",
        *page({export.resolve().name: compared(export) for export in given.exports}),
    ]
    with atomic_file(given.output) as temporary:
        temporary.write_text("\n".join(lines) + "\n")
    print(f"Results: {given.output}")


if __name__ == "__main__":
    main()
