"""What the Gaussians know of the shape of a scene, as a target: log depth and surface normals on the patch grid.

Depth is canonical: divided by the focal length in image heights, as a picture with a longer lens looks like one from
nearer by, and by the typical depth of the scene, as the unit of a capture that COLMAP posed is arbitrary.

Normals are those of planes fitted around the patches, as the depth of Gaussians is noisy from pixel to pixel.

Bad geometry must not teach. A patch counts by its alpha and by how many of the other views agree with its depth: one
that sees a surface where the patch lies agrees, one that looks through it at something further away contradicts it,
and one from which something else hides it says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fit3d_finetune.targets.rule import TargetRule
from fit3d_ns.features.patch_grid import pool_to_patch_grid
from fit3d_ns.scene.normals import backproject, normals_from_depth, plane_normals
from fit3d_ns.scene.render import render_depth
from fit3d_ns.scene.splats import Splats
from fit3d_ns.scene.views import PinholeView

GEOMETRY_VERSION = 2
"""Of everything below that decides the targets; cached ones of another are not read."""
CHANNELS = 5
"""Log canonical depth, the normal's x, y and z, and how much the normal counts beside the patch's weight."""
AGREEMENT = 0.05
"""Depths agree where they differ by at most this share."""
PROBES = 3
"""Along each side of a patch so many points are looked for in other views."""
MAX_WITNESSES = 32
"""So many other views, evenly spaced, are asked whether they agree."""


@dataclass(frozen=True, eq=False)
class SceneDepth:
    """The depth maps of the views of one scene."""

    views: list[PinholeView]
    depths: list[Tensor]
    """[H, W] of each view, in the Gaussians' unit; 0 where their alpha is too low to tell."""
    log_unit: float
    """Median of the log canonical depth over the scene."""


def log_focal(view: PinholeView) -> float:
    """Log of the focal length in image heights."""
    return float((view.K[1, 1] / view.height).log())


@torch.no_grad()
def render_scene_depth(splats: Splats, views: Sequence[PinholeView]) -> SceneDepth:
    """Render the depth of every view of a scene."""
    depths = [render_depth(splats, view).cpu() for view in views]
    logs = [depth[depth > 0].log()[::97] - log_focal(view) for view, depth in zip(views, depths, strict=True)]
    known = torch.cat(logs)
    return SceneDepth(list(views), depths, float(known.median()) if known.numel() else 0.0)


@torch.no_grad()
def geometry_target(scene: SceneDepth, view: int, mask: Tensor | None, rule: TargetRule) -> tuple[Tensor, Tensor]:
    """Log canonical depth and normals of a view, and how much each patch counts.

    Args:
        scene: of all views.
        view: which of them.
        mask: [H, W] of the image, True where pixels count; None: all.
        rule: which patches of the view's grid count.

    Returns:
        [h, w, 5] (zero where nothing is known; normals of unit length; and in 0..1 how flat the surface is around it),
        and weights [h, w] in 0..1.
    """
    pinhole, depth = scene.views[view], scene.depths[view]
    known = depth > 0
    # Pixels on no surface, between a near and a far one, are of neither's depth.
    _, on_surface = normals_from_depth(depth, pinhole.K)
    counts = on_surface if mask is None else on_surface & mask
    log_depth = torch.where(known, depth, 1.0).log() - log_focal(pinhole) - scene.log_unit
    pooled, share = pool_to_patch_grid(log_depth[..., None], pinhole.grid, counts[..., None])
    normals, flat = plane_normals(torch.where(counts, depth, 0.0), pinhole.K, pinhole.grid)
    values = torch.cat([pooled, normals, flat[..., None]], dim=-1)
    weights = rule.weights(share) * agreement(scene, view)
    return torch.where(share[..., None] > 0, values, 0.0), weights


@torch.no_grad()
def agreement(scene: SceneDepth, view: int) -> Tensor:
    """How far other views confirm the depth of a view: [h, w] in 0..1, by patch.

    Of the views that say something of a point, the share that sees a surface there; one for patches of which none does.
    """
    pinhole, depth = scene.views[view], scene.depths[view]
    h, w = pinhole.grid
    rows, columns = (_spread(PROBES * cells, pixels) for cells, pixels in ((h, pinhole.height), (w, pinhole.width)))
    points, known = backproject(depth, pinhole.K)
    points, known = points[rows][:, columns].reshape(-1, 3), known[rows][:, columns].flatten()
    to_world = torch.linalg.inv(pinhole.world_to_camera.double())
    world = points.double() @ to_world[:3, :3].T + to_world[:3, 3]
    confirmed, contradicted = torch.zeros(len(world)), torch.zeros(len(world))
    for other in _witnesses(len(scene.views), view):
        seen, distance = _look(scene.views[other], scene.depths[other], world)
        confirmed += known & (seen > 0) & ((distance - seen).abs() <= AGREEMENT * seen)
        contradicted += known & (seen > 0) & (distance < (1 - AGREEMENT) * seen)

    def by_patch(values: Tensor) -> Tensor:
        return values.reshape(h, PROBES, w, PROBES).sum(dim=(1, 3))

    yes, no = by_patch(confirmed), by_patch(contradicted)
    return torch.where(yes + no > 0, yes / (yes + no).clamp_min(1), 1.0)


def _look(view: PinholeView, depth: Tensor, world: Tensor) -> tuple[Tensor, Tensor]:
    """The depth [P] that a view sees where points [P, 3] fall in its image, 0 outside; and their own depth in it."""
    pose = view.world_to_camera.double()
    x, y, z = (world @ pose[:3, :3].T + pose[:3, 3]).unbind(-1)
    K = view.K.double()
    ahead = z > 0
    safe = torch.where(ahead, z, 1.0)
    u, v = K[0, 0] * x / safe + K[0, 2], K[1, 1] * y / safe + K[1, 2]
    inside = ahead & (u >= 0) & (u < view.width) & (v >= 0) & (v < view.height)
    column, row = (torch.where(inside, at, 0.0).long() for at in (u, v))
    return torch.where(inside, depth[row, column].double(), 0.0), z


def _witnesses(count: int, view: int) -> list[int]:
    """Other views than this, at most `MAX_WITNESSES`, evenly spaced."""
    others = [other for other in range(count) if other != view]
    if len(others) <= MAX_WITNESSES:
        return others
    return [others[i * len(others) // MAX_WITNESSES] for i in range(MAX_WITNESSES)]


def _spread(count: int, pixels: int) -> Tensor:
    """Indices of the pixels under the centres of `count` equal cells."""
    return ((torch.arange(count) + 0.5) * pixels / count).long()
