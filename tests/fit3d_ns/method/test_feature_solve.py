"""Runs whose features are solved for at their end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fit3d_ns.common.errors import InputError
from fit3d_ns.features.loss import compare_features
from fit3d_ns.lifting.operator import patch_operator
from fit3d_ns.method.config import fit3d_features_fast
from fit3d_ns.method.export import export_run
from fit3d_ns.method.feature_solve import solved_features, training_views
from fit3d_ns.method.trainer import Fit3DTrainer, Fit3DTrainerConfig
from fit3d_ns.scene.gaussians import FeatureGaussians
from tests.fit3d_ns.method.runs import make_config, make_trainer, train, training_view
from tests.scenes import write_capture

STEPS = 30


@pytest.fixture(scope="module")
def solved(tiny_capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Fit3DTrainer:
    folder = tmp_path_factory.mktemp("solved")
    return train(make_config(tiny_capture, folder, steps=STEPS, feature_lift="solve"))


def cosine(trainer: Fit3DTrainer) -> float:
    pipeline = trainer.pipeline
    pipeline.eval()
    camera, batch = training_view(pipeline.datamanager, 0)
    with torch.no_grad():
        metrics, _ = pipeline.model.get_image_metrics_and_images(pipeline.model.get_outputs_for_camera(camera), batch)
    return metrics["feature_cosine"]


def resume_from(folder: Path) -> Any:
    def change(config: Fit3DTrainerConfig) -> None:
        config.load_dir = folder

    return change


def test_the_fast_preset_solves_and_the_solution_is_in_metrics_and_checkpoint(solved: Fit3DTrainer) -> None:
    assert fit3d_features_fast.config.pipeline.model.feature_lift == "solve"
    reached = cosine(solved)
    (checkpoint,) = solved.checkpoint_dir.glob("*.ckpt")
    state = torch.load(checkpoint, weights_only=True)["pipeline"]
    for name in ("features", "feature_errors"):
        saved = state[f"_model.gauss_params.{name}"]
        assert bool((saved != 0).any())
        assert torch.equal(saved, solved.pipeline.model.gauss_params[name].detach())
    assert bool((state["_model.position"] != 0).any())
    features = solved.pipeline.model.gauss_params["features"].data
    kept = features.clone()
    features.zero_()
    without = cosine(solved)
    features.copy_(kept)
    assert reached > without + 0.1


def test_solving_beats_as_many_gradient_steps(solved: Fit3DTrainer, tiny_capture: Path, tmp_path: Path) -> None:
    assert cosine(solved) > cosine(train(make_config(tiny_capture, tmp_path, steps=STEPS)))


def test_training_and_viewer_work_before_the_solve_with_features_at_zero(tiny_capture: Path, tmp_path: Path) -> None:
    trainer = make_trainer(make_config(tiny_capture, tmp_path, steps=3, feature_lift="solve"))
    model = trainer.pipeline.model
    model.eval()
    assert model.features_missing
    with torch.no_grad():
        outputs = model.get_outputs_for_camera(trainer.pipeline.datamanager.train_cameras[0:1])
    for name in ("feature_pca", "feature_error"):
        assert bool(outputs[name].isfinite().all())
    model.train()
    model.step, model.optimizers = 0, trainer.optimizers.optimizers
    camera, batch = trainer.pipeline.datamanager.next_train(0)
    assert not any("feature" in name for name in model.get_loss_dict(model(camera), batch))


def test_the_solve_sees_what_the_model_renders(solved: Fit3DTrainer) -> None:
    model, datamanager = solved.pipeline.model, solved.pipeline.datamanager
    model.eval()
    views = training_views(datamanager, model.camera_optimizer, model.device)
    camera, batch = training_view(datamanager, 0)
    with torch.no_grad():
        rendered = model.render_features(camera)
        decoded = compare_features(rendered, batch["features"].load(), None, model.decoder, "patch").decoded
        rows = patch_operator(model.splats(), views[:1]).apply(model.gauss_params["features"])
        torch.testing.assert_close(model.decoder(rows).reshape(decoded.shape), decoded, rtol=1e-3, atol=1e-3)


def test_learned_errors_are_high_where_the_features_are_wrong(solved: Fit3DTrainer) -> None:
    errors = solved.pipeline.model.gauss_params["feature_errors"].detach()
    assert 0 <= float(errors.min()) <= float(errors.max()) <= 2
    assert float(errors.median()) == pytest.approx(1 - cosine(solved), abs=0.15)


def test_a_run_killed_before_its_end_gets_its_features_when_it_is_resumed(tiny_capture: Path, tmp_path: Path) -> None:
    first = make_trainer(make_config(tiny_capture, tmp_path / "first", steps=8, feature_lift="solve"))
    first._after_train = lambda: first.save_checkpoint(7)  # type: ignore[method-assign]  # a kill, but a saved one
    first.train()
    assert first.pipeline.model.features_missing
    with pytest.raises(InputError, match="before its features were solved"):
        export_run(first.base_dir / "config.yml", tmp_path / "runs")
    change = resume_from(first.checkpoint_dir)
    second = train(make_config(tiny_capture, tmp_path / "second", 5, feature_lift="solve", change=change))
    assert not second.pipeline.model.features_missing
    directory = export_run(second.base_dir / "config.yml", tmp_path / "runs")
    assert bool((FeatureGaussians.load(directory).features != 0).any())


def test_masks_distortion_and_moved_cameras_are_taken_into_account(tmp_path: Path) -> None:
    capture = write_capture(tmp_path / "scene", distortion=(0.05, -0.02), masks=True)

    def with_poses(config: Fit3DTrainerConfig) -> None:
        config.pipeline.model.camera_optimizer.mode = "SO3xR3"
        config.optimizers["camera_opt"]["scheduler"] = None

    trainer = train(make_config(capture, tmp_path, steps=20, feature_lift="solve", change=with_poses))
    model, datamanager = trainer.pipeline.model, trainer.pipeline.datamanager
    view = training_views(datamanager, model.camera_optimizer, model.device)[0]
    assert view.mask is not None
    assert tuple(view.mask.shape) == (view.height, view.width) == tuple(datamanager.cached_train[0]["image"].shape[:2])
    camera = datamanager.train_cameras[0:1]
    assert not torch.equal(
        view.world_to_camera[:3, :3].T * torch.tensor([1.0, -1, -1]), camera.camera_to_worlds[0, :, :3]
    )
    assert bool((model.gauss_params["features"] != 0).any())


def test_solving_twice_gives_the_same_bits(solved: Fit3DTrainer) -> None:
    model, datamanager = solved.pipeline.model, solved.pipeline.datamanager
    views = training_views(datamanager, model.camera_optimizer, model.device)
    maps, basis = datamanager.train_features, datamanager.feature_basis
    splats, config = model.splats().detached(), model.config
    again = solved_features(splats, views, maps, config.feature_dim, basis, config.feature_view_dependence)
    assert again.position is not None
    assert torch.equal(model.position, again.position)
    assert torch.equal(model.gauss_params["features"], again.features)
    assert torch.equal(model.gauss_params["feature_errors"][:, 0], again.errors)


@pytest.mark.parametrize("feature_dim", [1, 200])
def test_any_number_of_channels_is_solved_for(feature_dim: int, tiny_capture: Path, tmp_path: Path) -> None:
    config = make_config(tiny_capture, tmp_path, steps=3, feature_lift="solve", feature_dim=feature_dim)
    features = train(config).pipeline.model.gauss_params["features"].detach()
    assert features.shape[1] == feature_dim
    assert bool(features.isfinite().all())
    assert bool((features != 0).any())


@pytest.mark.parametrize(
    ("settings", "option"),
    [
        ({"decoder": "conv3x3"}, "decoder conv3x3"),
        ({"feature_supervision": "pixel"}, "feature-supervision pixel"),
        ({"couple_geometry": True}, "couple-geometry True"),
    ],
)
def test_what_only_training_can_do_is_refused_with_its_remedy(
    settings: dict[str, Any],
    option: str,
    tiny_capture: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop:
        make_trainer(make_config(tiny_capture, tmp_path, steps=3, feature_lift="solve", **settings))
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert option in message
    assert "feature-lift train" in message
