"""Features from all training views at once: a start for training them, or the solution in their place."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizer
from torch import Tensor

from fit3d_ns.common.console import logger
from fit3d_ns.features.cache import FeatureMaps
from fit3d_ns.features.decoder import FeatureDecoder
from fit3d_ns.features.pca import PCABasis
from fit3d_ns.features.position import ViewDependence
from fit3d_ns.features.space import pca_space
from fit3d_ns.lifting.maps import LiftedFeatures, lift_feature_maps
from fit3d_ns.lifting.operator import cell_weights, patch_operator
from fit3d_ns.lifting.solver import back_project
from fit3d_ns.method.cameras import pinhole_view
from fit3d_ns.method.datamanager import Fit3DDatamanager
from fit3d_ns.scene.splats import Splats
from fit3d_ns.scene.views import PinholeView


@torch.no_grad()
def starting_features(
    splats: Splats, views: Sequence[PinholeView], maps: FeatureMaps, decoder: FeatureDecoder
) -> Tensor:
    """The mean of what all views show where a Gaussian is seen, as codes of a linear decoder: [N, D].

    Args:
        splats: the Gaussians.
        views: the training views.
        maps: the backbone's map of each.
        decoder: linear.
    """
    start = time.monotonic()
    codes = [decoder.codes(maps[i]).reshape(-1, decoder.feature_dim) for i in range(len(maps))]
    operator = patch_operator(splats, views)
    features, weights = back_project(operator, torch.cat(codes), cell_weights(views, splats.means.device))
    logger.info(
        "Features start from the back-projection of %d views: %d of %d Gaussians are seen (%.1f s).",
        len(views),
        int((weights > 0).sum()),
        len(splats),
        time.monotonic() - start,
    )
    return features


@torch.no_grad()
def solved_features(
    splats: Splats,
    views: Sequence[PinholeView],
    maps: FeatureMaps,
    feature_dim: int,
    basis: PCABasis | None = None,
    view_dependence: ViewDependence = "none",
) -> LiftedFeatures:
    """The features that render best to all maps, for the geometry as it is.

    Args:
        splats: the Gaussians.
        views: the training views.
        maps: the backbone's map of each.
        feature_dim: D, channels per Gaussian.
        basis: principal components of the maps, if they are known.
        view_dependence: what is solved for beside them.
    """
    start = time.monotonic()
    space = None if basis is None else pca_space(basis, feature_dim)
    lifted = lift_feature_maps(splats, views, maps, feature_dim, view_dependence=view_dependence, space=space)
    logger.info("Solving for features took %.1f s.", time.monotonic() - start)
    return lifted


@torch.no_grad()
def training_views(
    datamanager: Fit3DDatamanager,
    camera_optimizer: CameraOptimizer,
    device: torch.device | str,
    maps: FeatureMaps | None = None,
) -> list[PinholeView]:
    """The training cameras with the patch grids of `maps` (None: the run's backbone's) and masks.

    Poses are as the camera optimiser has them.
    """
    views = []
    maps = datamanager.train_features if maps is None else maps
    for index, grid in enumerate(maps.grid_sizes):
        camera = datamanager.train_cameras[index : index + 1].to(device)
        camera.metadata = {"cam_idx": index}
        mask = datamanager.cached_train[index].get("mask")
        pixels = None if mask is None else mask[..., 0].to(device, torch.float32)
        views.append(pinhole_view(camera, camera_optimizer.apply_to_camera(camera).detach(), grid=grid, mask=pixels))
    return views
