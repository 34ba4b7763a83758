"""Views between the photographed ones, whose images are rendered from the scene itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.spatial.transform import Rotation, Slerp

from fit3d_ns.scene.description import ViewInfo
from fit3d_ns.scene.views import PinholeView

# Between cameras that look further apart than this lies nothing that either of them saw.
MAX_ANGLE = 60.0


def views_between(views: Sequence[ViewInfo], count: int) -> list[PinholeView]:
    """`count` cameras on the way from each training view to its neighbour, evenly spaced, ends left out.

    The neighbour is the nearest camera that looks at most 60 degrees elsewhere; views without one add nothing,
    and two views that are each other's neighbours add theirs once.
    Positions are interpolated linearly, rotations along the shortest arc.
    """
    train = [view for view in views if view.split == "train"]
    if count < 1 or len(train) < 2:
        return []
    poses = np.linalg.inv(np.stack([view.world_to_camera for view in train]))
    rotations, centres = Rotation.from_matrix(poses[:, :3, :3]), poses[:, :3, 3]
    novel: list[PinholeView] = []
    joined: set[frozenset[int]] = set()
    for i, view in enumerate(train):
        angles = np.degrees((rotations[i].inv() * rotations).magnitude())
        distances = np.linalg.norm(centres - centres[i], axis=1)
        distances[(angles > MAX_ANGLE) | (np.arange(len(train)) == i)] = np.inf
        j = int(distances.argmin())
        if not np.isfinite(distances[j]) or frozenset((i, j)) in joined:
            continue
        joined.add(frozenset((i, j)))
        times = np.arange(1, count + 1) / (count + 1)
        turned = Slerp([0, 1], rotations[[i, j]])(times).as_matrix()
        for time, rotation in zip(times, turned, strict=True):
            pose = np.eye(4)
            pose[:3, :3], pose[:3, 3] = rotation, (1 - time) * centres[i] + time * centres[j]
            novel.append(replace(view.pinhole(), world_to_camera=torch.from_numpy(np.linalg.inv(pose))))
    return novel
