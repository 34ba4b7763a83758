"""On a CUDA GPU: the features' part of a training step as published against ours, and lifting.

Published (FiT3D): 64 channels rendered by gsplat's N-D path at full resolution, a 3x3 convolution to the backbone's
channels, L1 at every pixel against the upsampled map. Ours, the default of `fit3d-features`: the same channels pooled
to the patch grid, a linear decoder, cosine and L1 there. Neither gives the geometry a gradient. Same Gaussians, same
view, alternately; camera and map are on the GPU before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.lifting import DIM, SOLVE, Problem, solved
from benchmarks.rows import Aim, Row, Setting, Skip, milliseconds
from benchmarks.timing import Spread, alternately, compare, seconds
from fit3d_ns.features.decoder import FeatureDecoder
from fit3d_ns.features.loss import feature_loss
from fit3d_ns.features.patch_grid import pool_to_patch_grid, upsample_to_pixels
from fit3d_ns.features.space import fit_space
from fit3d_ns.scene.render import rasterize
from fit3d_ns.scene.splats import Splats
from fit3d_ns.scene.views import PinholeView

WARMUP = 5
"""Steps that do not count: gsplat is compiled or loaded, and the allocator has what it needs."""


@dataclass(frozen=True, eq=False)
class FeatureStep:
    """What forward and backward of the features' loss on one view start from, all on one device."""

    splats: Splats
    """No gradient reaches them."""
    view: PinholeView
    target: Tensor
    """[h, w, C], the backbone's map."""
    features: Tensor
    """[N, DIM], learns."""

    @staticmethod
    def of(problem: Problem) -> FeatureStep:
        """On the first training view, with random features."""
        means = problem.splats.means
        features = torch.randn(len(means), DIM, device=means.device, requires_grad=True)
        view, target = problem.train.cameras[0].to(means.device), problem.train.maps[0].to(means)
        return FeatureStep(problem.splats.detached(), view, target, features)

    def ours(self, decoder: FeatureDecoder) -> None:
        seen, weights = pool_to_patch_grid(self._render(), self.view.grid)
        self._learn(feature_loss(decoder(seen), self.target, weights, "cosine+l1")[0], decoder)

    def published(self, decoder: FeatureDecoder) -> None:
        seen = self._render()
        target = upsample_to_pixels(self.target, self.view.height, self.view.width)
        self._learn(feature_loss(decoder(seen), target, seen.new_ones(seen.shape[:2]), "l1")[0], decoder)

    def _render(self) -> Tensor:
        """[H, W, DIM]"""
        return rasterize(self.splats, self.features, self.view)[0][0]

    def _learn(self, loss: Tensor, decoder: FeatureDecoder) -> None:
        self.features.grad = None
        decoder.zero_grad()
        loss.backward()


def peak_memory(function: Callable[[], object]) -> float:
    """MB that torch has allocated at most on the GPU during a call, with what lay there before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 1e6


def in_memory(problem: Problem) -> Problem:
    """With maps that are not read from files each time: on a GPU that would be much of a solve."""
    train, test = (
        dataclasses.replace(posed, maps=[posed.maps[i] for i in range(len(posed.maps))])
        for posed in (problem.train, problem.test)
    )
    return Problem(problem.splats, train, test)


def rows_of(problem: Problem, device: str, repeats: int) -> list[Row]:
    """Step and solves on the device that `problem` is on."""
    problem = in_memory(problem)
    step = FeatureStep.of(problem)
    channels = step.target.shape[-1]
    linear = FeatureDecoder("linear", DIM, channels).to(device)
    convolution = FeatureDecoder("conv3x3", DIM, channels).to(device)
    steps = [lambda: step.ours(linear), lambda: step.published(convolution)]
    ours, published = compare(steps, 10 * repeats, device, WARMUP)
    solves = [lambda: solved(problem, DIM, SOLVE), lambda: solved(problem, None, SOLVE)]
    basis = Spread.of([seconds(lambda: fit_space(problem.train.maps, DIM)) for _ in range(repeats)])
    few, full = (Spread.of([each.seconds for each in runs]) for runs in alternately(solves, repeats))
    gpu = torch.cuda.get_device_name() if device == "cuda" else "no GPU"
    name = f"{len(problem.splats):,} Gaussians, {len(problem.train.views)} views, {gpu}"
    against = "as published, gsplat's N-D path"

    def solve(what: str, taken: Spread) -> Row:
        return Row(f"solve, {what}, {name}", "s", taken.median, ours_least=taken.least, aim=Aim("ours", "at most", 1.0))

    rows = [
        milliseconds(f"features' part of a step, {name}", ours, published, against),
        solve(f"{DIM} channels", few),
        Row(f"of it the maps' principal components, on the CPU, {name}", "s", basis.median, ours_least=basis.least),
        solve(f"all {channels} channels", full),
    ]
    if device == "cuda":
        peaks = [peak_memory(function) for function in (*steps, *solves)]
        rows += [
            Row("features' part of a step: peak GPU memory", "MB", peaks[0], peaks[1], against),
            Row(f"solve, {DIM} channels: peak GPU memory", "MB", peaks[2]),
            Row(f"solve, all {channels} channels: peak GPU memory", "MB", peaks[3]),
        ]
    return rows


def measure(setting: Setting) -> list[Row]:
    if setting.device != "cuda":
        raise Skip("--device is cpu, or torch.cuda.is_available() is False; no figure of a GPU is claimed")
    return rows_of(Problem.of(setting.exports[0], "cuda"), "cuda", setting.repeats)
