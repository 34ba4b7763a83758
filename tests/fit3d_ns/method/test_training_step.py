"""What the training step does in fewer operations is what nerfstudio does."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager
from nerfstudio.models.splatfacto import SplatfactoModel

from fit3d_ns.features.cache import FeatureMaps
from fit3d_ns.method.trainer import Fit3DTrainer
from tests.fit3d_ns.method.runs import make_config, make_trainer
from tests.scenes import write_capture


def ready_trainer(data: Path, output: Path, step: int = 0, **model: Any) -> Fit3DTrainer:
    """A trainer whose model can take training step `step`."""
    trainer = make_trainer(make_config(data, output, steps=5, **model))
    trainer.pipeline.model.step_cb(trainer.optimizers, step=step)
    trainer.pipeline.train()
    return trainer


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"ssim_lambda": 0.2}, id="plain"),
        pytest.param({"ssim_lambda": 0.7, "num_downscales": 1}, id="low resolution"),
        pytest.param({"use_scale_regularization": True, "max_gauss_ratio": 1.0}, id="regularised"),
        pytest.param({"use_bilateral_grid": True}, id="bilateral grid"),
        pytest.param({"output_depth_during_training": True}, id="depth"),
    ],
)
def test_losses_and_their_gradients_are_splatfactos(masks: bool, settings: dict[str, Any], tmp_path: Path) -> None:
    capture = write_capture(tmp_path / "scene", masks=masks)
    trainer = ready_trainer(capture, tmp_path, feature_lift="solve", **settings)
    model = trainer.pipeline.model
    camera, batch = trainer.pipeline.datamanager.next_train(0)
    with torch.no_grad():
        model.scales[:, 0] += torch.rand(model.num_points)  # no longer round, which the regulariser sees

    outputs = model(camera)
    gradients = []
    for losses in (
        model.get_loss_dict(outputs, batch),
        SplatfactoModel.get_loss_dict(model, outputs, batch),
    ):
        loss = torch.stack(list(losses.values())).sum()
        wanted = [outputs["rgb"], *([model.scales] if "use_scale_regularization" in settings else [])]
        gradients.append((losses, torch.autograd.grad(loss, wanted, retain_graph=True)))
    (ours, our_gradients), (theirs, their_gradients) = gradients
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-7)
    for mine, expected in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("masks", [False, True])
def test_psnr_is_of_the_whole_view(masks: bool, tmp_path: Path) -> None:
    trainer = ready_trainer(write_capture(tmp_path / "scene", masks=masks), tmp_path, feature_lift="solve")
    model = trainer.pipeline.model
    camera, batch = trainer.pipeline.datamanager.next_train(0)
    outputs = model(camera)
    error = (outputs["rgb"] - batch["image"][..., :3].float() / 255).square().mean()
    psnr = model.get_metrics_dict(outputs, batch)["psnr"]
    assert float(psnr) == pytest.approx(float(-10 * torch.log10(error)), abs=1e-4)


def test_views_come_in_nerfstudios_order_with_nerfstudios_cameras(tiny_capture: Path, tmp_path: Path) -> None:
    datamanager = make_trainer(make_config(tiny_capture, tmp_path, steps=1)).pipeline.datamanager
    count = len(datamanager.train_dataset)
    ours, theirs = datamanager, copy.copy(datamanager)
    theirs.train_unseen_cameras = list(ours.train_unseen_cameras)
    theirs.random_generator = copy.deepcopy(ours.random_generator)
    for step in range(2 * count + 1):
        camera, batch = ours.next_train(step)
        expected_camera, expected = FullImageDatamanager.next_train(theirs, step)
        assert batch["image_idx"] == expected["image_idx"]
        assert camera.metadata == expected_camera.metadata
        assert torch.equal(batch["image"], expected["image"])
        for name in ("camera_to_worlds", "fx", "fy", "cx", "cy", "width", "height", "camera_type"):
            assert torch.equal(getattr(camera, name), getattr(expected_camera, name))


def test_a_change_to_a_batch_does_not_reach_the_next_one(tiny_capture: Path, tmp_path: Path) -> None:
    datamanager = make_trainer(make_config(tiny_capture, tmp_path, steps=1)).pipeline.datamanager
    datamanager.train_unseen_cameras = [0, 0, 0]
    _, first = datamanager.next_train(0)
    image = first["image"]
    first["image"], first["more"] = torch.zeros(1), 1
    _, second = datamanager.next_train(1)
    assert torch.equal(second["image"], image)
    assert "more" not in second


def test_colour_alone_reads_no_feature_maps(
    tiny_capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = ready_trainer(tiny_capture, tmp_path, feature_lift="solve")
    read: list[int] = []
    plain = FeatureMaps.__getitem__

    def counted(maps: FeatureMaps, index: Any) -> Any:
        read.append(index)
        return plain(maps, index)

    monkeypatch.setattr(FeatureMaps, "__getitem__", counted)
    trainer.train_iteration(0)
    assert read == []
    _, batch = trainer.pipeline.datamanager.next_train(1)
    loaded = batch["features"].load()
    assert read == [batch["image_idx"]]
    assert torch.equal(loaded, trainer.pipeline.datamanager.train_features[batch["image_idx"]])


@pytest.mark.parametrize("masks", [False, True])
def test_the_step_of_the_pipeline_gives_the_losses_and_metrics_of_the_model(masks: bool, tmp_path: Path) -> None:
    """One comparison with the photo serves both; asked one by one, the model makes its own."""
    trainer = ready_trainer(write_capture(tmp_path / "scene", masks=masks), tmp_path)
    pipeline = trainer.pipeline
    pipeline.datamanager.train_unseen_cameras = [2, 2]
    outputs, losses, metrics = pipeline.get_train_loss_dict(0)
    _, batch = pipeline.datamanager.next_train(1)
    for shared, own in (
        (losses, pipeline.model.get_loss_dict(outputs, batch)),
        (metrics, pipeline.model.get_metrics_dict(outputs, batch)),
    ):
        assert shared.keys() == own.keys()
        for name, value in own.items():
            assert float(shared[name]) == float(value)


def test_rendering_leaves_no_trace_in_what_it_returns(tiny_capture: Path, tmp_path: Path) -> None:
    trainer = ready_trainer(tiny_capture, tmp_path)
    camera, batch = trainer.pipeline.datamanager.next_train(0)
    outputs = trainer.pipeline.model(camera)
    names, keys = set(outputs), set(batch)
    trainer.pipeline.model.get_metrics_dict(outputs, batch)
    trainer.pipeline.model.get_loss_dict(outputs, batch)
    assert set(outputs) == names
    assert set(batch) == keys


def test_clearing_gradients_follows_densification(tiny_capture: Path, tmp_path: Path) -> None:
    config = make_config(tiny_capture, tmp_path, steps=30, feature_lift="solve", densify_grad_thresh=1e-5)
    trainer = make_trainer(config)
    trainer.train()
    model = trainer.pipeline.model
    assert model.num_points > 1500
    model.means.grad = torch.ones_like(model.means)
    trainer.optimizers.zero_grad_some(["means"])
    assert model.means.grad is None
