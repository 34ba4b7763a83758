"""Splatfacto with a feature head: every Gaussian also carries a vector that decodes to backbone features."""

from __future__ import annotations

from typing import Any, Literal

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.splatfacto import RGB2SH, SplatfactoModel, total_variation_loss
from torch import Tensor
from torch.nn import Parameter

from fit3d_ns.features.decoder import FeatureDecoder
from fit3d_ns.features.loss import compare_features, feature_loss, feature_metrics
from fit3d_ns.features.patch_grid import as_squares
from fit3d_ns.features.pca import ColorProjection, PCABasis
from fit3d_ns.method.cameras import pixel_grid, world_to_camera
from fit3d_ns.method.densification import CappedStrategy
from fit3d_ns.method.feature_solve import start_features
from fit3d_ns.method.lpips_metric import without_lpips_download
from fit3d_ns.method.mcmc import PortableMCMCStrategy, opacity_and_scale_penalty
from fit3d_ns.method.model_config import Fit3DModelConfig
from fit3d_ns.method.viewer import FeatureViewer
from fit3d_ns.photometric import ImageDifference, compare_images, composite
from fit3d_ns.rasterization import rasterization

GEOMETRY = ("means", "scales", "quats", "opacities")
"""What says where a Gaussian is and how opaque; the rest is what it looks like."""

_SCHEDULES: dict[str, dict[str, Any]] = {
    "gsplat": {},
    "3dgs": {"reset_at_start": False, "pause_refine_after_reset": 0},
}
"""What `densification` changes of splatfacto's settings."""


class Fit3DModel(SplatfactoModel):
    """Splatfacto whose Gaussians carry `features` [N, feature_dim] and `feature_errors` [N, 1].

    `features` render like colour and decode to the backbone's feature space. `feature_errors` learns, with the
    same blending, how far the decoded features are from what the backbone saw (1 - cosine), so that the error
    can be looked at from any viewpoint. Both are entries of `gauss_params`: densification, culling and the
    optimisers carry them like any other.
    """

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
        self.feature_viewer = FeatureViewer(self)

    # ---- feature space

    def _allocate_feature_space(self, channels: int) -> None:
        device = self.means.device
        self.decoder = FeatureDecoder(self.config.decoder, self.config.feature_dim, channels).to(device)
        self.register_buffer("color_matrix", torch.zeros(3, channels, device=device))
        self.register_buffer("color_offset", torch.zeros(3, device=device))

    def set_feature_space(self, basis: PCABasis) -> None:
        """Fix the backbone's feature space: size and start of the decoder, and the colours of `feature_pca`."""
        self._allocate_feature_space(channels=len(basis.mean))
        if self.config.decoder == "linear":
            self.decoder.initialize_from_pca(basis)
        self.set_color_projection(ColorProjection.from_basis(basis))

    def set_color_projection(self, projection: ColorProjection) -> None:
        """Use `projection` (from decoded features to RGB) for `feature_pca` from now on."""
        self.color_matrix.copy_(projection.matrix)
        self.color_offset.copy_(projection.offset)

    def load_state_dict(self, dict: dict[str, Any], **kwargs: Any) -> None:  # type: ignore[override]
        self._allocate_feature_space(channels=dict["color_matrix"].shape[1])
        super().load_state_dict(dict, **kwargs)

    def set_extent(self, extent: float) -> None:
        """Measure the sizes of Gaussians and the steps of their positions in units of `extent` (see `scene_extent`)."""
        self.extent = extent
        if self.config.strategy == "default":
            self.strategy_state["scene_scale"] = extent

    # ---- optimisation

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

    @property
    def features_active(self) -> bool:
        """Whether this training step has a feature loss."""
        return self.config.feature_lift == "train" and self.step >= self.config.feature_start_step

    @property
    def features_missing(self) -> bool:
        """Whether the features wait for the solve at the end of training."""
        return self.config.feature_lift == "solve" and not bool(self.gauss_params["features"].any())

    def get_training_callbacks(self, attributes: TrainingCallbackAttributes) -> list[TrainingCallback]:
        def start(step: int) -> None:
            trains = self.config.feature_lift == "train"
            if trains and step == self.config.feature_start_step and attributes.pipeline is not None:
                start_features(self, attributes.pipeline.datamanager)

        location = [TrainingCallbackLocation.BEFORE_TRAIN_ITERATION]
        return [*super().get_training_callbacks(attributes), TrainingCallback(location, start)]

    # ---- rendering

    def get_outputs(self, camera: Cameras) -> dict[str, Any]:
        """Render one camera.

        Returns:
            `rgb` [H, W, 3], `accumulation` [H, W, 1], `depth` [H, W, 1] (scene units; None in training unless
            asked for) and `background`. For views with a feature map: `features` [H, W, feature_dim + 1], the
            blended features and, last, the learned error (one map: slicing would copy it in every backward).
            Outside training: `feature_pca` [H, W, 3], `feature_error` [H, W, 1] and, once a point was clicked
            in the viewer, `similarity` [H, W, 1].
        """
        optimized = self.training
        camera_to_worlds = self.camera_optimizer.apply_to_camera(camera) if optimized else camera.camera_to_worlds
        outputs: dict[str, Any]
        gaussians = self._cropped_gaussians()
        if gaussians["means"].shape[0] == 0:
            width, height = int(camera.width.item()), int(camera.height.item())
            outputs = self.get_empty_outputs(width, height, self.background_color.to(self.device))
            empty = outputs["accumulation"]
            return {**outputs, "feature_pca": empty.expand(-1, -1, 3), "feature_error": empty}
        viewmat = world_to_camera(camera_to_worlds)
        K, width, height = pixel_grid(camera, self._get_downscale_factor())
        self.last_size = (height, width)

        with_depth = self.config.output_depth_during_training or not self.training
        colors, sh_degree = self._colors(gaussians)
        render, alpha, self.info = self._rasterize(
            gaussians,
            colors,
            *(viewmat, K, width, height),
            render_mode="RGB+ED" if with_depth else "RGB",
            sh_degree=sh_degree,
            absgrad=self.training and self.strategy.absgrad,
        )
        if self.training:
            self.strategy.step_pre_backward(
                self.gauss_params, self.optimizers, self.strategy_state, self.step, self.info
            )
        background = self._get_background_color()
        render, alpha = render.squeeze(0), alpha.squeeze(0)  # not by index: its backward fills an image with zeros
        rgb = composite(render[..., :3] if with_depth else render, alpha, background)
        cam_idx = (camera.metadata or {}).get("cam_idx")
        if self.config.use_bilateral_grid and self.training and cam_idx is not None:
            rgb = self._apply_bilateral_grid(rgb[None], cam_idx, height, width).reshape(height, width, 3)
        depth = None
        if with_depth:
            depth = torch.where(alpha > 0, render[..., 3:4], render[..., 3:4].detach().max())
        outputs = {
            "rgb": rgb,
            "depth": depth,
            "accumulation": alpha,
            "background": background if self.training else background.expand(height, width, 3),
        }
        if not self.training:
            outputs.update(self.feature_viewer.outputs(gaussians, viewmat, K, width, height))
        has_features = (camera.metadata or {}).get("has_features", False)
        if has_features and (not self.training or self.features_active):
            downscale = self.config.feature_downscale if self.training else 1
            K, width, height = pixel_grid(camera, self._get_downscale_factor() * downscale)
            outputs.update(self._render_features(gaussians, viewmat, K, width, height))
        return outputs

    def _cropped_gaussians(self) -> dict[str, Tensor]:
        gaussians = dict(self.gauss_params.items())
        if self.crop_box is None or self.training:
            return gaussians
        inside = self.crop_box.within(self.means).squeeze()
        return {name: values[inside] for name, values in gaussians.items()}

    def _colors(self, gaussians: dict[str, Tensor]) -> tuple[Tensor, int | None]:
        if self.config.sh_degree == 0:
            return torch.sigmoid(gaussians["features_dc"]), None
        coefficients = torch.cat((gaussians["features_dc"][:, None, :], gaussians["features_rest"]), dim=1)
        return coefficients, min(self.step // self.config.sh_degree_interval, self.config.sh_degree)

    def _render_features(
        self, gaussians: dict[str, Tensor], viewmat: Tensor, K: Tensor, width: int, height: int
    ) -> dict[str, Tensor]:
        held = {name: v.detach() if name in GEOMETRY else v for name, v in gaussians.items()}
        features, errors, size = gaussians["features"], gaussians["feature_errors"], (width, height)
        if self.config.couple_geometry:
            maps = [
                self.rasterize_channels(gaussians, features, viewmat, K, *size),
                self.rasterize_channels(held, errors, viewmat.detach(), K, *size),
            ]
            return {"features": torch.cat(maps, dim=-1)}
        channels = torch.cat([features, errors], dim=1)
        return {"features": self.rasterize_channels(held, channels, viewmat.detach(), K, *size)}

    def rasterize_channels(
        self, gaussians: dict[str, Tensor], channels: Tensor, viewmat: Tensor, K: Tensor, width: int, height: int
    ) -> Tensor:
        """Blend any per-Gaussian `channels` [N, D] into a map [H, W, D] over a background of zeros.

        Args:
            gaussians: raw parameters, as in `gauss_params`.
            channels: [N, D].
            viewmat: [1, 4, 4] world to camera, OpenCV axes.
            K: [1, 3, 3] intrinsics in pixels.
        """
        render, _, _ = self._rasterize(gaussians, channels, viewmat, K, width, height)
        return render[0]

    def _rasterize(
        self,
        gaussians: dict[str, Tensor],
        colors: Tensor,
        viewmat: Tensor,
        K: Tensor,
        width: int,
        height: int,
        render_mode: Literal["RGB", "RGB+ED"] = "RGB",
        sh_degree: int | None = None,
        absgrad: bool = False,
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        return rasterization(
            means=gaussians["means"],
            quats=gaussians["quats"],
            scales=torch.exp(gaussians["scales"]),
            opacities=torch.sigmoid(gaussians["opacities"]).squeeze(-1),
            colors=colors,
            viewmats=viewmat,
            Ks=K,
            width=width,
            height=height,
            packed=False,
            near_plane=0.01,
            far_plane=1e10,
            render_mode=render_mode,
            sh_degree=sh_degree,
            absgrad=absgrad,
            rasterize_mode=self.config.rasterize_mode,
        )

    def decode_gaussians(self, features: Tensor) -> Tensor:
        """Decode isolated feature vectors [M, D] to [M, C], each as if its whole neighbourhood had its value."""
        if self.decoder.kind == "linear":
            return self.decoder(features)
        return features @ self.decoder.weight.sum((2, 3)).T

    # ---- losses and metrics

    def _photo(self, outputs: dict[str, Any], batch: dict[str, Any]) -> Tensor:
        """The photo [H, W, 3] in 0..1 as the rendering should be: at its size, over its background."""
        if "photo" not in outputs:
            outputs["photo"] = self.composite_with_background(self.get_gt_img(batch["image"]), outputs["background"])
        photo: Tensor = outputs["photo"]
        return photo

    def _difference(self, outputs: dict[str, Any], batch: dict[str, Any]) -> ImageDifference:
        """How far the rendering is from the photo, masked pixels as the configuration says (`masked_pixels`)."""
        if "difference" not in outputs:
            photo, rendered = self._photo(outputs, batch), outputs["rgb"]
            if "mask" in batch:
                mask = self._downscale_if_required(batch["mask"]).to(self.device)
                if self.config.masked_pixels == "rendered":
                    photo = torch.where(mask > 0.5, photo, rendered.detach())
                else:
                    photo, rendered = photo * mask, rendered * mask
            outputs["difference"] = compare_images(rendered, photo, self.config.ssim_border)
        difference: ImageDifference = outputs["difference"]
        return difference

    def get_metrics_dict(self, outputs: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        """Cheap figures of the training view: PSNR and the number of Gaussians."""
        if "mask" in batch:
            error = (outputs["rgb"].detach() - self._photo(outputs, batch)).square().mean()
        else:
            error = self._difference(outputs, batch).squared
        metrics = {"psnr": -10 * torch.log10(error.clamp_min(1e-10)), "gaussian_count": self.num_points}
        self.camera_optimizer.get_metrics_dict(metrics)
        return metrics

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """splatfacto's losses and those of the features; the photo is compared once for losses and metrics."""
        difference = self._difference(outputs, batch)
        share = self.config.ssim_lambda
        losses = {
            "main_loss": (1 - share) * difference.l1 + share * (1 - difference.ssim),
            "scale_reg": self._scale_penalty(),
        }
        if self.training:
            self.camera_optimizer.get_loss_dict(losses)
            if self.config.use_bilateral_grid:
                losses["tv_loss"] = 10 * total_variation_loss(self.bil_grids.grids)
        if "features" in outputs:
            compared = compare_features(outputs["features"], batch, self.decoder, self.config.feature_supervision)
            loss, cosine = feature_loss(*compared.maps, self.config.feature_loss)
            if self.config.masked_pixels == "rendered":
                loss = loss * compared.weights.mean()  # the mean over all cells, those left out as zeros
            losses["feature_loss"] = self.config.feature_loss_weight * loss
            residual = compared.errors - (1 - cosine.detach())
            weights = compared.weights
            losses["feature_error_loss"] = (weights * residual.square()).sum() / weights.sum().clamp_min(1e-6)
        if self.config.strategy == "mcmc" and self.training:
            losses["mcmc_reg"] = opacity_and_scale_penalty(
                self.opacities, self.scales, self.config.mcmc_opacity_reg, self.config.mcmc_scale_reg
            )
        return losses

    def _scale_penalty(self) -> Tensor:
        """PhysGaussian's penalty on needles, every tenth step (splatfacto's `use_scale_regularization`)."""
        if not self.config.use_scale_regularization or self.step % 10 != 0:
            return torch.zeros((), device=self.device)
        longest, shortest = self.scales.amax(dim=-1), self.scales.amin(dim=-1)
        limit = self.config.max_gauss_ratio
        return 0.1 * (torch.exp(longest - shortest).clamp_min(limit) - limit).mean()

    def get_image_metrics_and_images(
        self, outputs: dict[str, Any], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """PSNR, SSIM (LPIPS where its weights are), and on the patch grid `feature_l1` and `feature_cosine`."""
        metrics, images = super().get_image_metrics_and_images(outputs, batch)
        metrics = {name: value for name, value in metrics.items() if value == value}  # LPIPS missing: NaN
        if "features" in outputs:
            compared = compare_features(outputs["features"], batch, self.decoder, "patch")
            metrics.update(feature_metrics(*compared.maps))
            colors = ColorProjection(self.color_matrix, self.color_offset)
            height, width = outputs["rgb"].shape[:2]
            pictures = [as_squares(colors(values), height, width) for values in (compared.target, compared.decoded)]
            images["features"] = torch.cat(pictures, dim=1)
        return metrics, images


def _batched_ssim(target: Tensor, predicted: Tensor) -> Tensor:
    """SSIM the way splatfacto calls it: the photo first, both [1, 3, H, W]."""
    return compare_images(predicted[0].permute(1, 2, 0), target[0].permute(1, 2, 0)).ssim
