"""The model that nerfstudio trains: splatfacto with a feature head."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.splatfacto import RGB2SH, total_variation_loss
from torch import Tensor
from torch.nn import Parameter

from fit3d_ns.common.console import logger
from fit3d_ns.features.loss import FeatureComparison, FeatureSupervision, compare_features, feature_metrics
from fit3d_ns.features.patch_grid import as_squares
from fit3d_ns.features.pca import ColorProjection
from fit3d_ns.method.datamanager import Fit3DDatamanager
from fit3d_ns.method.densification import CappedStrategy
from fit3d_ns.method.feature_solve import starting_features, training_views
from fit3d_ns.method.losses import (
    PhotoComparison,
    colour_loss,
    compare_with_photo,
    feature_losses,
    needle_penalty,
    psnr,
)
from fit3d_ns.method.lpips_metric import without_lpips_download
from fit3d_ns.method.mcmc import PortableMCMCStrategy, opacity_and_scale_penalty
from fit3d_ns.method.model_config import Fit3DModelOptions
from fit3d_ns.method.rendering import FeatureSplatfacto
from fit3d_ns.method.viewer.feature_viewer import FeatureViewer
from fit3d_ns.photometric import compare_images

_SCHEDULES: dict[str, dict[str, Any]] = {
    "gsplat": {},
    "3dgs": {"reset_at_start": False, "pause_refine_after_reset": 0},
}
"""What `densification` changes of splatfacto's settings."""


@dataclass
class Fit3DModelConfig(Fit3DModelOptions):
    """Splatfacto plus a feature head."""

    _target: type = field(default_factory=lambda: Fit3DModel)


class Fit3DModel(FeatureSplatfacto):
    """`FeatureSplatfacto` that trains: its start, densification, losses and metrics."""

    config: Fit3DModelConfig
    seed_points: tuple[Tensor, Tensor] | None
    ssim: Any

    def populate_modules(self) -> None:
        self.config.check()
        seed_points = self.seed_points
        if seed_points is not None:
            # splatfacto moves seed colours to CUDA by name; give it the positions only and set colours here.
            self.seed_points = (seed_points[0], seed_points[1][:0])
        with without_lpips_download():
            super().populate_modules()
        del self.ssim  # a module; the faster function below could not take its name
        self.ssim = _batched_ssim
        self.seed_points = seed_points
        if seed_points is not None and not self.config.random_init and len(seed_points[1]) > 0:
            rgb = seed_points[1].float() / 255
            base = RGB2SH(rgb) if self.config.sh_degree > 0 else torch.logit(rgb, eps=1e-6)
            self.gauss_params["features_dc"] = Parameter(base)
        self.gauss_params["features"] = Parameter(torch.zeros(self.num_points, self.config.feature_dim))
        self.gauss_params["feature_errors"] = Parameter(torch.zeros(self.num_points, 1))
        if self.config.strategy == "mcmc":
            self.strategy = PortableMCMCStrategy(
                cap_max=self.config.max_gs_num,
                noise_lr=self.config.noise_lr,
                refine_start_iter=self.config.warmup_length,
                refine_stop_iter=self.config.stop_split_at,
                refine_every=self.config.refine_every,
            )
            self.strategy_state = self.strategy.initialize_state()
        else:
            self.strategy = CappedStrategy.like(
                self.strategy, cap_max=self.config.max_gs_num, **_SCHEDULES[self.config.densification]
            )
        self.extent = 1.0
        # The number of backbone channels is known once the features are (`set_feature_space`), or from the
        # checkpoint (`load_state_dict`).
        self._allocate_feature_space(channels=1)
        config = self.config
        self.feature_viewer = FeatureViewer(
            self, config.compare_backbone, config.feature_dim, config.feature_view_dependence
        )

    # ---- optimisation

    def set_extent(self, extent: float) -> None:
        """Measure the sizes of Gaussians and the steps of their positions in units of `extent` (see `scene_extent`)."""
        self.extent = extent
        if self.config.strategy == "default":
            self.strategy_state["scene_scale"] = extent

    def get_gaussian_param_groups(self) -> dict[str, list[Parameter]]:
        return {name: [parameter] for name, parameter in self.gauss_params.items()}

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        return {**super().get_param_groups(), "decoder": list(self.decoder.parameters())}

    def step_post_backward(self, step: int) -> None:
        if self.config.strategy == "default":
            super().step_post_backward(step)
            return
        self.strategy.step_post_backward(
            params=self.gauss_params,
            optimizers=self.optimizers,
            state=self.strategy_state,
            step=step,
            info=self.info,
            lr=self.optimizers["means"].param_groups[0]["lr"],
        )

    def get_training_callbacks(self, attributes: TrainingCallbackAttributes) -> list[TrainingCallback]:
        def start(step: int) -> None:
            trains = self.config.feature_lift == "train"
            if trains and step == self.config.feature_start_step and attributes.pipeline is not None:
                self._start_features(attributes.pipeline.datamanager)

        location = [TrainingCallbackLocation.BEFORE_TRAIN_ITERATION]
        return [*super().get_training_callbacks(attributes), TrainingCallback(location, start)]

    def _start_features(self, datamanager: Fit3DDatamanager) -> None:
        """What training starts from, as the configuration says (`feature_init`)."""
        if self.config.feature_init == "zeros":
            return
        if self.config.decoder != "linear":
            logger.warning(
                "Features start at zero: back-projection needs the linear decoder, and this run has %r.",
                self.config.decoder,
            )
            return
        views = training_views(datamanager, self.camera_optimizer, self.device)
        features = starting_features(self.splats().detached(), views, datamanager.train_features, self.decoder)
        self.gauss_params["features"].data.copy_(features)

    # ---- losses and metrics

    def compare_with_photo(self, outputs: dict[str, Any], batch: dict[str, Any]) -> PhotoComparison:
        """How far the rendering is from the photo, for `losses` and `metrics`."""
        photo = self.composite_with_background(self.get_gt_img(batch["image"]), outputs["background"])
        mask = self._downscale_if_required(batch["mask"]).to(self.device) if "mask" in batch else None
        return compare_with_photo(outputs["rgb"], photo, mask, self.config.masked_pixels, self.config.ssim_border)

    def compare_features(
        self, outputs: dict[str, Any], batch: dict[str, Any], supervision: FeatureSupervision
    ) -> FeatureComparison | None:
        """The features of a view beside the backbone's; None in training steps without a feature loss."""
        if (self.training and "features" not in outputs) or "features" not in batch:
            return None
        rendered = outputs["features"] if self.training else self.render_features(batch["camera"])
        return compare_features(
            rendered, batch["features"].load(), batch.get("mask"), self.decoder, supervision, self.position_term
        )

    def get_metrics_dict(self, outputs: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        return self.metrics(self.compare_with_photo(outputs, batch))

    def metrics(self, compared: PhotoComparison) -> dict[str, Any]:
        """Cheap figures of the training view: PSNR and the number of Gaussians."""
        metrics = {"psnr": psnr(compared.squared), "gaussian_count": self.num_points}
        self.camera_optimizer.get_metrics_dict(metrics)
        return metrics

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Any] | None = None
    ) -> dict[str, Tensor]:
        return self.losses(outputs, batch, self.compare_with_photo(outputs, batch))

    def losses(self, outputs: dict[str, Any], batch: dict[str, Any], compared: PhotoComparison) -> dict[str, Tensor]:
        """splatfacto's losses and those of the features."""
        config = self.config
        # splatfacto looks for needles in every tenth step.
        needles = config.use_scale_regularization and self.step % 10 == 0
        losses = {
            "main_loss": colour_loss(compared.difference, config.ssim_lambda),
            "scale_reg": needle_penalty(self.scales, config.max_gauss_ratio)
            if needles
            else torch.zeros((), device=self.device),
        }
        if self.training:
            self.camera_optimizer.get_loss_dict(losses)
            if config.use_bilateral_grid:
                losses["tv_loss"] = 10 * total_variation_loss(self.bil_grids.grids)
        features = self.compare_features(outputs, batch, config.feature_supervision)
        if features is not None:
            losses |= feature_losses(features, config.feature_loss, config.feature_loss_weight, config.masked_pixels)
        if config.strategy == "mcmc" and self.training:
            losses["mcmc_reg"] = opacity_and_scale_penalty(
                self.opacities, self.scales, config.mcmc_opacity_reg, config.mcmc_scale_reg
            )
        return losses

    @torch.no_grad()
    def get_image_metrics_and_images(
        self, outputs: dict[str, Any], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """PSNR, SSIM (LPIPS where its weights are), and on the patch grid `feature_l1` and `feature_cosine`."""
        metrics, images = super().get_image_metrics_and_images(outputs, batch)
        metrics = {name: value for name, value in metrics.items() if value == value}  # LPIPS missing: NaN
        compared = self.compare_features(outputs, batch, "patch")
        if compared is not None:
            metrics.update(feature_metrics(*compared.maps))
            colors = ColorProjection(self.color_matrix, self.color_offset)
            height, width = outputs["rgb"].shape[:2]
            pictures = [as_squares(colors(values), height, width) for values in (compared.target, compared.decoded)]
            images["features"] = torch.cat(pictures, dim=1)
        return metrics, images


def _batched_ssim(target: Tensor, predicted: Tensor) -> Tensor:
    """SSIM the way splatfacto calls it: the photo first, both [1, 3, H, W]."""
    return compare_images(predicted[0].permute(1, 2, 0), target[0].permute(1, 2, 0)).ssim
