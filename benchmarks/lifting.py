"""Closed-form lifting against training features, on the same Gaussians and feature maps.

Geometry and the backbone's maps are given; what is timed is: the operator (weights of all views), the PCA, the solve.
Training is what `feature-lift train` does: Adam on the features, one view a step, rendered at full size, pooled and
decoded, until the held-out views are rendered as well as by the solve or the time is spent. The solves run in
between, so that both see the same machine. Quality is the cosine between rendered and true features of held-out
views; the normalised back-projection (LUDVIG, Occam's LGS) is the baseline without a solve.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from benchmarks.rows import Aim, Row, Setting
from benchmarks.timing import Spread, alternately, synchronize
from fit3d_finetune.targets.finding import find_scenes
from fit3d_finetune.targets.scenes import backbone_config
from fit3d_ns.features.loss import feature_loss
from fit3d_ns.features.patch_grid import pool_to_patch_grid
from fit3d_ns.features.space import FeatureSpace, fit_space
from fit3d_ns.lifting.maps import LiftedFeatures, held_out_cosine, lift_feature_maps
from fit3d_ns.lifting.scene import SPLITS, PosedMaps, posed_maps, scene_from_export
from fit3d_ns.lifting.solver import LiftOptions
from fit3d_ns.scene.render import rasterize
from fit3d_ns.scene.splats import Splats

LR, LR_FINAL = 0.02, 0.002
"""Of the features, as in `fit3d-features-fast`."""
DIM = 64
FASTER = 20
"""Times that the solve should be faster than training."""
BUDGET, QUICK_BUDGET = 25.0, 4.0
"""Training time, in times of the solve."""
STEPS_PER_CHECK = 10
"""Training steps between two looks at held-out views."""

SOLVE = LiftOptions()
BACK_PROJECTION = LiftOptions(max_iterations=0, robust_scale=None)


@dataclass(frozen=True, eq=False)
class Problem:
    """A scene whose features are to be found: Gaussians, views and the backbone's maps of them."""

    splats: Splats
    train: PosedMaps
    test: PosedMaps

    @staticmethod
    def of(export: Path, device: str = "cpu") -> Problem:
        scene, _ = scene_from_export(export)
        config = backbone_config(find_scenes(export), None)
        train, test = (posed_maps(scene, split, config, device) for split in SPLITS)
        return Problem(scene.splats.to(device), train, test)

    def cosine(self, lifted: LiftedFeatures) -> float:
        return held_out_cosine(self.splats, lifted, self.test.cameras, self.test.maps)


@dataclass(frozen=True)
class Reached:
    """How long one way to the features took, and how good they are on held-out views."""

    seconds: float
    cosine: float
    steps: int = 0


def solved(problem: Problem, dim: int | None, options: LiftOptions) -> Reached:
    device = problem.splats.means.device
    synchronize(device)
    start = time.perf_counter()
    lifted = lift_feature_maps(problem.splats, problem.train.cameras, problem.train.maps, dim, options)
    synchronize(device)
    return Reached(time.perf_counter() - start, problem.cosine(lifted))


def training(problem: Problem, space: FeatureSpace, budget_s: float) -> Iterator[Reached]:
    """Gradient steps from zero: after every few of them the time so far and the held-out cosine (not timed)."""
    splats, train = problem.splats, problem.train
    device = splats.means.device
    space = space.to(device)
    features = torch.zeros(len(splats), len(space.scales), device=device, requires_grad=True)
    optimizer = torch.optim.Adam([features], lr=LR, eps=1e-15)
    order = torch.Generator().manual_seed(0)
    seconds, steps = 0.0, 0
    while True:
        synchronize(device)
        start = time.perf_counter()
        for _ in range(STEPS_PER_CHECK):
            # The schedule is stretched over the whole budget: what is reached early is reached at a high rate.
            rate = LR * (LR_FINAL / LR) ** min(1.0, (seconds + time.perf_counter() - start) / budget_s)
            optimizer.param_groups[0]["lr"] = rate
            index = int(torch.randint(len(train.views), (), generator=order))
            loss = _loss(splats, space, train, index, features)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        synchronize(device)
        seconds += time.perf_counter() - start
        steps += STEPS_PER_CHECK
        lifted = LiftedFeatures(features.detach(), torch.zeros(0), torch.ones(0), space, 0.0, steps)
        yield Reached(seconds, problem.cosine(lifted), steps)


def _loss(splats: Splats, space: FeatureSpace, train: PosedMaps, index: int, features: torch.Tensor) -> torch.Tensor:
    camera, target = train.cameras[index], train.maps[index].to(features.device, torch.float32)
    rendered, _, _ = rasterize(splats, features, camera)
    pooled, weights = pool_to_patch_grid(rendered[0], camera.grid)
    decoder = space.decoder
    return feature_loss(pooled @ decoder["weight"].T + decoder["bias"], target, weights, "cosine+l1")[0]


def race(problem: Problem, repeats: int, budget: float) -> tuple[list[Reached], Reached, bool]:
    """Solves, spread over a training that ends where it reaches them or has taken `budget` times as long; whether it
    did reach them."""
    first = solved(problem, DIM, SOLVE)
    goal, expected_s = first.cosine, budget * first.seconds
    solves, best = list[Reached](), -1.0
    for reached in training(problem, fit_space(problem.train.maps, DIM), expected_s):
        best = max(best, reached.cosine)
        if len(solves) < repeats and reached.seconds >= len(solves) * expected_s / repeats:
            solves.append(solved(problem, DIM, SOLVE))
        # Against the solves that ran beside it, not the first one: the machine may have become slower or faster.
        if best >= goal or reached.seconds >= budget * median(solve.seconds for solve in solves):
            break
    solves += [solved(problem, DIM, SOLVE) for _ in range(repeats - len(solves))]
    return solves, Reached(reached.seconds, best, reached.steps), best >= goal


def rows_of(export: Path, setting: Setting) -> list[Row]:
    problem = Problem.of(export)
    solved(problem, 1, SOLVE)  # compiles the kernels
    budget = QUICK_BUDGET if setting.quick else BUDGET
    solves, trained, equalled = race(problem, setting.repeats, budget)
    full, baseline = alternately(
        [lambda: solved(problem, None, SOLVE), lambda: solved(problem, DIM, BACK_PROJECTION)],
        1 if setting.quick else 3,
        warmup=0,
    )
    name = f"{export.resolve().name} ({len(problem.splats):,} Gaussians, {len(problem.train.views)} views)"
    # A training that is stopped before the aim's bound says nothing about it.
    aim = Aim("ratio", "at most", 1 / FASTER) if equalled or budget > FASTER else None
    reached = f"training to the same held-out cosine, {trained.steps} steps"
    if not equalled:
        reached = f"training, {trained.steps} steps that do not reach it: at least so long"
    solve, whole, simple = (Spread.of([run.seconds for run in runs]) for runs in (solves, full, baseline))

    def seconds(what: str, ours: Spread, aim: Aim | None, reference: float | None = None, against: str = "") -> Row:
        return Row(f"{name}: {what}", "s", ours.median, reference, against, ours.least, None, aim)

    def cosine(what: str, ours: float, aim: Aim | None, reference: float, against: str) -> Row:
        return Row(f"{name}: {what}, held-out cosine", "", ours, reference, against, aim=aim)

    channels = len(problem.train.maps[0][0, 0])
    no_worse = Aim("ratio", "at least", 1.0)
    return [
        seconds(f"solve, {DIM} channels", solve, aim, trained.seconds, reached),
        seconds(f"solve, {DIM} channels, alone", solve, Aim("ours", "at most", 10.0)),
        seconds(f"solve, all {channels} channels", whole, Aim("ours", "at most", 30.0)),
        seconds(f"back-projection, {DIM} channels", simple, None, solve.median, "solve"),
        cosine(f"solve, {DIM} channels", solves[0].cosine, no_worse, trained.cosine, "training, best"),
        cosine(f"solve, {DIM} channels", solves[0].cosine, no_worse, baseline[0].cosine, "back-projection"),
        cosine(f"solve, all {channels} channels", full[0].cosine, None, solves[0].cosine, f"solve, {DIM} channels"),
    ]


def measure(setting: Setting) -> list[Row]:
    return [row for export in setting.exports for row in rows_of(export, setting)]
