"""From a trained run to `runs/<scene>/`, the artefact that fine-tuning reads."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.colormaps import apply_depth_colormap
from PIL import Image
from torch import Tensor

from fit3d_ns.common.console import logger
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.backbone import backbone_fingerprint, rule_of
from fit3d_ns.method.activation import activated
from fit3d_ns.method.cameras import world_to_camera
from fit3d_ns.method.captures import view_infos
from fit3d_ns.method.datamanager import Fit3DDataset
from fit3d_ns.method.model import Fit3DModel
from fit3d_ns.method.pipeline import Fit3DPipeline
from fit3d_ns.method.run_folder import last_checkpoint, scene_of
from fit3d_ns.method.runs import load_pipeline, read_config
from fit3d_ns.scene.description import BackboneInfo, SceneInfo, Split, ViewInfo
from fit3d_ns.scene.gaussians import FeatureGaussians
from fit3d_ns.scene.name import require_scene_name
from fit3d_ns.scene.place import require_export_place
from fit3d_ns.scene.splats import TENSORS
from fit3d_ns.scene.storage import FeatureStorage

PREVIEW_FILE = "previews.png"


def export_run(
    config_path: Path,
    output_dir: Path,
    previews: int = 4,
    feature_storage: FeatureStorage = "fp16",
    name: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Export one run to `output_dir/<scene>/`, atomically, and return that folder.

    Args:
        config_path: config.yml of a run of a fit3d method.
        output_dir: the folder of all scenes.
        previews: number of held-out views in previews.png.
        feature_storage: how the features are kept on disk.
        name: of the scene; None: the run's experiment.
        overwrite: whether an export of another content may be replaced.

    Raises:
        InputError: not a fit3d run, no checkpoint, images that changed on disk, or no place for the export.
    """
    config = read_config(config_path)
    checkpoint, step = last_checkpoint(config_path, config)
    scene = scene_of(config_path, config) if name is None else require_scene_name(name, "--name", "give another")
    directory = require_export_place(output_dir, scene)
    pipeline = load_pipeline(config, checkpoint)
    if pipeline.model.features_missing:
        raise InputError(
            f"{checkpoint} was saved before its features were solved for, at the end of training: resume the run with "
            f"--load-dir {checkpoint.parent}, or lift features with fit3d-lift --load-config {config_path}."
        )
    gaussians = feature_gaussians(pipeline, scene)
    # nerfstudio's default split leaves nothing for evaluation when there are few images.
    with_previews = previews > 0 and len(pipeline.datamanager.eval_dataset) > 0
    extra = {PREVIEW_FILE: _png(contact_sheet(pipeline, previews))} if with_previews else {}
    gaussians.stored_as(feature_storage).save(directory, extra_files=extra, overwrite=overwrite)
    logger.info(
        "Exported %s (step %d): %d Gaussians, %d channels, %d views -> %s",
        checkpoint.name,
        step,
        gaussians.num_gaussians,
        gaussians.scene.feature_dim,
        len(gaussians.scene.views),
        directory,
    )
    return directory


@torch.no_grad()
def feature_gaussians(pipeline: Fit3DPipeline, scene: str) -> FeatureGaussians:
    """The pipeline's scene as data, on the CPU."""
    model, datamanager = pipeline.model, pipeline.datamanager
    parameters = {name: values.detach().float().cpu() for name, values in model.gauss_params.items()}
    splats = activated(parameters, model.config)
    outputs = datamanager.train_dataparser_outputs
    root = Path(datamanager.get_datapath())
    root = (root if root.is_dir() else root.parent).absolute()
    identity = backbone_fingerprint(datamanager.config.backbone)
    backbone = BackboneInfo(**{name: identity[name] for name in BackboneInfo.__dataclass_fields__})
    position = model.position_term
    views = [
        *_views(model, datamanager.train_dataset, "train", root, identity),
        *_views(model, datamanager.eval_dataset, "eval", root, identity),
    ]
    return FeatureGaussians(
        **{name: getattr(splats, name) for name in TENSORS},
        features=parameters["features"],
        decoder={name: values.detach().float().cpu() for name, values in model.decoder.state_dict().items()},
        scene=SceneInfo(
            scene=scene,
            backbone=backbone,
            decoder=model.config.decoder,
            decoder_resolution=model.config.feature_supervision,
            num_gaussians=len(splats),
            feature_dim=model.decoder.feature_dim,
            channels=model.decoder.channels,
            units="arbitrary",
            transform=outputs.dataparser_transform.double().numpy()[:3, :4],
            scale=float(outputs.dataparser_scale),
            rasterize_mode=splats.rasterize_mode,
            images_root=str(root),
            views=tuple(views),
            feature_view_dependence="none" if position is None else "position",
        ),
        position=None if position is None else position.detach().float().cpu(),
    )


def _views(
    model: Fit3DModel, dataset: Fit3DDataset, split: Split, root: Path, identity: dict[str, Any]
) -> list[ViewInfo]:
    # The dataset's own cameras change when images are undistorted; the dataparser's describe the files.
    parsed = dataset._dataparser_outputs
    poses = [
        _pose(model, parsed.cameras[index : index + 1], index if split == "train" else None)
        for index in range(len(parsed.image_filenames))
    ]
    rule = rule_of(identity["input_rule"])
    return view_infos(parsed, poses, split, root, identity["patch_size"], identity["max_size"], rule)


def _pose(model: Fit3DModel, camera: Cameras, train_index: int | None) -> np.ndarray:
    """World-to-camera [4, 4]; of a training view with the camera optimiser's correction."""
    camera = camera.to(model.device)
    camera_to_world = camera.camera_to_worlds
    if train_index is not None:
        camera.metadata = {"cam_idx": train_index}
        camera_to_world = model.camera_optimizer.apply_to_camera(camera)
    return world_to_camera(camera_to_world)[0].double().cpu().numpy()


@torch.no_grad()
def contact_sheet(pipeline: Fit3DPipeline, count: int) -> Tensor:
    """Rows of photo | rgb | feature_pca | depth for `count` held-out views, spread evenly; [H, W, 3] in 0..1."""
    views = list(pipeline.datamanager.fixed_indices_eval_dataloader)
    chosen = sorted({round(i) for i in np.linspace(0, len(views) - 1, min(count, len(views)))})
    rows = []
    for camera, batch in (views[i] for i in chosen):
        outputs = pipeline.model.get_outputs_for_camera(camera)
        photo = pipeline.model.composite_with_background(
            pipeline.model.get_gt_img(batch["image"]), outputs["background"]
        )
        depth = apply_depth_colormap(outputs["depth"], outputs["accumulation"])
        rows.append(torch.cat([photo, outputs["rgb"], outputs["feature_pca"], depth], dim=1).cpu())
    width = max(row.shape[1] for row in rows)
    return torch.cat([torch.nn.functional.pad(row, (0, 0, 0, width - row.shape[1]), value=1.0) for row in rows])


def _png(image: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((image.clamp(0, 1) * 255).round().to(torch.uint8).numpy()).save(buffer, format="PNG")
    return buffer.getvalue()
