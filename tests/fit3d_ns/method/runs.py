"""Training runs inside the test process."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras

from fit3d_ns.method import config as presets
from fit3d_ns.method.datamanager import Fit3DDatamanager
from fit3d_ns.method.trainer import Fit3DTrainer, Fit3DTrainerConfig

PRESETS = {
    "fit3d-features": presets.fit3d_features,
    "fit3d-features-fast": presets.fit3d_features_fast,
    "fit3d-features-paper": presets.fit3d_features_paper,
}


def make_config(
    data: Path,
    output: Path,
    steps: int,
    preset: str = "fit3d-features-fast",
    change: Callable[[Fit3DTrainerConfig], Any] | None = None,
    **model: Any,
) -> Fit3DTrainerConfig:
    """A preset for a tiny capture: schedules shortened to `steps`, a tiny random backbone, no viewer.

    `model` sets fields of the model configuration; `change` may edit the whole configuration.
    """
    config = copy.deepcopy(PRESETS[preset].config)
    assert isinstance(config, Fit3DTrainerConfig)
    config.data = data
    config.pipeline.datamanager.data = data
    config.pipeline.datamanager.backbone = dataclasses.replace(
        config.pipeline.datamanager.backbone, name="vit_tiny_patch16_224", weights="random"
    )
    config.output_dir = output
    config.experiment_name = "tiny"
    config.timestamp = "run"
    config.vis = "tensorboard"
    config.viewer.quit_on_train_completion = True
    config.max_num_iterations = steps
    config.steps_per_eval_image = config.steps_per_eval_all_images = 10_000
    # Gradient steps on features, which the presets but one have: the solve has its own tests.
    lift = {"feature_lift": "train", "feature_start_step": 0}
    shortened = {**lift, "num_downscales": 0, "warmup_length": 5, "refine_every": 10}
    for name, value in {**shortened, **model}.items():
        setattr(config.pipeline.model, name, value)
    if change is not None:
        change(config)
    return config


def make_trainer(config: Fit3DTrainerConfig) -> Fit3DTrainer:
    """What `ns-train` does up to the first step."""
    random.seed(42)
    np.random.seed(42)
    torch.manual_seed(42)
    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)
    assert isinstance(trainer, Fit3DTrainer)
    trainer.setup()
    return trainer


def train(config: Fit3DTrainerConfig) -> Fit3DTrainer:
    """What `ns-train` does."""
    trainer = make_trainer(config)
    trainer.train()
    return trainer


def training_view(datamanager: Fit3DDatamanager, index: int) -> tuple[Cameras, dict[str, Any]]:
    """A training view as evaluation gets held-out ones."""
    camera = datamanager.train_cameras[index : index + 1]
    return datamanager._with_features(camera, datamanager.cached_train[index], datamanager.train_features)
