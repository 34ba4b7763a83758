"""What the viewer and ns-render get from the model."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.viewer.utils import parse_object
from nerfstudio.viewer.viewer_elements import ViewerButton, ViewerControl

from fit3d_ns.features.pca import ColorProjection
from fit3d_ns.method.cameras import world_to_camera
from fit3d_ns.method.model import Fit3DModel
from fit3d_ns.method.viewer.control import look_along
from tests.fit3d_ns.method.runs import make_config, train


@pytest.fixture(scope="module", params=["linear", "conv3x3"])
def model(request: pytest.FixtureRequest, tiny_capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Fit3DModel:
    folder = tmp_path_factory.mktemp("views")
    trainer = train(make_config(tiny_capture, folder, steps=30, decoder=request.param))
    model = trainer.pipeline.model.eval()
    model.test_camera = trainer.pipeline.datamanager.train_cameras[2:3]
    model.keep_alive = trainer
    return model


def _camera(model: Fit3DModel) -> Cameras:
    camera: Cameras = model.test_camera
    return camera


def test_feature_pca_is_the_projection_of_the_decoded_rendering(model: Fit3DModel) -> None:
    outputs = model.get_outputs_for_camera(_camera(model))
    rendered = model.render_features(_camera(model))
    with torch.no_grad():
        decoded = model.decoder(rendered[..., :-1])
    expected = ColorProjection(model.color_matrix, model.color_offset)(decoded)
    torch.testing.assert_close(outputs["feature_pca"], expected, atol=2e-4, rtol=0)
    torch.testing.assert_close(outputs["feature_error"], rendered[..., -1:].clamp(0, 2))


def test_free_cameras_get_pictures_only(model: Fit3DModel) -> None:
    outputs = model.get_outputs_for_camera(_camera(model))
    height, width = outputs["rgb"].shape[:2]
    shapes = {name: tuple(values.shape) for name, values in outputs.items()}
    assert shapes == {
        "rgb": (height, width, 3),
        "depth": (height, width, 1),
        "accumulation": (height, width, 1),
        "background": (height, width, 3),
        "feature_pca": (height, width, 3),
        "feature_error": (height, width, 1),
        "clusters": (height, width, 3),
    }


def test_colours_do_not_depend_on_what_else_is_in_the_picture(model: Fit3DModel) -> None:
    camera = _camera(model)
    whole = model.get_outputs_for_camera(camera)["feature_pca"]
    half = copy.deepcopy(camera)
    half.width //= 2
    left = model.get_outputs_for_camera(half)["feature_pca"]
    width = left.shape[1] - 1  # a convolution sees one pixel further
    # Not zero: the rasteriser's approximation of Gaussians outside the picture depends on the field of view.
    difference = (left[:, :width] - whole[:, :width]).abs()
    assert float(difference.mean()) < 1e-2
    assert float(difference.max()) < 0.1


def test_a_picked_point_is_most_similar_to_itself(model: Fit3DModel) -> None:
    camera = _camera(model)
    viewmat = world_to_camera(camera.camera_to_worlds)[0]
    K = camera.get_intrinsics_matrices()[0]
    row, column = 50, 30
    pixel = torch.tensor([column + 0.5, row + 0.5, 1.0])
    direction = viewmat[:3, :3].T @ (torch.linalg.inv(K) @ pixel)
    model.feature_viewer.pick(camera.camera_to_worlds[0, :, 3], direction)
    similarity = model.get_outputs_for_camera(camera)["similarity"]
    assert float(similarity[row, column]) > 0.9
    assert float(similarity[row, column]) > float(similarity.quantile(0.5))
    model.feature_viewer.clear_query()
    assert "similarity" not in model.get_outputs_for_camera(camera)


def test_refitting_changes_the_colours_for_good(model: Fit3DModel) -> None:
    before = model.get_outputs_for_camera(_camera(model))["feature_pca"]
    matrix, offset = model.color_matrix.clone(), model.color_offset.clone()
    model.feature_viewer.refit()
    after = model.get_outputs_for_camera(_camera(model))["feature_pca"]
    assert float((after - before).abs().mean()) > 1e-3
    assert "color_matrix" in model.state_dict()
    model.set_color_projection(ColorProjection(matrix, offset))


def test_the_viewer_finds_the_buttons(model: Fit3DModel) -> None:
    names = [element.name for _, element in parse_object(model, ViewerButton, "Custom Elements")]
    assert names == [
        *("Compare: lift this backbone", "Refit colours", "Similarity: pick a point", "Similarity: clear"),
        "Isolate: export as .ply",
    ]
    assert len(parse_object(model, ViewerControl, "Custom Elements")) == 1


def test_a_crop_box_without_gaussians_shows_the_background(model: Fit3DModel) -> None:
    far = OrientedBox.from_params(pos=(1e3, 1e3, 1e3), rpy=(0.0, 0.0, 0.0), scale=(1.0, 1.0, 1.0))
    outputs = model.get_outputs_for_camera(_camera(model), obb_box=far)
    assert outputs.keys() >= {"rgb", "depth", "accumulation", "feature_pca", "feature_error"}
    assert float(outputs["accumulation"].max()) == 0
    model.set_crop(None)


def test_look_along_puts_the_target_in_the_middle() -> None:
    origin, direction = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.3, 0.8, -0.2])
    viewmat = look_along(origin, direction)
    target = viewmat[:3, :3] @ (origin + 2 * direction) + viewmat[:3, 3]
    torch.testing.assert_close(target, torch.tensor([0, 0, 2 * float(direction.norm())]), atol=1e-5, rtol=0)
    torch.testing.assert_close(viewmat[:3, :3] @ viewmat[:3, :3].T, torch.eye(3), atol=1e-6, rtol=0)
    assert float(torch.det(viewmat[:3, :3])) == pytest.approx(1, abs=1e-5)
