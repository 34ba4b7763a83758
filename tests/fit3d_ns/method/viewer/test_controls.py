"""Every control of the panel changes what the model renders in the way that it says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.viewer.utils import parse_object
from nerfstudio.viewer.viewer_elements import ViewerControl, ViewerElement

from fit3d_finetune.backbone.hub import save_finetuned
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.backbone import BackboneConfig, load_backbone
from fit3d_ns.method.cameras import world_to_camera
from fit3d_ns.method.model import Fit3DModel
from fit3d_ns.method.pipeline import Fit3DPipeline
from fit3d_ns.method.viewer import shown
from fit3d_ns.method.viewer.control import FeatureControl
from fit3d_ns.method.viewer.legend import COMPARED, LIFTED, PHOTO
from fit3d_ns.method.viewer.panel import Words
from fit3d_ns.method.viewer.photos import compared_backbone
from fit3d_ns.method.viewer.pictures import PALETTE
from fit3d_ns.method.viewer.selection import Limits
from fit3d_ns.scene.ply import read_splat_ply
from tests.fit3d_ns.method.runs import make_config, train

PIXEL = (20, 40)
"""Row and column of the pixel that is clicked."""


@pytest.fixture(scope="module")
def shared_pipeline(tiny_capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Fit3DPipeline:
    folder = tmp_path_factory.mktemp("controls")
    trainer = train(make_config(tiny_capture, folder, steps=40, feature_lift="solve", feature_dim=16))
    trainer.pipeline.eval()
    return trainer.pipeline


@pytest.fixture
def pipeline(shared_pipeline: Fit3DPipeline) -> Iterator[Fit3DPipeline]:
    viewer = shared_pipeline.model.feature_viewer
    yield shared_pipeline
    viewer.wait()
    viewer.clear_query()
    viewer.panel.set_limits(Limits())
    viewer.panel.dims, viewer.panel.kind, viewer.panel.clusters = False, LIFTED, 8


@pytest.fixture
def model(pipeline: Fit3DPipeline) -> Fit3DModel:
    return pipeline.model


def _backbone_folder(pipeline: Fit3DPipeline, folder: Path, changed: bool) -> Path:
    """The run's backbone as a fine-tuned folder, with other weights if it was changed."""
    backbone = load_backbone(pipeline.datamanager.config.backbone)
    if changed:
        with torch.no_grad():
            for values in backbone.parameters():
                values.add_(0.5 * values.std(unbiased=False) * torch.randn_like(values))
    save_finetuned(backbone, folder, summary={}, card="")
    return folder


@pytest.fixture(scope="module")
def own_backbone(shared_pipeline: Fit3DPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _backbone_folder(shared_pipeline, tmp_path_factory.mktemp("own") / "finetuned", changed=False)


@pytest.fixture(scope="module")
def compared(shared_pipeline: Fit3DPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _backbone_folder(shared_pipeline, tmp_path_factory.mktemp("changed") / "finetuned", changed=True)


def _camera(pipeline: Fit3DPipeline, index: int = 2) -> Cameras:
    return pipeline.datamanager.train_cameras[index : index + 1]


def _look(pipeline: Fit3DPipeline, index: int = 2) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return pipeline.model.get_outputs_for_camera(_camera(pipeline, index))


def _pick(pipeline: Fit3DPipeline) -> None:
    camera = _camera(pipeline)
    ray = torch.linalg.inv(camera.get_intrinsics_matrices()[0]) @ torch.tensor([PIXEL[1] + 0.5, PIXEL[0] + 0.5, 1.0])
    rotation = world_to_camera(camera.camera_to_worlds)[0, :3, :3]
    pipeline.model.feature_viewer.pick(camera.camera_to_worlds[0, :, 3], rotation.T @ ray)


# ---- the panel


def test_the_panel_is_called_features_and_keeps_its_order(pipeline: Fit3DPipeline) -> None:
    found = parse_object(pipeline, ViewerElement, "Custom Elements")
    assert {path.rpartition("/")[0] for path, _ in found} == {"Custom Elements/Features"}
    names = [element.name for _, element in found]
    assert names[:3] == ["Legend", "Features", "Backbone"]
    assert names[-1] == "Status"
    assert len(names) == len(set(names)) == 15
    assert len(parse_object(pipeline, ViewerControl, "Custom Elements")) == 1


def test_the_panel_adds_nothing_to_checkpoints(model: Fit3DModel) -> None:
    assert [name for name in model.state_dict() if "viewer" in name] == []


def test_the_legend_says_what_the_output_shows(pipeline: Fit3DPipeline) -> None:
    viewer = pipeline.model.feature_viewer
    legend = next(element for _, element in parse_object(viewer, ViewerElement, "") if element.name == "Legend")
    assert isinstance(legend, Words)
    for output in ("rgb", "feature_pca", "feature_error", "similarity", "clusters", "depth"):
        viewer.panel.explain(output, LIFTED)
        assert legend.words.startswith(f"**{output}**")
    viewer.panel.explain("clusters", LIFTED)
    assert "Gaussians carry" in legend.words
    viewer.panel.explain("clusters", PHOTO)
    assert "training photo" in legend.words


# ---- clusters


def _cluster_colours(pipeline: Fit3DPipeline) -> torch.Tensor:
    """Colours of the Gaussians' clusters, as `clusters` blends them."""
    prepared = pipeline.model.feature_viewer.prepared(dict(pipeline.model.gauss_params.items()))
    return prepared["shown_channels"][:, -4:-1]


def test_clusters_have_the_same_colours_in_every_view_and_after_looking_elsewhere(pipeline: Fit3DPipeline) -> None:
    first = _look(pipeline, 2)["clusters"]
    before = _cluster_colours(pipeline)
    _look(pipeline, 5)
    assert torch.equal(_cluster_colours(pipeline), before)
    assert torch.equal(_look(pipeline, 2)["clusters"], first)
    pipeline.model.feature_viewer.refit()
    assert torch.equal(_look(pipeline, 2)["clusters"], first), "k-means is not deterministic"


@pytest.mark.parametrize("count", [2, 5, 16])
def test_as_many_colours_are_used_as_there_are_clusters(pipeline: Fit3DPipeline, count: int) -> None:
    pipeline.model.feature_viewer.panel.clusters = count
    colors = _cluster_colours(pipeline).unique(dim=0)
    assert len(colors) == count
    assert bool((torch.cdist(colors, PALETTE).amin(1) == 0).all())


def test_the_palette_tells_all_clusters_apart() -> None:
    distances = torch.cdist(PALETTE, PALETTE) + 9 * torch.eye(len(PALETTE))
    assert float(distances.min()) > 0.15


# ---- isolating


def test_the_isolated_set_grows_as_thresholds_are_loosened(pipeline: Fit3DPipeline) -> None:
    viewer = pipeline.model.feature_viewer
    _pick(pipeline)
    counts = {}
    for name, values in {"similarity": (0.95, 0.8, 0.5, 0.0, -1.0), "distance": (0.05, 0.2, 0.5, 1.0, 2.0)}.items():
        counts[name] = []
        for value in values:
            viewer.panel.set_limits(replace(Limits(), **{name: value}))
            counts[name].append(len(viewer.selection()))
    for name, found in counts.items():
        assert found == sorted(found), name
        assert found[0] < found[-1] == pipeline.model.num_points, name


def test_the_clicked_point_is_where_the_picture_shows_it(pipeline: Fit3DPipeline) -> None:
    _pick(pipeline)
    point = pipeline.model.feature_viewer._shown._pick.point
    camera = _camera(pipeline)
    seen = world_to_camera(camera.camera_to_worlds)[0] @ torch.cat([point, torch.ones(1)])
    pixel = camera.get_intrinsics_matrices()[0] @ seen[:3]
    assert abs(float(pixel[0] / pixel[2]) - PIXEL[1] - 0.5) < 0.1
    assert abs(float(pixel[1] / pixel[2]) - PIXEL[0] - 0.5) < 0.1
    depth = _look(pipeline)["depth"][PIXEL]
    assert float(seen[2]) == pytest.approx(float(depth), rel=0.1)


def test_what_is_hidden_contributes_nothing(pipeline: Fit3DPipeline) -> None:
    model, viewer = pipeline.model, pipeline.model.feature_viewer
    _pick(pipeline)
    viewer.panel.set_limits(Limits(distance=0.3))
    before = _look(pipeline)
    hidden = (model.means - viewer._shown._pick.point).norm(dim=1) > 0.3
    kept = {name: values.detach().clone() for name, values in model.gauss_params.items()}
    try:
        with torch.no_grad():  # whatever the hidden ones look like
            for name in ("features_dc", "features", "feature_errors", "scales"):
                model.gauss_params[name][hidden] += 1.0
        after = _look(pipeline)
        for name in ("rgb", "depth", "accumulation", "feature_error"):
            assert torch.equal(after[name], before[name]), name
        viewer.panel.set_limits(Limits())
        assert not torch.equal(_look(pipeline)["rgb"], before["rgb"])
    finally:
        with torch.no_grad():
            for name, values in kept.items():
                model.gauss_params[name].copy_(values)


def test_dimmed_gaussians_are_there_but_faint(pipeline: Fit3DPipeline) -> None:
    viewer = pipeline.model.feature_viewer
    whole = _look(pipeline)["accumulation"].mean()
    _pick(pipeline)
    viewer.panel.set_limits(Limits(distance=0.2))
    hidden = _look(pipeline)["accumulation"].mean()
    viewer.panel.dims = True
    faint = _look(pipeline)["accumulation"].mean()
    assert float(hidden) < float(faint) < float(whole)


def test_hiding_all_shows_the_background_under_the_same_outputs(pipeline: Fit3DPipeline) -> None:
    _pick(pipeline)
    names = list(_look(pipeline))
    pipeline.model.feature_viewer.panel.set_limits(Limits(distance=0.0))
    outputs = _look(pipeline)
    assert list(outputs) == names
    assert float(outputs["accumulation"].max()) == 0


def test_low_confidence_is_hidden(pipeline: Fit3DPipeline) -> None:
    model, viewer = pipeline.model, pipeline.model.feature_viewer
    errors, opacities = model.gauss_params["feature_errors"][:, 0], torch.sigmoid(model.opacities[:, 0])
    limit = float(errors.median())
    viewer.panel.set_limits(Limits(error=limit))
    assert len(viewer.selection()) == int((errors <= limit).sum()) < model.num_points
    viewer.panel.set_limits(Limits(opacity=0.3))
    assert len(viewer.selection()) == int((opacities >= 0.3).sum()) < model.num_points


def test_evaluation_is_of_all_gaussians_whatever_is_hidden(pipeline: Fit3DPipeline) -> None:
    viewer, whole = pipeline.model.feature_viewer, _look(pipeline)["rgb"]
    viewer.panel.set_limits(Limits(opacity=0.9))
    with viewer.everything_shown():
        assert torch.equal(_look(pipeline)["rgb"], whole)
    assert not torch.equal(_look(pipeline)["rgb"], whole)


# ---- the export


def test_the_file_has_exactly_the_selected_gaussians(pipeline: Fit3DPipeline, tmp_path: Path) -> None:
    model, viewer = pipeline.model, pipeline.model.feature_viewer
    _pick(pipeline)
    viewer.panel.set_limits(Limits(distance=0.4, opacity=0.2))
    inside = (model.means - viewer._shown._pick.point).norm(dim=1) <= 0.4
    expected = model.splats().subset(inside & (torch.sigmoid(model.opacities[:, 0]) >= 0.2))
    path = viewer.export(viewer.selection(), tmp_path)
    found = read_splat_ply(path)
    assert 0 < len(found) < model.num_points
    for name in ("means", "quats", "scales", "opacities", "sh"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name).detach(), atol=1e-5, rtol=1e-4)
    assert str(path) in viewer.panel.message


def test_dimmed_gaussians_are_not_exported(pipeline: Fit3DPipeline) -> None:
    viewer = pipeline.model.feature_viewer
    _pick(pipeline)
    viewer.panel.set_limits(Limits(distance=0.4))
    hidden = len(viewer.selection())
    viewer.panel.dims = True
    assert len(viewer.selection()) == hidden < pipeline.model.num_points


def test_no_file_is_replaced(pipeline: Fit3DPipeline, tmp_path: Path) -> None:
    viewer = pipeline.model.feature_viewer
    (tmp_path / "selection-002.ply").write_text("mine")
    names = [viewer.export(viewer.selection(), tmp_path).name for _ in range(2)]
    assert names == ["selection-001.ply", "selection-003.ply"]
    assert (tmp_path / "selection-002.ply").read_text() == "mine"


def test_the_button_writes_into_the_run_folder_and_says_where(
    pipeline: Fit3DPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = pipeline.model.feature_viewer
    seen = SimpleNamespace(log_filename=tmp_path / "viewer_log_filename.txt")
    monkeypatch.setattr(viewer.control, "viewer", seen, raising=False)
    monkeypatch.setattr(viewer.control, "rerender", lambda: None)
    viewer.start_export()
    viewer.wait()
    assert str(tmp_path / "selection-001.ply") in viewer.panel.message
    viewer.panel.set_limits(Limits(opacity=1.0))
    viewer.start_export()
    viewer.wait()
    assert "nothing was exported" in viewer.panel.message
    assert [path.name for path in tmp_path.iterdir()] == ["selection-001.ply"]


# ---- other features


def test_a_compared_backbone_has_pictures_of_its_own(pipeline: Fit3DPipeline, compared: Path) -> None:
    viewer, lifted = pipeline.model.feature_viewer, _look(pipeline)
    _pick(pipeline)
    viewer.compare(str(compared))
    assert viewer.panel.kind == COMPARED
    assert "cosine" in viewer.panel.message
    other = _look(pipeline)
    assert float((other["feature_pca"] - lifted["feature_pca"]).abs().mean()) > 0.01
    assert float((other["feature_error"] - lifted["feature_error"]).abs().mean()) > 1e-4
    assert float(other["similarity"][PIXEL]) > 0.9
    assert torch.equal(other["rgb"], lifted["rgb"])
    viewer.panel.kind = LIFTED
    back = _look(pipeline)
    for name in ("feature_pca", "feature_error", "clusters"):
        torch.testing.assert_close(back[name], lifted[name], atol=1e-4, rtol=0)


def test_the_runs_own_backbone_as_the_compared_one_is_lifted_to_the_same(
    pipeline: Fit3DPipeline, own_backbone: Path
) -> None:
    viewer = pipeline.model.feature_viewer
    _pick(pipeline)
    lifted = _look(pipeline)["similarity"]
    viewer.compare(str(own_backbone))
    assert float((_look(pipeline)["similarity"] - lifted).abs().mean()) < 0.02


def test_features_of_gaussians_that_became_others_are_not_shown(pipeline: Fit3DPipeline, compared: Path) -> None:
    # Densification puts as many others in their place: at its cap it prunes and splits alike.
    viewer, parameters = pipeline.model.feature_viewer, pipeline.model.gauss_params
    viewer.compare(str(compared))
    assert viewer._shown.carried(COMPARED) is not None
    parameters["means"] = torch.nn.Parameter(parameters["means"].detach().clone())
    assert viewer._shown.carried(COMPARED) is None
    lifted = _look(pipeline)
    viewer.panel.kind = LIFTED
    assert torch.equal(_look(pipeline)["feature_pca"], lifted["feature_pca"])


def test_features_are_not_lifted_into_gaussians_that_became_others_meanwhile(
    pipeline: Fit3DPipeline, compared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer, parameters = pipeline.model.feature_viewer, pipeline.model.gauss_params
    photos = viewer._photos
    assert photos is not None
    lift = photos.lift

    def replaced(*arguments: Any) -> Any:
        parameters["means"] = torch.nn.Parameter(parameters["means"].detach().clone())
        return lift(*arguments)

    monkeypatch.setattr(photos, "lift", replaced)
    with pytest.raises(InputError, match="become others"):
        viewer.compare(str(compared))


def test_a_control_that_is_set_while_a_picture_is_made_changes_the_next_one(
    pipeline: Fit3DPipeline, compared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # viser sets values on threads of its own, without nerfstudio's train lock.
    viewer = pipeline.model.feature_viewer
    viewer.compare(str(compared))
    viewer.panel.kind = LIFTED
    before, outputs = _look(pipeline), viewer.outputs

    def set_first(*arguments: Any) -> Any:
        viewer.panel.kind, viewer.panel.clusters = COMPARED, 3
        return outputs(*arguments)

    monkeypatch.setattr(viewer, "outputs", set_first)
    meanwhile = _look(pipeline)
    assert [name for name in before if not torch.equal(before[name], meanwhile[name])] == []
    monkeypatch.undo()
    assert not torch.equal(_look(pipeline)["feature_pca"], before["feature_pca"])


def test_whatever_fails_is_said_in_the_panel(pipeline: Fit3DPipeline) -> None:
    viewer = pipeline.model.feature_viewer

    def fail() -> None:
        raise MemoryError("no room")

    viewer._in_background(fail)
    viewer.wait()
    assert "no room" in viewer.panel.message


# ---- how soon


def test_after_a_rehearsal_a_picture_waits_for_no_clusters_and_a_click_is_still_to_come(
    pipeline: Fit3DPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = pipeline.model.feature_viewer
    expected = _look(pipeline)
    viewer._shown._clusters.clear()
    viewer.rehearse()
    monkeypatch.setattr(shown, "fit_clusters", lambda *_: pytest.fail("clusters are fitted while a page waits"))
    found = _look(pipeline)
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def test_a_viewer_without_training_rehearses_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsed = threading.Event()
    control = FeatureControl(lambda: None, lambda: None, rehearsed.set)
    server = SimpleNamespace(on_client_connect=lambda _: None)
    seen: Any = SimpleNamespace(viser_server=server, render_statemachines={}, trainer=object())
    control._setup(seen)
    assert not rehearsed.wait(0.2)
    seen.trainer = None
    control._setup(seen)
    assert rehearsed.wait(10)


def test_a_backbone_that_is_not_there_is_one_sentence_in_the_panel(pipeline: Fit3DPipeline) -> None:
    viewer = pipeline.model.feature_viewer
    with pytest.raises(InputError, match="no file or folder"):
        viewer.compare("no/such/folder")
    viewer.start_comparison()
    assert "Type the folder" in viewer.panel.message


def test_nothing_is_lifted_while_training(pipeline: Fit3DPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    viewer = pipeline.model.feature_viewer
    seen = SimpleNamespace(trainer=SimpleNamespace(training_state="training"))
    monkeypatch.setattr(viewer.control, "viewer", seen, raising=False)
    monkeypatch.setattr(type(viewer.panel), "backbone", "finetuned")
    viewer.start_comparison()
    assert "Pause the training" in viewer.panel.message


def test_the_layer_that_was_finetuned_is_the_one_compared(tmp_path: Path) -> None:
    trained = BackboneConfig(name="vit_small_patch14_dinov2", weights="offline")
    (tmp_path / "fit3d.json").write_text('{"original": {"layer": 8}}')
    assert compared_backbone(str(tmp_path), trained).layer == 8
    (tmp_path / "fit3d.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        compared_backbone(str(tmp_path), trained)


def test_the_nearest_photo_shows_the_backbones_own_map(pipeline: Fit3DPipeline) -> None:
    viewer, model = pipeline.model.feature_viewer, pipeline.model
    lifted = _look(pipeline, 4)["feature_pca"]
    viewer.panel.kind = PHOTO
    viewer.choose_kind()
    viewer.wait()
    shown = _look(pipeline, 4)["feature_pca"]
    view = world_to_camera(_camera(pipeline, 4).camera_to_worlds)[0]
    assert viewer._photos is not None
    values = viewer._photos.nearest_map(view, None)
    assert torch.equal(values, pipeline.datamanager.train_features[4].float())
    assert shown.shape == lifted.shape
    colours = len(shown.reshape(-1, 3).unique(dim=0))
    assert colours <= values.shape[0] * values.shape[1]
    # In the same colours, what is lifted from maps resembles them.
    correlation = torch.corrcoef(torch.stack([shown.flatten(), lifted.flatten()]))[0, 1]
    assert float(correlation) > 0.3
    assert float(model.position.abs().max()) > 0


# ---- the first picture, and what changes cost


def test_a_page_begins_with_the_view_of_a_training_camera(pipeline: Fit3DPipeline) -> None:
    start = pipeline.model.feature_viewer._start()
    assert start is not None
    camera = pipeline.datamanager.train_dataset.cameras[0]
    assert torch.equal(start.camera_to_world, camera.camera_to_worlds)
    assert float(torch.tan(torch.tensor(start.vertical_fov / 2)) * camera.fy * 2) == pytest.approx(float(camera.height))


def test_what_a_picture_needs_of_all_gaussians_is_worked_out_once_per_change(pipeline: Fit3DPipeline) -> None:
    shown = pipeline.model.feature_viewer._shown
    _look(pipeline, 1)
    pictures = shown.pictures()
    _look(pipeline, 2)
    assert shown.pictures() is pictures
    viewer = pipeline.model.feature_viewer
    step = pipeline.model.step
    for change in (
        lambda: _pick(pipeline),
        viewer.refit,
        lambda: setattr(viewer.panel, "clusters", 3),
        lambda: setattr(pipeline.model, "step", step + 1),
        lambda: setattr(pipeline.model, "step", step),
    ):
        change()
        assert shown.pictures() is not pictures
        pictures = shown.pictures()
        assert shown.pictures() is pictures
