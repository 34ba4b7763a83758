"""Closed-form lifting against training features, on the same Gaussians and feature maps.

    python -m benchmarks.lifting --export runs/room [--json out.json]

Geometry and the backbone's maps are given; what is timed is: the operator (weights of all views), the PCA, the solve.
Training is what `feature-lift train` does: Adam on the features, one view a step, rendered at full size, pooled and
decoded. Quality is the cosine between rendered and true features of held-out views; the normalised back-projection
(LUDVIG, Occam's LGS) is the baseline without a solve.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.rasterization import processor
from fit3d_finetune.scenes import backbone_config, find_scenes
from fit3d_ns.feature_lift import FeatureSpace, LiftedFeatures, fit_space, lift_feature_maps
from fit3d_ns.feature_loss import feature_loss
from fit3d_ns.lift_scene import PosedMaps, held_out_cosine, posed_maps, scene_from_export
from fit3d_ns.lifting import LiftOptions
from fit3d_ns.patch_grid import pool_to_patch_grid
from fit3d_ns.patch_operator import NEAR_PLANE, Geometry
from fit3d_ns.rasterization import rasterization
from fit3d_ns.rasterization.threads import thread_count

LR, LR_FINAL = 0.02, 0.002
"""Of the features, as in `fit3d-features-fast`."""


@dataclass
class Row:
    """One way to the features."""

    name: str
    seconds: float
    held_out_cosine: float


def solved(geometry: Geometry, train: PosedMaps, test: PosedMaps, dim: int | None, iterations: int) -> Row:
    """The solver with `iterations` at most; with none of them the back-projection alone."""
    options = LiftOptions(max_iterations=iterations)
    if iterations == 0:
        options = LiftOptions(max_iterations=0, robust_scale=None)
    start = time.perf_counter()
    space = fit_space(train.maps, dim)
    lifted = lift_feature_maps(geometry, train.cameras, train.maps, space, options)
    seconds = time.perf_counter() - start
    channels = len(space.scales)
    name = f"back-projection, {channels} channels" if iterations == 0 else f"solve, {channels} channels"
    return Row(name, seconds, held_out_cosine(geometry, lifted, test.cameras, test.maps))


def trained(
    geometry: Geometry, train: PosedMaps, test: PosedMaps, space: FeatureSpace, goal: float, budget_s: float, every: int
) -> Row:
    """Gradient steps from zero until the held-out cosine reaches `goal` or the time is spent; judging is not timed."""
    steps_per_check, seconds, step, best = every, 0.0, 0, -1.0
    features = torch.zeros(len(geometry), len(space.scales), requires_grad=True)
    optimizer = torch.optim.Adam([features], lr=LR, eps=1e-15)
    decoder = space.decoder
    order = torch.Generator().manual_seed(0)
    while seconds < budget_s and best < goal:
        start = time.perf_counter()
        for _ in range(steps_per_check):
            # The schedule is stretched over the whole budget: what is reached early is reached at a high rate.
            rate = LR * (LR_FINAL / LR) ** min(1.0, (seconds + time.perf_counter() - start) / budget_s)
            optimizer.param_groups[0]["lr"] = rate
            index = int(torch.randint(len(train.views), (), generator=order))
            camera, target = train.cameras[index], train.maps[index].float()
            rendered, _, _ = rasterization(
                geometry.means,
                geometry.quats,
                geometry.scales,
                geometry.opacities,
                features,
                camera.world_to_camera[None],
                camera.K[None],
                camera.width,
                camera.height,
                near_plane=NEAR_PLANE,
                rasterize_mode=geometry.rasterize_mode,
            )
            pooled, weights = pool_to_patch_grid(rendered[0], camera.grid)
            loss, _ = feature_loss(pooled @ decoder["weight"].T + decoder["bias"], target, weights, "cosine+l1")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        seconds += time.perf_counter() - start
        step += steps_per_check
        lifted = LiftedFeatures(features.detach(), torch.zeros(0), torch.ones(0), space, 0.0, step)
        best = max(best, held_out_cosine(geometry, lifted, test.cameras, test.maps))
    reached = "reaches that" if best >= goal else "does not reach that"
    return Row(f"training, {len(space.scales)} channels, {step} steps ({reached})", seconds, best)


def main() -> None:
    """Measure one export and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", type=Path, required=True, help="an export whose Gaussians are lifted into")
    parser.add_argument("--repeats", type=int, default=3, help="timed solves; the median counts")
    parser.add_argument("--budget", type=float, default=25.0, help="training time, in times of the solve")
    parser.add_argument("--every", type=int, default=10, help="training steps between two looks at held-out views")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    scene, _ = scene_from_export(arguments.export)
    config = backbone_config(find_scenes(arguments.export), None)
    train, test = (posed_maps(scene, split, config) for split in ("train", "eval"))
    geometry, _ = scene.geometry()
    solved(geometry, train, test, 64, 1)  # compiles the kernels

    rows = []
    for dim, iterations in ((64, 0), (64, 50), (None, 50)):
        runs = [solved(geometry, train, test, dim, iterations) for _ in range(arguments.repeats)]
        rows.append(sorted(runs, key=lambda row: row.seconds)[arguments.repeats // 2])
    space, solve = fit_space(train.maps, 64), rows[1]
    budget = arguments.budget * solve.seconds
    rows.append(trained(geometry, train, test, space, solve.held_out_cosine, budget, arguments.every))

    table = Table(title=f"{len(geometry)} Gaussians, {len(train.views)} views, {thread_count()} threads, {processor()}")
    for column in ("", "seconds", "times the solve", "held-out cosine"):
        table.add_column(column)
    for row in rows:
        ratio = row.seconds / solve.seconds
        table.add_row(row.name, f"{row.seconds:.1f}", f"{ratio:.1f}", f"{row.held_out_cosine:.4f}")
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": [asdict(row) for row in rows], "title": table.title}, indent=1))


if __name__ == "__main__":
    main()
