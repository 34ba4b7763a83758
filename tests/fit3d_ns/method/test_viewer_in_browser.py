"""`ns-viewer` on a trained run, looked at in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import viser.transforms as vtf
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.utils.colormaps import ColormapOptions, apply_colormap
from nerfstudio.utils.eval_utils import eval_setup
from nerfstudio.viewer.utils import CameraState, get_camera
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO

from fit3d_finetune.backbone.hub import save_finetuned
from fit3d_ns.features.backbone import load_backbone
from fit3d_ns.method.cameras import world_to_camera
from fit3d_ns.method.model import Fit3DModel
from fit3d_ns.method.pipeline import Fit3DPipeline
from fit3d_ns.method.viewer.legend import COMPARED, LIFTED, PHOTO
from fit3d_ns.method.viewer.selection import Limits
from fit3d_ns.scene.ply import read_splat_ply
from tests.console_scripts import train_briefly
from tests.fit3d_ns.method.browser import CHROMIUM, ViewerPage, open_page, running_viewer
from tests.scenes import write_capture

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: no `chromium` on the PATH")

CLICK = (0.6, 0.6)
"""Where the tests click, in fractions of the scene's width and height."""
HEIGHT = 512
BACKGROUND = (38, 42, 55)
"""nerfstudio's viewer shows this colour where no Gaussian is."""

NOTHING_HIDDEN = {
    "Isolate: similarity ≥": -1,
    "Isolate: distance ≤": 2,
    "Hide: error >": 1,
    "Hide: opacity <": 0,
}
"""Sliders, and where they hide nothing."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("viewer")
    return train_briefly(write_capture(folder / "scene", size=(224, 168), points=2000), folder / "outputs")


@pytest.fixture(scope="module")
def pipeline(config: Path) -> Fit3DPipeline:
    """The run in this process."""
    _, pipeline, _, _ = eval_setup(config, test_mode="test")
    assert isinstance(pipeline, Fit3DPipeline)
    return pipeline


@pytest.fixture(scope="module")
def model(pipeline: Fit3DPipeline) -> Fit3DModel:
    """The run's model in this process, to know what the page ought to show."""
    model = pipeline.model
    model.set_background(torch.tensor(BACKGROUND) / 255)
    return model


@pytest.fixture(scope="module")
def shared_page(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ViewerPage]:
    folder = tmp_path_factory.mktemp("page")
    with running_viewer(config, folder / "ns-viewer.log") as address, open_page(address, folder) as page:
        page.press("Hide Train Cams")
        yield page


@pytest.fixture
def page(shared_page: ViewerPage) -> ViewerPage:
    """The page with the output type rgb, no point picked, and nothing hidden."""
    if "similarity" in shared_page.output_types():
        shared_page.press("Similarity: clear")
    for label, nothing in NOTHING_HIDDEN.items():
        if float(shared_page.value(label)) != nothing:
            shared_page.write(label, str(nothing))
    shared_page.tick("Isolate: dim the others", False)
    shared_page.choose_output("rgb")
    return shared_page


def _camera(page: ViewerPage) -> Cameras:
    """The camera of the page, in the scene's own units."""
    pose = page.camera
    rotation = vtf.SO3(wxyz=np.array(pose["wxyz"])) @ vtf.SO3.from_x_radians(np.pi)
    position = np.array(pose["position"]) / VISER_NERFSTUDIO_SCALE_RATIO
    camera_to_world = torch.from_numpy(np.column_stack([rotation.as_matrix(), position]))
    state = CameraState(pose["fov"], pose["aspect"], camera_to_world, CameraType.PERSPECTIVE)
    return get_camera(state, HEIGHT, int(HEIGHT * pose["aspect"]))


def _rendered(model: Fit3DModel, page: ViewerPage, output: str) -> np.ndarray:
    """What the model itself renders for the page's camera [H, W, 3] in 0..255, coloured as in the viewer."""
    values = model.get_outputs_for_camera(_camera(page))[output]
    return (255 * apply_colormap(values, ColormapOptions(normalize=True))).numpy()


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean difference (0..255) of two pictures of any size, apart from fine detail and the axes in a corner."""
    a, b = (cv2.resize(x.astype(np.float32), (40, 40), interpolation=cv2.INTER_AREA) for x in (a, b))
    difference = np.abs(a - b)
    return float(np.concatenate([difference[:32].ravel(), difference[32:, 8:].ravel()]).mean())


def _wait_until_shown(page: ViewerPage, expected: np.ndarray, instead_of: np.ndarray | None = None) -> None:
    """Wait for a canvas that resembles `expected`, far more than a flat colour or the picture before does."""
    flat = np.broadcast_to(expected.mean((0, 1)), expected.shape)
    others = [flat] if instead_of is None else [flat, instead_of]
    limit = min(5.0, *(0.3 * _difference(other, expected) for other in others))
    assert limit > 1, page.evidence(f"what is expected looks much like what it must differ from ({limit:.2f})")
    page.wait_until(
        lambda: _difference(page.screenshot(), expected),
        lambda difference: difference < limit,
        f"the expected picture (difference below {limit:.1f})",
    )


def _pick_point(page: ViewerPage) -> None:
    page.press("Similarity: pick a point")
    page.click_scene(*CLICK)
    page.wait_until(page.output_types, lambda names: "similarity" in names, "the output similarity")


def _pick_in(model: Fit3DModel, camera: Cameras) -> tuple[int, int]:
    """What the click in the page does, in this process: row and column of its pixel."""
    column, row = int(CLICK[0] * int(camera.width)), int(CLICK[1] * int(camera.height))
    ray = torch.linalg.inv(camera.get_intrinsics_matrices()[0]) @ torch.tensor([column + 0.5, row + 0.5, 1.0])
    rotation = world_to_camera(camera.camera_to_worlds)[0, :3, :3]
    model.feature_viewer.pick(camera.camera_to_worlds[0, :, 3], rotation.T @ ray)
    return row, column


def test_the_page_begins_with_the_view_of_a_training_camera(page: ViewerPage, pipeline: Fit3DPipeline) -> None:
    first = pipeline.datamanager.train_dataset.cameras[0]
    camera = _camera(page)
    torch.testing.assert_close(camera.camera_to_worlds[0], first.camera_to_worlds, atol=1e-3, rtol=0)
    # The same height of view, however wide the page is.
    assert float(camera.fy / camera.height) == pytest.approx(float(first.fy / first.height), rel=1e-3)


def test_the_page_shows_what_the_model_renders(page: ViewerPage, model: Fit3DModel) -> None:
    _wait_until_shown(page, _rendered(model, page, "rgb"))


def test_choosing_feature_pca_changes_the_picture(page: ViewerPage, model: Fit3DModel) -> None:
    _wait_until_shown(page, _rendered(model, page, "rgb"))
    page.choose_output("feature_pca")
    _wait_until_shown(page, _rendered(model, page, "feature_pca"), instead_of=_rendered(model, page, "rgb"))


def test_a_click_shows_the_similarity_to_the_clicked_point(page: ViewerPage, model: Fit3DModel) -> None:
    assert "similarity" not in page.output_types()
    _pick_point(page)
    page.choose_output("similarity")

    camera = _camera(page)
    row, column = _pick_in(model, camera)
    expected = _rendered(model, page, "similarity")
    at_click = float(model.get_outputs_for_camera(camera)["similarity"][row, column])
    model.feature_viewer.clear_query()

    assert at_click > 0.95
    _wait_until_shown(page, expected, instead_of=_rendered(model, page, "rgb"))


@pytest.mark.slow  # one run in four showed another camera on a busy machine; the cause is not known yet
def test_clearing_the_similarity_goes_back_to_rgb(page: ViewerPage, model: Fit3DModel) -> None:
    _pick_point(page)
    page.choose_output("similarity")
    page.press("Similarity: clear")
    page.wait_until(page.output_types, lambda names: "similarity" not in names, "a list without similarity")
    _wait_until_shown(page, _rendered(model, page, "rgb"))


def test_refitting_changes_the_colours_of_feature_pca(page: ViewerPage, model: Fit3DModel) -> None:
    page.choose_output("feature_pca")
    before = _rendered(model, page, "feature_pca")
    _wait_until_shown(page, before)
    page.press("Refit colours")
    model.feature_viewer.refit()
    _wait_until_shown(page, _rendered(model, page, "feature_pca"), instead_of=before)


def test_the_number_of_clusters_is_what_the_slider_says(page: ViewerPage, model: Fit3DModel) -> None:
    page.choose_output("clusters")
    before = _rendered(model, page, "clusters")
    _wait_until_shown(page, before)
    assert page.shows("one colour for each group of similar features")
    page.write("Clusters: k", "3")
    model.feature_viewer.panel.clusters = 3
    _wait_until_shown(page, _rendered(model, page, "clusters"), instead_of=before)


@contextmanager
def _limited(model: Fit3DModel, limits: Limits) -> Iterator[None]:
    """The sliders in this process."""
    model.feature_viewer.panel.set_limits(limits)
    try:
        yield
    finally:
        model.feature_viewer.panel.set_limits(Limits())
        model.feature_viewer.panel.dims = False


@pytest.mark.parametrize("label", ["Hide: error >", "Hide: opacity <"])
def test_low_confidence_is_hidden(page: ViewerPage, model: Fit3DModel, label: str) -> None:
    whole = _rendered(model, page, "rgb")
    of_error = label == "Hide: error >"
    values = model.gauss_params["feature_errors"] if of_error else torch.sigmoid(model.opacities)
    limit = round(float(values.median()), 2)
    page.write(label, str(limit))
    with _limited(model, Limits(error=limit) if of_error else Limits(opacity=limit)):
        _wait_until_shown(page, _rendered(model, page, "rgb"), instead_of=whole)
    page.write(label, str(NOTHING_HIDDEN[label]))
    _wait_until_shown(page, whole)


def test_what_is_not_similar_to_the_clicked_point_is_dimmed_or_hidden(page: ViewerPage, model: Fit3DModel) -> None:
    _pick_point(page)
    _pick_in(model, _camera(page))
    whole, similarities = _rendered(model, page, "rgb"), model.feature_viewer._shown.pictures().similarities
    assert similarities is not None
    limit = round(float(similarities.quantile(0.7)), 2)
    try:
        with _limited(model, Limits(similarity=limit)):
            page.write("Isolate: similarity ≥", str(limit))
            hidden = _rendered(model, page, "rgb")
            _wait_until_shown(page, hidden, instead_of=whole)
            page.tick("Isolate: dim the others", True)
            model.feature_viewer.panel.dims = True
            _wait_until_shown(page, _rendered(model, page, "rgb"), instead_of=hidden)
    finally:
        model.feature_viewer.clear_query()


def test_the_legend_says_what_the_chosen_output_shows(page: ViewerPage, model: Fit3DModel) -> None:
    for output, words in {"feature_error": "as learned by the Gaussians", "depth": "distance along the camera"}.items():
        page.choose_output(output)
        page.wait_until(lambda words=words: page.shows(words), bool, f"the legend of {output}")  # type: ignore[misc]
        _wait_until_shown(page, _rendered(model, page, output), instead_of=_rendered(model, page, "rgb"))


def test_the_nearest_photos_own_map_is_shown(page: ViewerPage, model: Fit3DModel) -> None:
    page.choose_output("feature_pca")
    viewer, lifted = model.feature_viewer, _rendered(model, page, "feature_pca")
    assert viewer._photos is not None
    viewer._photos.read()
    page.choose("Features", PHOTO)
    try:
        viewer.panel.kind = PHOTO
        _wait_until_shown(page, _rendered(model, page, "feature_pca"), instead_of=lifted)
        assert page.shows("training photo that is taken from nearest")
    finally:
        viewer.panel.kind = LIFTED
        page.choose("Features", LIFTED)
    _wait_until_shown(page, lifted)


def test_a_clicked_thing_is_isolated_and_exported(page: ViewerPage, model: Fit3DModel, config: Path) -> None:
    _pick_point(page)
    page.write("Isolate: distance ≤", "0.5")
    _pick_in(model, _camera(page))
    whole = _rendered(model, page, "rgb")
    model.feature_viewer.panel.set_limits(Limits(distance=0.5))
    try:
        _wait_until_shown(page, _rendered(model, page, "rgb"), instead_of=whole)
        expected = len(model.feature_viewer.selection())
    finally:
        model.feature_viewer.panel.set_limits(Limits())
        model.feature_viewer.clear_query()
    page.press("Isolate: export as .ply")
    path = config.parent / "selection-001.ply"
    page.wait_until(lambda: page.shows(str(path)), bool, "the path of the file")
    # The page's click and the one computed here differ by a fraction of a pixel.
    assert len(read_splat_ply(path)) == pytest.approx(expected, rel=0.05)


def test_another_backbone_is_lifted_and_shown(
    page: ViewerPage, model: Fit3DModel, pipeline: Fit3DPipeline, tmp_path: Path
) -> None:
    folder = tmp_path / "finetuned"
    backbone = load_backbone(pipeline.datamanager.config.backbone)
    with torch.no_grad():
        for values in backbone.parameters():
            values.add_(0.5 * values.std(unbiased=False) * torch.randn_like(values))
    save_finetuned(backbone, folder, summary={}, card="")
    page.choose_output("feature_pca")
    before = _rendered(model, page, "feature_pca")
    page.write("Backbone", str(folder))
    page.press("Compare: lift this backbone")
    model.feature_viewer.compare(str(folder))
    try:
        _wait_until_shown(page, _rendered(model, page, "feature_pca"), instead_of=before)
        assert model.feature_viewer.panel.kind == COMPARED
    finally:
        model.feature_viewer.panel.kind = LIFTED
    page.choose("Features", LIFTED)
    _wait_until_shown(page, before)
