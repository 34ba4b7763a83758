"""Splatfacto whose Gaussians also carry a vector that decodes to backbone features: how it is rendered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.models.splatfacto import SplatfactoModel
from torch import Tensor

from fit3d_ns.features.decoder import FeatureDecoder
from fit3d_ns.features.pca import ColorProjection, PCABasis
from fit3d_ns.features.space import pca_space
from fit3d_ns.lifting.maps import LiftedFeatures
from fit3d_ns.method.activation import activated
from fit3d_ns.method.cameras import pinhole_view
from fit3d_ns.method.model_config import Fit3DModelOptions
from fit3d_ns.method.viewer.feature_viewer import FeatureViewer
from fit3d_ns.method.viewer.shown import SHOWN_CHANNELS
from fit3d_ns.photometric import composite
from fit3d_ns.scene.render import rasterize
from fit3d_ns.scene.splats import Splats
from fit3d_ns.scene.views import PinholeView


class FeatureSplatfacto(SplatfactoModel):
    """Splatfacto whose Gaussians carry `features` [N, feature_dim] and `feature_errors` [N, 1].

    `features` render like colour and decode to the backbone's feature space. `feature_errors` learns, with the
    same blending, how far the decoded features are from what the backbone saw (1 - cosine), so that the error
    can be looked at from any viewpoint. Both are entries of `gauss_params`: densification, culling and the
    optimisers carry them like any other.
    """

    config: Fit3DModelOptions
    feature_viewer: FeatureViewer
    color_matrix: Tensor
    """[3, C] and `color_offset` [3]: from decoded features to the colours of `feature_pca`."""
    color_offset: Tensor
    position: Tensor
    """[rows, columns, C], the position term of a solve; no rows without one."""

    @property
    def features_active(self) -> bool:
        """Whether this training step has a feature loss."""
        return self.config.feature_lift == "train" and self.step >= self.config.feature_start_step

    @property
    def features_missing(self) -> bool:
        """Whether the features wait for the solve at the end of training."""
        return self.config.feature_lift == "solve" and not bool(self.gauss_params["features"].any())

    # ---- feature space

    def _allocate_feature_space(self, channels: int) -> None:
        device = self.means.device
        self.decoder = FeatureDecoder(self.config.decoder, self.config.feature_dim, channels).to(device)
        self.register_buffer("color_matrix", torch.zeros(3, channels, device=device))
        self.register_buffer("color_offset", torch.zeros(3, device=device))
        self.register_buffer("position", torch.zeros(0, 0, channels, device=device))

    @property
    def position_term(self) -> Tensor | None:
        """[rows, columns, C] that a view adds to its decoded features, if a solve found one."""
        return self.position if self.position.numel() > 0 else None

    def set_feature_space(self, basis: PCABasis) -> None:
        """Fix the backbone's feature space: size and start of the decoder, and the colours of `feature_pca`."""
        self._allocate_feature_space(channels=len(basis.mean))
        if self.config.decoder == "linear":
            self.decoder.load_state_dict(pca_space(basis, self.config.feature_dim).decoder)
        self.set_color_projection(ColorProjection.from_basis(basis))

    def set_color_projection(self, projection: ColorProjection) -> None:
        """Use `projection` (from decoded features to RGB) for `feature_pca` from now on."""
        self.color_matrix.copy_(projection.matrix)
        self.color_offset.copy_(projection.offset)

    def load_state_dict(self, dict: dict[str, Any], **kwargs: Any) -> None:  # type: ignore[override]
        self._allocate_feature_space(channels=dict["color_matrix"].shape[1])
        # Checkpoints of before the position term have none.
        self.position = dict.get("position", self.position).to(self.position)
        super().load_state_dict({**dict, "position": self.position}, **kwargs)

    @torch.no_grad()
    def set_features(self, lifted: LiftedFeatures) -> None:
        """Carry the features of a solve, with its decoder, from now on."""
        self.gauss_params["features"].copy_(lifted.features)
        self.gauss_params["feature_errors"].copy_(lifted.errors[:, None])
        self.decoder.load_state_dict(lifted.space.decoder)
        self.position = self.position if lifted.position is None else lifted.position

    # ---- rendering

    def splats(self) -> Splats:
        """The Gaussians as they are now; differentiable."""
        return activated(self.gauss_params, self.config)

    def get_outputs(self, camera: Cameras) -> dict[str, Any]:
        """Render one camera.

        Returns:
            `rgb` [H, W, 3], `accumulation` [H, W, 1], `depth` [H, W, 1] (scene units; None in training unless
            asked for) and `background`. In training steps with a feature loss `features` [H, W, feature_dim + 1], the
            blended features and, last, the learned error (one map: slicing would copy it in every backward).
            Outside training: `feature_pca` [H, W, 3], `feature_error` [H, W, 1], `clusters` [H, W, 3] and, once a
            point was clicked in the viewer, `similarity` [H, W, 1]; of the Gaussians that the viewer's controls leave.
        """
        training = self.training
        camera_to_worlds = self.camera_optimizer.apply_to_camera(camera) if training else camera.camera_to_worlds
        gaussians = self._cropped_gaussians()
        splats = activated(gaussians, self.config)
        outputs: dict[str, Any]
        if len(splats) == 0:
            width, height = int(camera.width.item()), int(camera.height.item())
            outputs = self.get_empty_outputs(width, height, self.background_color.to(self.device))
            empty = outputs["accumulation"]
            return {**outputs, **({} if training else self.feature_viewer.outputs_of_nothing(empty))}
        view = pinhole_view(camera, camera_to_worlds, self._get_downscale_factor())
        self.last_size = (view.height, view.width)

        with_depth = self.config.output_depth_during_training or not training
        plain = self.config.sh_degree == 0
        render, alpha, self.info = rasterize(
            splats,
            torch.sigmoid(gaussians["features_dc"]) if plain else splats.sh,
            view,
            render_mode="RGB+ED" if with_depth else "RGB",
            sh_degree=None if plain else min(self.step // self.config.sh_degree_interval, self.config.sh_degree),
            absgrad=training and self.strategy.absgrad,
        )
        if training:
            self.strategy.step_pre_backward(
                self.gauss_params, self.optimizers, self.strategy_state, self.step, self.info
            )
        background = self._get_background_color()
        render, alpha = render.squeeze(0), alpha.squeeze(0)  # not by index: its backward fills an image with zeros
        rgb = composite(render[..., :3] if with_depth else render, alpha, background)
        cam_idx = (camera.metadata or {}).get("cam_idx")
        if self.config.use_bilateral_grid and training and cam_idx is not None:
            rgb = self._apply_bilateral_grid(rgb[None], cam_idx, *self.last_size).reshape(*self.last_size, 3)
        depth = None
        if with_depth:
            depth = torch.where(alpha > 0, render[..., 3:4], render[..., 3:4].detach().max())
        outputs = {
            "rgb": rgb,
            "depth": depth,
            "accumulation": alpha,
            "background": background if training else background.expand(*self.last_size, 3),
        }
        if not training:
            outputs.update(self.feature_viewer.outputs(splats, gaussians[SHOWN_CHANNELS], view))
        elif self.features_active:
            downscale = self._get_downscale_factor() * self.config.feature_downscale
            view = pinhole_view(camera, camera_to_worlds, downscale)
            outputs["features"] = self._render_features(gaussians, splats, view)
        return outputs

    @torch.no_grad()
    def render_features(self, camera: Cameras) -> Tensor:
        """The features and, last, the learned error as a camera sees them: [H, W, feature_dim + 1]."""
        camera = camera.to(self.device)
        gaussians = self._cropped_gaussians()
        view = pinhole_view(camera, camera.camera_to_worlds)
        return self._render_features(gaussians, activated(gaussians, self.config), view)

    def _cropped_gaussians(self) -> dict[str, Tensor]:
        gaussians = dict(self.gauss_params.items())
        if self.training:
            return gaussians
        gaussians = self.feature_viewer.prepared(gaussians)
        if self.crop_box is None:
            return gaussians
        inside = self.crop_box.within(gaussians["means"]).reshape(-1)
        return {name: values[inside] for name, values in gaussians.items()}

    def _render_features(self, gaussians: dict[str, Tensor], splats: Splats, view: PinholeView) -> Tensor:
        held, still = splats.detached(), replace(view, world_to_camera=view.world_to_camera.detach())
        features, errors = gaussians["features"], gaussians["feature_errors"]
        if self.config.couple_geometry:
            maps = [rasterize(splats, features, view)[0], rasterize(held, errors, still)[0]]
            return torch.cat([map.squeeze(0) for map in maps], dim=-1)
        return rasterize(held, torch.cat([features, errors], dim=1), still)[0].squeeze(0)
