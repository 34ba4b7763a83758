"""What is judged: a scene with features, its training photos and their feature maps, from an export or a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fit3d_ns.common.device import choose_device
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.config import NAMED_WEIGHTS
from fit3d_ns.features.decoder import FeatureDecoder
from fit3d_ns.lifting.scene import config_of, posed_maps, scene_of_gaussians
from fit3d_ns.scene.gaussians import FeatureGaussians
from fit3d_ns.scene.splats import Splats
from fit3d_ns.scene.views import PinholeView


@dataclass(frozen=True, eq=False)
class JudgedScene:
    """A trained scene and what it was trained on; V training views."""

    name: str
    splats: Splats
    features: Tensor
    """[N, D], what the Gaussians carry, on their device."""
    decoder: FeatureDecoder
    position: Tensor | None
    """[rows, columns, C], the position term that a view adds to its decoded features; None: there is none."""
    views: Sequence[PinholeView]
    """The training cameras, with the patch grids of `maps`."""
    maps: Sequence[Tensor]
    """[h, w, C] of each view, the backbone's."""
    photos: Sequence[np.ndarray]
    """uint8 RGB of each view, undistorted, of any size with the view's shape."""
    names: Sequence[str]
    """What to call each photo."""


def scene_of_export(directory: Path, images_root: Path | None = None) -> JudgedScene:
    """The scene of a folder that fit3d-export or fit3d-lift wrote, with its photos from where it says that they are.

    Raises:
        InputError: no export, photos that are gone or changed, or a backbone that cannot be had again.
    """
    gaussians = FeatureGaussians.load(directory, images_root)
    info, backbone = gaussians.scene, gaussians.scene.backbone
    if backbone.weights not in NAMED_WEIGHTS:
        raise InputError(
            f"{directory} was made with weights from a file, which it does not hold: judge its run with --load-config."
        )
    device = choose_device("auto")
    posed = posed_maps(scene_of_gaussians(gaussians), "train", config_of(backbone), device)
    if not posed.views:
        raise InputError(f"{directory} has no training views: export the scene again with fit3d-export.")
    decoder = FeatureDecoder(info.decoder, info.feature_dim, info.channels)
    decoder.load_state_dict(gaussians.decoder)
    return JudgedScene(
        name=info.scene,
        splats=gaussians.splats.to(device),
        features=gaussians.features.to(device),
        decoder=decoder.to(device).requires_grad_(False),
        position=None if gaussians.position is None else gaussians.position.to(device),
        views=posed.cameras,
        maps=posed.maps,
        photos=posed.photos,
        names=[view.path for view in posed.views],
    )


def as_image(photo: np.ndarray, view: PinholeView, device: torch.device) -> Tensor:
    """A photo [H, W, 3] in 0..1 at the size of `view`, averaged over the pixels of the file."""
    import cv2

    small = cv2.resize(photo, (view.width, view.height), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(small).to(device, torch.float32) / 255
