"""On a CUDA GPU: the features' part of a training step as published against ours, and lifting.

Published (FiT3D): 64 channels rendered by gsplat's N-D path at full resolution, a 3x3 convolution to the backbone's
channels, L1 at every pixel against the upsampled map, gradients also to the geometry. Ours, the default of
`fit3d-features`: the same channels pooled to the patch grid, a linear decoder, cosine and L1 there, no gradients to the
geometry. Same Gaussians, same views, alternately.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.lifting import DIM, SOLVE, Problem, solved
from benchmarks.rasterization import GEOMETRY
from benchmarks.rows import Aim, Row, Setting, Skip, milliseconds
from benchmarks.timing import Spread, compare
from fit3d_ns.decoder import DecoderKind, FeatureDecoder
from fit3d_ns.feature_loss import FeatureLossKind, feature_loss
from fit3d_ns.patch_grid import pool_to_patch_grid, upsample_to_pixels
from fit3d_ns.patch_operator import NEAR_PLANE
from fit3d_ns.rasterization import rasterization


def feature_step(
    problem: Problem, features: Tensor, decoder: FeatureDecoder, pixels: bool, couple_geometry: bool
) -> None:
    """Forward and backward of the features' loss on the first training view."""
    camera, maps = problem.train.cameras[0], problem.train.maps
    names = GEOMETRY
    shape = {name: getattr(problem.geometry, name).detach().requires_grad_(couple_geometry) for name in names}
    rendered, _, _ = rasterization(
        **shape,
        colors=features,
        viewmats=camera.world_to_camera.to(features)[None],
        Ks=camera.K.to(features)[None],
        width=camera.width,
        height=camera.height,
        near_plane=NEAR_PLANE,
        rasterize_mode=problem.geometry.rasterize_mode,
    )
    target = maps[0].to(features)
    kind: FeatureLossKind = "l1" if pixels else "cosine+l1"
    if pixels:
        target, seen = upsample_to_pixels(target, camera.height, camera.width), rendered[0]
        weights = seen.new_ones(seen.shape[:2])
    else:
        seen, weights = pool_to_patch_grid(rendered[0], camera.grid)
    loss, _ = feature_loss(decoder(seen), target, weights, kind)
    loss.backward()


def measure(setting: Setting) -> list[Row]:
    if setting.device != "cuda":
        raise Skip("--device is cpu, or torch.cuda.is_available() is False; no figure of a GPU is claimed")
    problem = Problem.of(setting.exports[0], "cuda")
    channels = problem.train.maps[0].shape[-1]
    features = torch.randn(len(problem.geometry), DIM, device="cuda", requires_grad=True)

    def decoder(kind: DecoderKind) -> FeatureDecoder:
        return FeatureDecoder(kind, DIM, channels).to("cuda")

    linear, convolution = decoder("linear"), decoder("conv3x3")
    ours, published = compare(
        [
            lambda: feature_step(problem, features, linear, pixels=False, couple_geometry=False),
            lambda: feature_step(problem, features, convolution, pixels=True, couple_geometry=True),
        ],
        10 * setting.repeats,
        "cuda",
        warmup=5,
    )
    repeats = setting.repeats
    few = Spread.of([solved(problem, DIM, SOLVE).seconds for _ in range(1 + repeats)][1:])
    full = Spread.of([solved(problem, None, SOLVE).seconds for _ in range(repeats)])
    name = f"{len(problem.geometry):,} Gaussians, {len(problem.train.views)} views"
    return [
        milliseconds(f"features' part of a step, {name}", ours, published, "as published, gsplat's N-D path"),
        Row(f"solve, {DIM} channels, {name}", "s", few.median, ours_least=few.least, aim=Aim("ours", "at most", 1.0)),
        Row(f"solve, all {channels} channels, {name}", "s", full.median, ours_least=full.least),
    ]
