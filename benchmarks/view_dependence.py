"""What the position term gives: lifted features on views that nothing was trained on, scene by scene.

    python -m benchmarks.view_dependence bench-rooms/runs/* [--output view_dependence.md]

Every scene's Gaussians, training views and feature maps are those of its export; what is compared are ways to lift the
same maps into the same Gaussians, and features that are trained by gradient steps for fifteen times as long as the
solve takes (the best that they reach on the held-out views). Cosine: mean over all patches of the held-out views,
between what is rendered (with the position term, if there is one) and the backbone's features. Speckle: total variation
of the feature coordinates, rendered at the size that the backbone sees; mean distance between neighbouring pixels of
the held-out views.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch

from benchmarks.lifting import BACK_PROJECTION, DIM, SOLVE, Problem, training
from benchmarks.markdown import header, row
from benchmarks.report import commit
from fit3d_ns.common.atomic import atomic_file
from fit3d_ns.features.position import ViewDependence
from fit3d_ns.features.space import fit_space
from fit3d_ns.lifting.maps import LiftedFeatures, lift_feature_maps
from fit3d_ns.lifting.solver import LiftOptions
from fit3d_ns.scene.render import rasterize

WAYS: dict[str, tuple[LiftOptions, ViewDependence]] = {
    "back-projection": (BACK_PROJECTION, "none"),
    "solve": (SOLVE, "none"),
    "with position term": (SOLVE, "position"),
}
BEFORE, AFTER = "solve", "with position term"
LONGER = 15
"""Times that features are trained for as long as the solve takes."""
VIEWS = 4
"""Held-out views that speckle is measured on."""


@dataclass(frozen=True)
class Measured:
    """One way to lift one scene."""

    cosine: float
    speckle: float
    seconds: float


def measured(problem: Problem, options: LiftOptions, dependence: ViewDependence) -> Measured:
    """Lift, and look at it."""
    start = time.perf_counter()
    train = problem.train
    lifted = lift_feature_maps(problem.splats, train.cameras, train.maps, DIM, options, dependence)
    seconds = time.perf_counter() - start
    return Measured(problem.cosine(lifted), speckle(problem, lifted), seconds)


@torch.no_grad()
def speckle(problem: Problem, lifted: LiftedFeatures) -> float:
    """Total variation of the rendered coordinates per pixel, mean over some held-out views."""
    coordinates = lifted.space.coordinates(lifted.features)
    found = []
    for view in problem.test.cameras[:VIEWS]:
        image = rasterize(problem.splats, coordinates, view)[0][0]
        found.append(float(sum(image.diff(dim=axis).norm(dim=-1).mean() for axis in (0, 1))))
    return mean(found)


def trained_cosine(problem: Problem, seconds: float) -> float:
    """The best held-out cosine of features that are trained for so long."""
    best = -1.0
    for reached in training(problem, fit_space(problem.train.maps, DIM), seconds):
        best = max(best, reached.cosine)
        if reached.seconds >= seconds:
            break
    return best


@dataclass(frozen=True)
class Compared:
    """All ways for one scene."""

    ways: dict[str, Measured]
    trained: float
    """Held-out cosine of trained features."""


def compared(export: Path) -> Compared:
    """Lift one export in all ways, and train its features."""
    problem = Problem.of(export)
    train = problem.train
    lift_feature_maps(problem.splats, train.cameras, train.maps, 1)  # compiles the kernels
    ways = {name: measured(problem, *way) for name, way in WAYS.items()}
    return Compared(ways, trained_cosine(problem, LONGER * ways[AFTER].seconds))


def page(scenes: dict[str, Compared]) -> list[str]:
    """The lines of the table."""
    figures = ("cosine", "speckle", "s")
    titles = [f"{name}: {figure}" for figure in figures for name in WAYS]
    lines = header("scene", "trained: cosine", *titles, "gain", "speckle left")
    for scene, found in scenes.items():
        ways = found.ways
        each = [ways[name] for name in WAYS]
        lines.append(
            row(
                scene,
                f"{found.trained:.4f}",
                *(f"{way.cosine:.4f}" for way in each),
                *(f"{way.speckle:.2f}" for way in each),
                *(f"{way.seconds:.1f}" for way in each),
                f"{ways[AFTER].cosine - ways[BEFORE].cosine:+.4f}",
                f"× {ways[AFTER].speckle / ways[BEFORE].speckle:.2f}",
            )
        )
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
        f"Made by `python -m benchmarks.view_dependence`, commit {commit()}; {DIM} channels, held-out views.",
        "Speckle: total variation of what is rendered, per pixel. Seconds: principal components, blending weights",
        "and solve, once; other work may have run beside it. The last two columns: with the position term against",
        f"the solve without. Trained: Adam for {LONGER} times as long as the solve, the best on held-out views.",
        "",
        *page({export.resolve().name: compared(export) for export in given.exports}),
    ]
    with atomic_file(given.output) as temporary:
        temporary.write_text("\n".join(lines) + "\n")
    print(f"Results: {given.output}")


if __name__ == "__main__":
    main()
