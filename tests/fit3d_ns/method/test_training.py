"""The method trains on every kind of input that it says it takes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig

from fit3d_ns.features.cache import FeatureMap
from fit3d_ns.method.export import export_run
from fit3d_ns.method.trainer import Fit3DTrainer, Fit3DTrainerConfig
from fit3d_ns.scene.gaussians import FeatureGaussians
from tests.fit3d_ns.method.colmap_model import write_colmap_model
from tests.fit3d_ns.method.runs import make_config, make_trainer, train, training_view
from tests.scenes import write_capture


def _eval_metrics(trainer: Any) -> dict[str, float]:
    metrics: dict[str, float] = trainer.pipeline.get_average_eval_image_metrics()
    return metrics


def _train_view_metrics(trainer: Fit3DTrainer) -> dict[str, float]:
    """Mean metrics over three training views, rendered as evaluation renders."""
    pipeline = trainer.pipeline
    pipeline.eval()
    rows = []
    for index in (0, 3, 6):
        camera, batch = training_view(pipeline.datamanager, index)
        metrics, images = pipeline.model.get_image_metrics_and_images(
            pipeline.model.get_outputs_for_camera(camera), batch
        )
        assert images["features"].shape == images["img"].shape
        rows.append(metrics)
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def test_training_fits_colour_and_features(tiny_capture: Path, tmp_path: Path) -> None:
    trainer = make_trainer(make_config(tiny_capture, tmp_path, steps=120))
    before = _train_view_metrics(trainer)
    trainer.train()
    after = _train_view_metrics(trainer)

    assert after["psnr"] > before["psnr"] + 3
    assert after["ssim"] > before["ssim"]
    assert after["feature_l1"] < 0.9 * before["feature_l1"]
    assert after["feature_cosine"] > before["feature_cosine"]
    assert "lpips" not in after  # its weights are not on this machine, and nothing was made up for them
    assert _eval_metrics(trainer).keys() >= after.keys()


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"strategy": "mcmc"}, id="mcmc"),
        pytest.param({"decoder": "conv3x3", "feature_loss": "l1"}, id="conv3x3"),
        pytest.param({"feature_supervision": "pixel", "couple_geometry": True}, id="pixel, coupled"),
        pytest.param({"random_init": True, "num_random": 800, "random_scale": 4.0}, id="random start"),
        pytest.param({"sh_degree": 0}, id="sh degree 0"),
        pytest.param({"rasterize_mode": "antialiased"}, id="antialiased"),
        pytest.param({"feature_dim": 1}, id="one channel"),
        pytest.param({"feature_dim": 200}, id="more channels than the backbone"),
        pytest.param({"num_downscales": 1, "resolution_schedule": 10, "feature_downscale": 2}, id="low resolution"),
        pytest.param({"use_bilateral_grid": True}, id="bilateral grid"),
        pytest.param({"use_scale_regularization": True, "output_depth_during_training": True}, id="regularised"),
    ],
)
def test_every_option_trains(settings: dict[str, Any], tiny_capture: Path, tmp_path: Path) -> None:
    trainer = make_trainer(make_config(tiny_capture, tmp_path, steps=25, **settings))
    trainer.train()
    model = trainer.pipeline.model
    count = model.num_points
    assert {len(values) for values in model.gauss_params.values()} == {count}
    for name, values in model.state_dict().items():
        assert bool(values.float().isfinite().all()), f"{name} is not finite"
    assert bool((model.gauss_params["features"] != 0).any())


def test_the_camera_optimiser_moves_cameras(tiny_capture: Path, tmp_path: Path) -> None:
    def with_poses(config: Fit3DTrainerConfig) -> None:
        config.pipeline.model.camera_optimizer.mode = "SO3xR3"
        config.optimizers["camera_opt"]["scheduler"] = None

    trainer = train(make_config(tiny_capture, tmp_path, steps=20, change=with_poses))
    adjustment = trainer.pipeline.model.camera_optimizer.pose_adjustment
    assert bool((adjustment.detach().abs().sum(1) > 0).all())


def test_densification_carries_the_features_along(tiny_capture: Path, tmp_path: Path) -> None:
    trainer = make_trainer(make_config(tiny_capture, tmp_path, steps=60, densify_grad_thresh=1e-5))
    start = trainer.pipeline.model.num_points
    trainer.train()
    model = trainer.pipeline.model
    assert model.num_points > start
    for name, optimizer in model.optimizers.items():
        if name in model.gauss_params:
            assert optimizer.param_groups[0]["params"][0] is model.gauss_params[name]


def test_masked_pixels_are_in_neither_loss(tmp_path: Path) -> None:
    def loss_of(folder: Path, paint: bool) -> dict[str, float]:
        config = make_config(write_capture(folder / "scene", masks=True), folder, steps=1)
        trainer = make_trainer(config)
        model, datamanager = trainer.pipeline.model, trainer.pipeline.datamanager
        model.train()
        model.step = 0
        model.optimizers = trainer.optimizers.optimizers
        model.config.background_color = "black"
        camera, batch = datamanager.next_train(0)
        if paint:  # photo and features change, but only where the mask says no
            third = batch["image"].shape[1] // 3
            batch["image"] = batch["image"].clone()
            batch["image"][:, :third] = 255
            features = batch["features"].load().clone()
            features[:, : features.shape[1] // 3 - 1] = 100
            batch["features"] = FeatureMap([features], 0)  # type: ignore[arg-type]
        losses = model.get_loss_dict(model(camera), batch)
        return {name: float(value) for name, value in losses.items()}

    assert loss_of(tmp_path / "a", paint=False) == loss_of(tmp_path / "b", paint=True)


def test_a_distorted_capture_is_undistorted_before_its_features_are_taken(tmp_path: Path) -> None:
    capture = write_capture(tmp_path / "scene", distortion=(0.1, -0.05), points=None)
    trainer = train(make_config(capture, tmp_path, steps=15, num_random=500))
    datamanager = trainer.pipeline.datamanager
    image = datamanager.cached_train[0]["image"]
    height, width = image.shape[:2]
    assert (width, height) != (112, 84)
    assert datamanager.train_features[0].shape[:2] == (round(height / 16), round(width / 16))


def test_three_views_train_and_export_though_none_is_left_to_evaluate(tmp_path: Path) -> None:
    trainer = train(make_config(write_capture(tmp_path / "scene", views=3), tmp_path, steps=3))
    assert len(trainer.pipeline.datamanager.eval_dataset) == 0
    directory = export_run(trainer.base_dir / "config.yml", tmp_path / "runs")
    assert {view.split for view in FeatureGaussians.load(directory).scene.views} == {"train"}


def test_features_start_where_back_projection_puts_them(tiny_capture: Path, tmp_path: Path) -> None:
    metrics = {}
    for start in ("zeros", "back-projection"):
        config = make_config(tiny_capture, tmp_path / start, steps=1, feature_init=start)
        config.optimizers["features"]["optimizer"].lr = 0.0
        config.optimizers["features"]["scheduler"] = None
        metrics[start] = _train_view_metrics(train(config))["feature_l1"]
    assert metrics["back-projection"] < 0.9 * metrics["zeros"]


def test_densification_stops_at_the_bound(tiny_capture: Path, tmp_path: Path) -> None:
    config = make_config(tiny_capture, tmp_path, steps=60, densify_grad_thresh=1e-6, max_gs_num=1600)
    model = train(config).pipeline.model
    assert 1500 < model.num_points <= 1600


@pytest.mark.parametrize("distortion", [(0.0, 0.0), (0.05, -0.02)])
def test_large_photos_are_shrunk_but_exported_as_they_are(distortion: tuple[float, float], tmp_path: Path) -> None:
    def small(config: Fit3DTrainerConfig) -> None:
        config.pipeline.datamanager.max_image_size = 75

    capture = write_capture(tmp_path / "scene", views=5, masks=True, distortion=distortion)
    trainer = train(make_config(capture, tmp_path, steps=3, change=small))
    batch = trainer.pipeline.datamanager.cached_train[0]
    height, width = batch["image"].shape[:2]
    assert 60 < width <= 75
    assert batch["mask"].shape[:2] == (height, width)
    camera = trainer.pipeline.datamanager.train_dataset.cameras[0]
    assert (int(camera.height), int(camera.width)) == (height, width)
    scene = FeatureGaussians.load(export_run(trainer.base_dir / "config.yml", tmp_path / "runs")).scene
    assert {(view.width, view.height) for view in scene.views} == {(112, 84)}
    assert scene.views[0].K[0, 2] == pytest.approx(56)


def test_the_blender_dataparser_works(tmp_path: Path) -> None:
    capture = write_capture(tmp_path / "scene", views=6)
    meta = json.loads((capture / "transforms.json").read_text())
    frames = [
        {"file_path": f"./{Path(f['file_path']).with_suffix('')}", "transform_matrix": f["transform_matrix"]}
        for f in meta["frames"]
    ]
    for split in ("train", "val", "test"):
        (capture / f"transforms_{split}.json").write_text(json.dumps({"camera_angle_x": 1.2, "frames": frames}))
    (capture / "transforms.json").unlink()

    def blender(config: Fit3DTrainerConfig) -> None:
        config.pipeline.datamanager.dataparser = BlenderDataParserConfig(data=capture)

    trainer = train(make_config(capture, tmp_path, steps=10, change=blender, num_random=500))
    assert _eval_metrics(trainer)["feature_cosine"] <= 1


def test_the_colmap_dataparser_works(tmp_path: Path) -> None:
    capture = write_capture(tmp_path / "scene")
    write_colmap_model(capture)
    (capture / "transforms.json").unlink()

    def colmap(config: Fit3DTrainerConfig) -> None:
        config.pipeline.datamanager.dataparser = ColmapDataParserConfig(
            data=capture, colmap_path=Path("sparse/0"), downscale_factor=1
        )

    trainer = train(make_config(capture, tmp_path, steps=10, change=colmap))
    assert trainer.pipeline.model.num_points == 1500
    assert _eval_metrics(trainer)["psnr"] > 5


OPTIONS: dict[str, list[Any]] = {
    "couple_geometry": [False, True],
    "decoder": ["linear", "conv3x3"],
    "feature_supervision": ["patch", "pixel"],
    "masked_pixels": ["black", "rendered"],
}
"""Tried in all combinations."""
MORE_OPTIONS: dict[str, list[Any]] = {
    "feature_loss": ["l1", "cosine+l1"],
    "feature_downscale": [1, 1, 2],
    "rasterize_mode": ["classic", "antialiased", "antialiased", "classic", "classic"],
}
"""Taken in turn."""


def test_features_move_gaussians_only_if_coupled_and_the_learned_error_never_moves_anything(tmp_path: Path) -> None:
    def with_poses(config: Fit3DTrainerConfig) -> None:
        config.pipeline.model.camera_optimizer.mode = "SO3xR3"

    capture = write_capture(tmp_path / "scene", views=3, masks=True)
    trainer = make_trainer(make_config(capture, tmp_path, steps=1, change=with_poses))
    model = trainer.pipeline.model
    model.train()
    model.step_cb(trainer.optimizers, step=0)
    camera, batch = trainer.pipeline.datamanager.next_train(0)
    movable = ["gauss_params." + name for name in ("means", "scales", "quats", "opacities")]
    movable += ["camera_optimizer.pose_adjustment"]
    for turn, values in enumerate(itertools.product(*OPTIONS.values())):
        options = dict(zip(OPTIONS, values, strict=True))
        options |= {name: choices[turn % len(choices)] for name, choices in MORE_OPTIONS.items()}
        for name, value in options.items():
            setattr(model.config, name, value)
        model._allocate_feature_space(trainer.pipeline.datamanager.train_features.channels)
        with torch.no_grad():
            model.gauss_params["features"].normal_()
            model.gauss_params["feature_errors"].normal_()
        losses = model.get_loss_dict(model(camera), batch)
        names, parameters = zip(*model.named_parameters(), strict=True)
        for loss, reached in (
            ("feature_loss", {"gauss_params.features", *(movable if options["couple_geometry"] else [])}),
            ("feature_error_loss", {"gauss_params.feature_errors"}),
        ):
            gradients = torch.autograd.grad(losses[loss], parameters, retain_graph=True, allow_unused=True)
            found = {name for name, g in zip(names, gradients, strict=True) if g is not None and bool(g.any())}
            assert {name for name in found if not name.startswith("decoder.")} == reached, (loss, options)
            assert loss == "feature_loss" or not any(name.startswith("decoder.") for name in found), options
