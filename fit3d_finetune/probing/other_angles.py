"""k-nearest-neighbour segmentation with the memory taken from other angles only: is a thing known from another side?

In `nearest_neighbours` the memory is other scenes; here it is the other views of the test scene itself, of which every
patch may use only what is seen along rays that are at least `MIN_ANGLE` away from its own. Two rays to the same point
differ by the parallax there, so that no patch finds its point as it sees it: not in neighbouring frames, and not in a
camera that only turned on the spot, whose rays to a point are the same from everywhere in the picture. Pixels count
whose point another view does show from so far aside (by depth and cameras), so that the answer is always there to be
found, and every arm is measured on the same pixels. Nothing is trained and no training data is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fit3d_finetune.probing.correspondences import visible_points
from fit3d_finetune.probing.data.codings import VOID
from fit3d_finetune.probing.data.views import Array, ConsistencyView
from fit3d_finetune.probing.nearest_neighbours import (
    MEMORY,
    NEIGHBOURS,
    LabelledMaps,
    LeftOut,
    NeighbourScores,
    neighbour_scores,
    patch_of_pixels,
    sample_patches,
)
from fit3d_finetune.probing.results import Arm, NearestNeighbourResult
from fit3d_ns.common.console import logger, progress
from fit3d_ns.common.errors import InputError

MIN_ANGLE = 30.0
"""Degrees between the rays of a patch and of its neighbours; an edge of Probe3D's bins of angles."""


def segmentation_from_other_angles(
    views: Sequence[ConsistencyView],
    read: Callable[[int], LabelledMaps],
    arms: Sequence[Arm],
    num_classes: int,
    image_scenes: Sequence[int],
    counted: Sequence[int],
    k: int = NEIGHBOURS,
    max_patches: int = MEMORY,
    min_angle: float = MIN_ANGLE,
    seed: int = 0,
) -> tuple[dict[str, NearestNeighbourResult], Array]:
    """Segment every view by its patches' nearest neighbours in other views of its scene, and score every arm.

    Args:
        views: geometry of the test images.
        read: from an image's index to its features and labels.
        arms: which backbones count together.
        num_classes: number of classes.
        image_scenes: [images], index of each image's scene.
        counted: the classes that mIoU averages.
        k: neighbours per patch.
        max_patches: of a scene's memory, drawn at random from all of its labelled patches.
        min_angle: degrees between the rays of neighbours.
        seed: of that draw.

    Returns:
        results by arm, and the labelled pixels that counted, [images, classes] int64.

    Raises:
        InputError: no labelled pixel shows a point that another view of its scene shows from so far aside.
    """
    labelled = np.zeros((len(views), num_classes), np.int64)
    scores = NeighbourScores(arms, labelled.shape)
    with progress("images") as bar:
        task = bar.add_task("Nearest neighbours from other angles", total=len(views))
        for scene in range(max(image_scenes) + 1):
            members = [index for index, of in enumerate(image_scenes) if of == scene]
            rays: dict[int, Tensor] = {}
            truths: dict[int, Array] = {}
            for index in members:
                maps, labels = read(index)
                [grid] = {(map.shape[0], map.shape[1]) for map in maps.values()}
                rays[index] = torch.from_numpy(patch_rays(views[index], grid))
                seen = seen_from_elsewhere(views, index, members, grid, min_angle)
                truths[index] = np.where(seen[patch_of_pixels(labels.shape, grid)], labels, VOID).astype(np.uint8)
                labelled[index] = np.bincount(truths[index].ravel(), minlength=256)[:num_classes]
            if not labelled[members].any():
                bar.advance(task, len(members))
                continue
            memory = sample_patches((read(index) for index in members), num_classes, max_patches, seed)
            origins = torch.tensor(members)[memory.images]
            known = torch.stack([rays[int(i)][int(cell)] for i, cell in zip(origins, memory.cells, strict=True)])
            for index in members:
                left_out = _left_out(rays[index], known, origins == index, min_angle)
                found = neighbour_scores(read(index)[0], memory, arms, num_classes, k, left_out)
                scores.add(index, truths[index], found)
                bar.advance(task)
    if not labelled.any():
        raise InputError(
            f"no labelled pixel of the test data shows a point that another view of its scene shows from at least "
            f"{min_angle:g} degrees aside: leave nearest-neighbours-across out of --tasks, or give scenes seen from "
            f"more sides."
        )
    logger.info("nearest neighbours from other angles: %d labelled pixels count", labelled.sum())
    return scores.results(labelled, image_scenes, counted, k), labelled


def patch_rays(view: ConsistencyView, grid: tuple[int, int]) -> Array:
    """Directions [h * w, 3] of unit length, in the world's axes, from the camera to the middle of each patch."""
    directions = np.asarray(view.camera_to_world, np.float64)[:3, :3] @ _camera_rays(view, grid)
    rays: Array = (directions / np.linalg.norm(directions, axis=0)).T
    return rays


def seen_from_elsewhere(
    views: Sequence[ConsistencyView], index: int, members: Sequence[int], grid: tuple[int, int], min_angle: float
) -> Array:
    """Of each patch of a view: does another view show the point in its middle, from far enough aside? [h * w] bool.

    Args:
        views: geometry of all.
        index: of the view.
        members: indices of the views of its scene.
        grid: (h, w) patches.
        min_angle: degrees between the two rays.
    """
    view = views[index]
    H, W = view.depth.shape
    y, x = (((np.arange(n) + 0.5) * size / n).astype(np.int64) for n, size in zip(grid, (H, W), strict=True))
    z = view.depth[np.ix_(y, x)].ravel().astype(np.float64)
    pose = np.asarray(view.camera_to_world, np.float64)
    points = pose[:3, :3] @ (_camera_rays(view, grid) * z) + pose[:3, 3:]
    own = patch_rays(view, grid).T
    seen = np.zeros(z.shape, bool)
    asked = np.flatnonzero(np.isfinite(z) & (z > 0))
    for other in members:
        if other == index or not len(asked):
            continue
        camera = np.asarray(views[other].camera_to_world, np.float64)
        rays = points[:, asked] - camera[:3, 3:]
        aside = (rays * own[:, asked]).sum(axis=0) <= np.cos(np.radians(min_angle)) * np.linalg.norm(rays, axis=0)
        candidates = asked[aside]
        visible, _ = visible_points(np.linalg.inv(camera)[:3] @ _homogeneous(points[:, candidates]), views[other])
        seen[candidates[visible]] = True
        asked = asked[~seen[asked]]
    return seen


def _left_out(rays: Tensor, memory_rays: Tensor, same_image: Tensor, min_angle: float) -> LeftOut:
    """Patches of the same image [n] and those whose rays [n, 3] are less than `min_angle` degrees from an own one."""
    nearest = math.cos(math.radians(min_angle))
    return lambda rows: (rays[rows] @ memory_rays.T > nearest) | same_image


def _camera_rays(view: ConsistencyView, grid: tuple[int, int]) -> Array:
    """[3, h * w] with z = 1, in the camera's frame, through the middle of each patch."""
    H, W = view.depth.shape
    y, x = ((np.arange(n) + 0.5) * size / n for n, size in zip(grid, (H, W), strict=True))
    pixels = np.stack([*(axis.ravel() for axis in np.meshgrid(x, y)), np.ones(grid[0] * grid[1])])
    rays: Array = np.linalg.solve(np.asarray(view.K, np.float64), pixels)
    return rays


def _homogeneous(points: Array) -> Array:
    return np.concatenate([points, np.ones((1, points.shape[1]))])
