"""The methods that this package registers with nerfstudio: `fit3d-features`, `-fast` and `-paper`."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from nerfstudio.configs.base_config import LoggingConfig, MachineConfig, ViewerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.plugins.types import MethodSpecification

from fit3d_ns.features.backbone import BackboneConfig
from fit3d_ns.method import release_0_1
from fit3d_ns.method.datamanager import Fit3DDatamanagerConfig
from fit3d_ns.method.model import Fit3DModelConfig
from fit3d_ns.method.pipeline import Fit3DPipelineConfig
from fit3d_ns.method.trainer import Fit3DTrainerConfig
from fit3d_ns.method.training_lines import TrainingLinesConfig

# torch >= 2.6 loads checkpoints with weights_only=True, which refuses the numpy scalars that nerfstudio's
# schedulers keep. Naming these three harmless types mends resuming and viewing.
_SCALAR = np._core.multiarray.scalar  # type: ignore[attr-defined]
torch.serialization.add_safe_globals(
    # By the name that numpy 1 gave it, too, under which older checkpoints have it.
    [_SCALAR, (_SCALAR, "numpy.core.multiarray.scalar"), np.dtype, np.dtypes.Float64DType]
)

# nerfstudio imports this module with every command, before it reads a config.yml: one of release 0.1 loads, too.
release_0_1.register()

# Right after, nerfstudio asks for the stack once for every method that could be installed. For each frame of the import
# system Python then goes through all loaded modules, some five thousand, unless it knows whose file that is: a third
# of the time that any of nerfstudio's commands took to start.
for _name in ("importlib._bootstrap", "importlib._bootstrap_external"):
    inspect.modulesbyfile.setdefault(f"<frozen {_name}>", _name)  # type: ignore[attr-defined]


@dataclass
class FusedAdamOptimizerConfig(AdamOptimizerConfig):
    """Adam in one kernel per parameter: several times faster than torch's default on a CPU."""

    fused: bool = True
    """Use torch's fused implementation."""


def _adam(lr: float, lr_final: float | None = None, steps: int = 30_000, **schedule: Any) -> dict[str, Any]:
    scheduler = None
    if lr_final is not None:
        scheduler = ExponentialDecaySchedulerConfig(lr_final=lr_final, max_steps=steps, **schedule)
    return {"optimizer": FusedAdamOptimizerConfig(lr=lr, eps=1e-15), "scheduler": scheduler}


def _optimizers(
    steps: int, feature_lr: float, decoder_lr: float, feature_lr_final: float | None, decoder_lr_final: float | None
) -> dict[str, Any]:
    """splatfacto's learning rates over `steps` steps, and those of the feature head (None: constant)."""
    return {
        "means": _adam(1.6e-4, 1.6e-6, steps),
        "features_dc": _adam(0.0025),
        "features_rest": _adam(0.0025 / 20),
        "opacities": _adam(0.05),
        "scales": _adam(0.005),
        "quats": _adam(0.001),
        "features": _adam(feature_lr, feature_lr_final, steps),
        "feature_errors": _adam(0.01, 0.001, steps),
        "decoder": _adam(decoder_lr, decoder_lr_final, steps),
        "camera_opt": _adam(1e-4, 5e-7, steps, warmup_steps=min(1000, steps // 10), lr_pre_warmup=0.0),
        "bilateral_grid": _adam(2e-3, 1e-4, steps, warmup_steps=min(1000, steps // 10), lr_pre_warmup=0.0),
    }


def _method(
    name: str,
    description: str,
    steps: int,
    model: Fit3DModelConfig,
    optimizers: dict[str, Any],
    max_image_size: int | None = None,
    backbone: BackboneConfig | None = None,
) -> MethodSpecification:
    device: Literal["cuda", "cpu"] = "cuda" if torch.cuda.is_available() else "cpu"
    return MethodSpecification(
        config=Fit3DTrainerConfig(
            method_name=name,
            steps_per_eval_batch=0,
            steps_per_eval_image=500,
            steps_per_eval_all_images=steps,
            steps_per_save=min(2000, steps // 3),
            max_num_iterations=steps,
            mixed_precision=False,
            machine=MachineConfig(device_type=device),
            logging=LoggingConfig(local_writer=TrainingLinesConfig(enable=True)),
            pipeline=Fit3DPipelineConfig(
                datamanager=Fit3DDatamanagerConfig(
                    dataparser=NerfstudioDataParserConfig(load_3D_points=True),
                    cache_images_type="uint8",
                    max_image_size=max_image_size,
                    backbone=backbone or BackboneConfig(),
                ),
                model=model,
            ),
            optimizers=optimizers,
            viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
            vis="viewer",
        ),
        description=description,
    )


fit3d_features = _method(
    "fit3d-features",
    "Splatfacto with a feature head: lifts a 2D backbone's dense features into the Gaussians.",
    steps=30_000,
    # Features wait until densification has ended: the Gaussians are final then, and half the steps cost less.
    model=Fit3DModelConfig(feature_start_step=15_000),
    optimizers=_optimizers(30_000, feature_lr=0.01, feature_lr_final=0.001, decoder_lr=1e-4, decoder_lr_final=1e-5),
)

fit3d_features_fast = _method(
    "fit3d-features-fast",
    "fit3d-features in 3,000 steps: minutes on a CPU, for previews and small scenes.",
    steps=3_000,
    model=Fit3DModelConfig(
        warmup_length=300,
        resolution_schedule=800,
        sh_degree_interval=500,
        stop_split_at=2_000,
        stop_screen_size_at=0,
        max_gs_num=40_000,
        feature_lift="solve",
        # For those who choose feature-lift train:
        feature_start_step=2_600,
        feature_downscale=2,
    ),
    max_image_size=640,
    optimizers=_optimizers(3_000, feature_lr=0.02, feature_lr_final=0.002, decoder_lr=1e-4, decoder_lr_final=1e-5),
)

fit3d_features_paper = _method(
    "fit3d-features-paper",
    "FiT3D's published recipe (ECCV 2024): 3x3 convolution, L1 at every pixel; see docs/fidelity/stage1.md.",
    steps=30_000,
    model=Fit3DModelConfig(
        decoder="conv3x3",
        feature_loss="l1",
        feature_supervision="pixel",
        feature_init="zeros",
        masked_pixels="rendered",
        ssim_border="zeros",
        num_downscales=0,
        background_color="black",
        densification="3dgs",
        scene_extent="cameras",
        densify_grad_thresh=0.0002,
        use_absgrad=False,
        cull_alpha_thresh=0.005,
        cull_scale_thresh=0.1,
        stop_screen_size_at=0,
        max_gs_num=100_000_000,  # no bound
    ),
    # The authors' code trains features and decoder at 1/40 of the colour's learning rate, both constant.
    optimizers=_optimizers(
        30_000, feature_lr=0.0025 / 40, decoder_lr=0.0025 / 40, feature_lr_final=None, decoder_lr_final=None
    ),
    max_image_size=1600,
    backbone=BackboneConfig(input_rule="floor", max_size=None),
)
