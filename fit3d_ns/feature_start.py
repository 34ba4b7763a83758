"""The Gaussians' first features: what all training views show where a Gaussian is seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fit3d_ns.cameras import pixel_grid, world_to_camera
from fit3d_ns.console import logger
from fit3d_ns.lifting import back_project
from fit3d_ns.patch_grid import pool_to_patch_grid, upsample_to_pixels

if TYPE_CHECKING:
    from fit3d_ns.datamanager import Fit3DDatamanager
    from fit3d_ns.model import Fit3DModel


@torch.no_grad()
def start_features(model: Fit3DModel, datamanager: Fit3DDatamanager) -> None:
    """Set the model's features as its configuration says (`feature_init`), in place."""
    if model.config.feature_init == "zeros":
        return
    if model.config.decoder != "linear":
        logger.warning(
            "Features start at zero: back-projection needs the linear decoder, and this run has %r.",
            model.config.decoder,
        )
        return
    start = time.monotonic()
    features, weights = back_project(_views(model, datamanager), model.num_points, model.config.feature_dim)
    model.gauss_params["features"].copy_(features)
    logger.info(
        "Features start from the back-projection of %d views: %d of %d Gaussians are seen (%.1f s).",
        len(datamanager.train_features),
        int((weights > 0).sum()),
        model.num_points,
        time.monotonic() - start,
    )


def _views(
    model: Fit3DModel, datamanager: Fit3DDatamanager
) -> Iterator[tuple[Callable[[Tensor], Tensor], Tensor, Tensor]]:
    """What `back_project` takes: per training view a renderer, codes [H, W, D] and mask [H, W]."""
    assert model.decoder.bias is not None
    encode = torch.linalg.pinv(model.decoder.weight)
    gaussians = {name: values.detach() for name, values in model.gauss_params.items()}
    for index in range(len(datamanager.train_features)):
        camera = datamanager.train_cameras[index : index + 1].to(model.device)
        camera.metadata = {"cam_idx": index}
        viewmat = world_to_camera(model.camera_optimizer.apply_to_camera(camera))
        K, width, height = pixel_grid(camera, model.config.feature_downscale)
        target = datamanager.train_features[index].to(model.device, torch.float32)
        codes = upsample_to_pixels((target - model.decoder.bias) @ encode.T, height, width)
        mask = torch.ones(height, width, device=model.device)
        if "mask" in (batch := datamanager.cached_train[index]):
            pooled, _ = pool_to_patch_grid(batch["mask"].to(model.device, torch.float32), (height, width), None)
            mask = (pooled[..., 0] > 0.5).float()

        def render(
            channels: Tensor, viewmat: Tensor = viewmat, K: Tensor = K, width: int = width, height: int = height
        ) -> Tensor:
            return model.rasterize_channels(gaussians, channels, viewmat, K, width, height)

        yield render, codes, mask
