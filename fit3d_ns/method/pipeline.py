"""The pipeline: nerfstudio's, with the scene's feature basis handed to the model and errors said plainly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils import profiler
from torch import Tensor

from fit3d_ns.common.errors import exits_on_input_error
from fit3d_ns.common.third_parties import quiet_third_parties
from fit3d_ns.method.cameras import camera_extent
from fit3d_ns.method.datamanager import Fit3DDatamanager
from fit3d_ns.method.model import Fit3DModel
from fit3d_ns.method.viewer.panel import FeaturePanel
from fit3d_ns.method.viewer.photos import TrainingPhotos


@dataclass
class Fit3DPipelineConfig(VanillaPipelineConfig):
    """Configuration of `Fit3DPipeline`."""

    _target: type = field(default_factory=lambda: Fit3DPipeline)


class Fit3DPipeline(VanillaPipeline):
    """A `VanillaPipeline` for `Fit3DDatamanager` and `Fit3DModel`."""

    config: Fit3DPipelineConfig
    datamanager: Fit3DDatamanager
    model: Fit3DModel

    @exits_on_input_error
    def __init__(
        self,
        config: Fit3DPipelineConfig,
        device: str,
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        grad_scaler: Any = None,
    ) -> None:
        quiet_third_parties()
        super().__init__(config, device, test_mode, world_size, local_rank, grad_scaler)
        if self.datamanager.feature_basis is not None:
            self.model.set_feature_space(self.datamanager.feature_basis)
        if config.model.scene_extent == "cameras":
            self.model.set_extent(camera_extent(self.datamanager.train_dataset.cameras.camera_to_worlds))

        self.model.feature_viewer.use_photos(TrainingPhotos(self.datamanager, self.model.camera_optimizer))

    @property
    def Features(self) -> FeaturePanel:  # noqa: N802
        """The viewer's panel: nerfstudio calls its folder as the shortest chain of attributes that leads there."""
        return self.model.feature_viewer.panel

    @profiler.time_function
    def get_train_loss_dict(self, step: int) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """nerfstudio's training step, where losses and metrics share one comparison with the photo."""
        camera, batch = self.datamanager.next_train(step)
        outputs = self._model(camera)
        compared = self.model.compare_with_photo(outputs, batch)
        metrics = self.model.metrics(compared)
        return outputs, self.model.losses(outputs, batch, compared), metrics

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool | None = None) -> None:  # type: ignore[override]
        """Load a checkpoint strictly.

        nerfstudio retries with strict=False when keys do not match, which would leave parameters at their
        random start without a word.
        """
        super().load_state_dict(state_dict, strict=True if strict is None else strict)
