"""The training photos behind the scene: where a page begins, maps of theirs, and other backbones lifted from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizer
from torch import Tensor

from fit3d_ns.common.errors import InputError
from fit3d_ns.features.backbone import DEFAULT_NAME, BackboneConfig
from fit3d_ns.features.position import ViewDependence, position_map
from fit3d_ns.features.weights import tuned_layer, weights_folder
from fit3d_ns.lifting.maps import LiftedFeatures
from fit3d_ns.method.datamanager import Fit3DDatamanager
from fit3d_ns.method.feature_solve import solved_features, training_views
from fit3d_ns.method.viewer.control import StartingView
from fit3d_ns.scene.splats import Splats


class TrainingPhotos:
    """The training views of a run.

    Args:
        datamanager: of the run.
        camera_optimizer: that corrects their poses.
    """

    def __init__(self, datamanager: Fit3DDatamanager, camera_optimizer: CameraOptimizer) -> None:
        self._datamanager, self._camera_optimizer = datamanager, camera_optimizer

    def start(self) -> StartingView:
        """The view of the first training photo."""
        camera = self._datamanager.train_dataset.cameras[0]
        fov = 2 * torch.atan(camera.height / 2 / camera.fy)
        return StartingView(camera.camera_to_worlds.detach().cpu(), float(fov))

    @property
    def are_read(self) -> bool:
        """Whether their maps are at hand."""
        return "train_features" in vars(self._datamanager)

    def read(self) -> None:
        """Compute their maps, or find them in the cache."""
        _ = self._datamanager.train_features

    def nearest_map(self, world_to_camera: Tensor, position: Tensor | None) -> Tensor:
        """The backbone's map [h, w, C] of the photo that was taken from nearest to a camera.

        Near is who stands near, in units of the photos' spread, and looks the same way.

        Args:
            world_to_camera: [4, 4], OpenCV axes.
            position: the position term, which is taken off; None: there is none.
        """
        poses = self._datamanager.train_dataset.cameras.camera_to_worlds.to(world_to_camera)
        centers, axes = poses[:, :, 3], -poses[:, :, 2]
        rotation = world_to_camera[:3, :3]
        offsets = (centers + rotation.T @ world_to_camera[:3, 3]).norm(dim=-1)
        spread = (centers - centers.mean(0)).norm(dim=-1).mean().clamp_min(1e-6)
        index = int((offsets / spread - axes @ rotation[2]).argmin())
        values = self._datamanager.train_features[index].to(world_to_camera)
        if position is not None:
            values = values - position_map(position, (values.shape[0], values.shape[1])).to(values)
        return values

    def lift(self, splats: Splats, weights: str, feature_dim: int, dependence: ViewDependence) -> LiftedFeatures:
        """The features of another backbone of the same photos, lifted into Gaussians.

        Raises:
            InputError: no such backbone.
        """
        backbone = compared_backbone(weights, self._datamanager.config.backbone)
        maps = self._datamanager.train_features_of(backbone)
        views = training_views(self._datamanager, self._camera_optimizer, splats.means.device, maps)
        return solved_features(splats, views, maps, feature_dim, view_dependence=dependence)


def compared_backbone(weights: str, trained: BackboneConfig) -> BackboneConfig:
    """The backbone that `weights` names: a folder or a file, of the layer that was fine-tuned, or that of the run.

    Raises:
        InputError: no such file, or a damaged fit3d.json.
    """
    path = Path(weights.removeprefix("local-dir:")).expanduser()
    if not path.exists():
        raise InputError(
            f"compare-backbone: there is no file or folder {weights!r}; give one that fit3d-finetune wrote."
        )
    if weights_folder(weights) is None:
        return replace(trained, weights=weights)
    layer = tuned_layer(weights)
    return replace(trained, name=DEFAULT_NAME, weights=weights, layer=trained.layer if layer is None else layer)
