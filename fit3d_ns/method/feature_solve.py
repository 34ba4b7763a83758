"""The model's features from all training views at once: a start for training them, or the solution in their place."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from fit3d_ns.common.console import logger
from fit3d_ns.features.pca import fit_pca
from fit3d_ns.lifting.maps import lift_feature_maps, pca_space
from fit3d_ns.lifting.operator import Geometry, View, cell_weights, patch_operator
from fit3d_ns.lifting.solver import back_project
from fit3d_ns.method.cameras import pixel_grid, world_to_camera

if TYPE_CHECKING:
    from fit3d_ns.method.datamanager import Fit3DDatamanager
    from fit3d_ns.method.model import Fit3DModel


@torch.no_grad()
def start_features(model: Fit3DModel, datamanager: Fit3DDatamanager) -> None:
    """Set the features that training starts from as the configuration says (`feature_init`), in place."""
    if model.config.feature_init == "zeros":
        return
    if model.config.decoder != "linear":
        logger.warning(
            "Features start at zero: back-projection needs the linear decoder, and this run has %r.",
            model.config.decoder,
        )
        return
    start = time.monotonic()
    assert model.decoder.bias is not None
    encode, bias = torch.linalg.pinv(model.decoder.weight), model.decoder.bias
    maps = [datamanager.train_features[i] for i in range(len(datamanager.train_features))]
    codes = [((values.to(bias) - bias) @ encode.T).reshape(-1, encode.shape[0]) for values in maps]
    views = training_views(model, datamanager)
    operator = patch_operator(model_geometry(model), views)
    features, weights = back_project(operator, torch.cat(codes), cell_weights(views, model.device))
    model.gauss_params["features"].copy_(features)
    logger.info(
        "Features start from the back-projection of %d views: %d of %d Gaussians are seen (%.1f s).",
        len(views),
        int((weights > 0).sum()),
        model.num_points,
        time.monotonic() - start,
    )


@torch.no_grad()
def solve_model_features(model: Fit3DModel, datamanager: Fit3DDatamanager) -> None:
    """Solve for the features and their errors with the geometry as it is, in place; the decoder becomes the PCA's."""
    start = time.monotonic()
    maps = datamanager.train_features
    basis = datamanager.feature_basis or fit_pca(maps, min(maps.channels, model.config.feature_dim))
    space = pca_space(basis, model.config.feature_dim)
    lifted = lift_feature_maps(model_geometry(model), training_views(model, datamanager), maps, space)
    model.gauss_params["features"].copy_(lifted.features)
    model.gauss_params["feature_errors"].copy_(lifted.errors[:, None])
    model.decoder.load_state_dict(space.decoder)
    logger.info("Solving for features took %.1f s.", time.monotonic() - start)


def model_geometry(model: Fit3DModel) -> Geometry:
    """Where the model's Gaussians are now."""
    parameters = {name: values.detach() for name, values in model.gauss_params.items()}
    return Geometry(
        parameters["means"],
        parameters["quats"],
        torch.exp(parameters["scales"]),
        torch.sigmoid(parameters["opacities"]).squeeze(-1),
        model.config.rasterize_mode,
    )


def training_views(model: Fit3DModel, datamanager: Fit3DDatamanager) -> list[View]:
    """The training cameras with their patch grids and masks, poses as the camera optimiser has them."""
    views = []
    for index, grid in enumerate(datamanager.train_features.grid_sizes):
        camera = datamanager.train_cameras[index : index + 1].to(model.device)
        camera.metadata = {"cam_idx": index}
        pose = world_to_camera(model.camera_optimizer.apply_to_camera(camera).detach())[0]
        K, width, height = pixel_grid(camera, 1)
        mask = datamanager.cached_train[index].get("mask")
        pixels = None if mask is None else mask[..., 0].to(model.device, torch.float32)
        views.append(View(pose, K[0], width, height, grid, pixels))
    return views
