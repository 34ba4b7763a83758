"""A run of a fit3d method as the scene that `fit3d_ns.judgement` looks at."""

from __future__ import annotations

import os
from pathlib import Path

from fit3d_ns.common.errors import InputError
from fit3d_ns.judgement.scene import JudgedScene
from fit3d_ns.method.feature_solve import training_views
from fit3d_ns.method.run_folder import last_checkpoint
from fit3d_ns.method.runs import load_pipeline, read_config


def scene_of_run(config_path: Path) -> JudgedScene:
    """The last checkpoint of a run, with the photos and feature maps that it was trained on.

    Raises:
        InputError: not a fit3d run, no checkpoint or none with features, or photos that are not there.
    """
    config = read_config(config_path)
    checkpoint, _ = last_checkpoint(config_path, config)
    pipeline = load_pipeline(config, checkpoint)
    model, datamanager = pipeline.model, pipeline.datamanager
    if model.features_missing:
        raise InputError(
            f"{checkpoint} was saved before its features were solved for, at the end of training: resume the run with "
            f"--load-dir {checkpoint.parent}."
        )
    maps = datamanager.train_features
    root = Path(datamanager.get_datapath())
    root = root if root.is_dir() else root.parent
    return JudgedScene(
        name=config.experiment_name or config_path.parent.name,
        splats=model.splats().detached(),
        features=model.gauss_params["features"].detach(),
        decoder=model.decoder.requires_grad_(False),
        position=None if model.position_term is None else model.position_term.detach(),
        views=training_views(datamanager, model.camera_optimizer, model.device, maps),
        maps=maps,
        photos=datamanager.train_photos,
        names=[os.path.relpath(path, root) for path in datamanager.train_dataset.image_filenames],
    )
