"""Pictures side by side: predictions and truth on one scale, targets as they are, nothing that is not there."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fit3d_finetune.backbone.geometry import GeometryHeads, GeometryReader
from fit3d_finetune.probing.data.labelled_images import LabelledImage, PinholeCamera
from fit3d_finetune.report.pictures import colour_normals, colour_scale, colour_values
from fit3d_finetune.report.sheets import (
    GAP,
    PANEL_WIDTH,
    colour_depths,
    comparison_sheet,
    predicted_shape,
    predictions_sheet,
    save_png,
    sheet,
    targets_sheet,
)
from fit3d_ns.features.backbone import load_backbone
from tests.fit3d_finetune.scenes import BACKBONE, HEIGHT, WIDTH, scene_of

PANEL_HEIGHT = PANEL_WIDTH * HEIGHT // WIDTH
DARK = (43, 45, 49)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIT3D_CACHE_DIR", str(tmp_path / "cache"))


def panel(picture: np.ndarray, row: int, column: int) -> np.ndarray:
    top, left = row * (PANEL_HEIGHT + GAP), column * (PANEL_WIDTH + GAP)
    return picture[top : top + PANEL_HEIGHT, left : left + PANEL_WIDTH]


def columns_of(picture: np.ndarray) -> int:
    return (picture.shape[1] + GAP) // (PANEL_WIDTH + GAP)


def reader_of(seed: int = 0) -> GeometryReader:
    """A backbone with random weights and random heads, whose depths lie around 3."""
    backbone = load_backbone(BACKBONE)
    heads = GeometryHeads(backbone.embed_dim, depth=True, normals=True)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=random))
    return GeometryReader(backbone, heads.eval(), typical_depth=3.0)


def image_of(folder: Path, depth: float = 3.0) -> LabelledImage:
    """A photograph of a wall so far away, in metres."""
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(folder / "photo.png")
    Image.fromarray(np.full((HEIGHT, WIDTH), round(1000 * depth), np.uint16)).save(folder / "depth.png")
    K = np.array([[50.0, 0, WIDTH / 2], [0, 50.0, HEIGHT / 2], [0, 0, 1]])
    camera = PinholeCamera(K, np.eye(4))
    return LabelledImage("photo", folder / "photo.png", depth_path=folder / "depth.png", camera=camera)


def test_the_same_depth_has_the_same_colour_in_prediction_and_truth() -> None:
    random = np.random.default_rng(1)
    truth, predicted = random.uniform(1, 4, (6, 8)), random.uniform(1, 9, (6, 8))
    predicted[2, 3] = truth[4, 1]
    colours = colour_depths([truth, predicted])
    assert (colours[1][2, 3] == colours[0][4, 1]).all()
    assert (colours[1][predicted > 4] == colours[0].reshape(-1, 3)[truth.argmax()]).all(), "the truth spans the scale"
    assert (colour_depths([predicted, truth])[0] != colours[1]).any()


def test_depth_that_is_not_known_takes_no_part_in_the_scale() -> None:
    truth = np.linspace(2, 5, 48).reshape(6, 8)
    holed = np.where(np.arange(48).reshape(6, 8) % 2, truth, 0)
    filled = colour_depths([truth])[0]
    colours = colour_depths([holed])[0]
    assert (colours[holed == 0] == DARK).all()
    assert np.abs(colours[holed > 0].astype(int) - filled[holed > 0]).max() < 16


def test_a_sheet_shows_patches_as_squares_of_one_colour() -> None:
    patches = np.random.default_rng(2).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    side = PANEL_WIDTH // 4
    shown = sheet([[patches, patches]])
    assert shown.shape == (3 * side, 2 * PANEL_WIDTH + GAP, 3)
    expected = np.repeat(np.repeat(patches, side, axis=0), side, axis=1)
    assert (shown[:, :PANEL_WIDTH] == expected).all()
    assert (shown[:, PANEL_WIDTH + GAP :] == expected).all()
    assert (shown[:, PANEL_WIDTH : PANEL_WIDTH + GAP] == 255).all()


def test_shorter_rows_of_a_sheet_end_in_white_and_an_empty_one_is_refused() -> None:
    black = np.zeros((3, 4, 3), np.uint8)
    shown = sheet([[black, black], [black]])
    assert (panel(shown, 1, 0) == 0).all()
    assert (panel(shown, 1, 1) == 255).all()
    for nothing in ([], [[]]):
        with pytest.raises(ValueError, match="at least one"):
            sheet(nothing)


def test_a_saved_sheet_is_read_back_as_it_was(tmp_path: Path) -> None:
    shown = sheet([[np.random.default_rng(3).integers(0, 256, (3, 4, 3), dtype=np.uint8)]])
    save_png(shown, tmp_path / "sheet.png")
    assert (np.asarray(Image.open(tmp_path / "sheet.png")) == shown).all()


def test_predictions_have_the_images_size_and_its_cameras_unit(tmp_path: Path) -> None:
    image, reader = image_of(tmp_path), reader_of()
    shape = predicted_shape(reader, image)
    assert shape.depth.shape == (HEIGHT, WIDTH)
    np.testing.assert_allclose(np.linalg.norm(shape.normals, axis=-1), 1, atol=1e-5)
    assert image.camera is not None
    longer = dataclasses.replace(image.camera, K=np.diag([2.0, 2.0, 1.0]) @ image.camera.K)
    twice = predicted_shape(reader, dataclasses.replace(image, camera=longer))
    np.testing.assert_allclose(twice.depth, 2 * shape.depth, rtol=1e-5)


def test_predictions_stand_beside_the_truth_where_there_is_one(tmp_path: Path) -> None:
    image, reader = image_of(tmp_path), reader_of()
    shown = predictions_sheet(reader, [image, image])
    assert columns_of(shown) == 5
    assert (panel(shown, 0, 4)[20:-20, 20:-20] == colour_normals(np.array([[[0.0, 0, -1]]]))).all(), "a wall"
    assert (panel(shown, 0, 1) != panel(shown, 0, 2)).any()
    assert (panel(shown, 0, 2)[..., :] == panel(shown, 0, 2)[0, 0]).all(), "one depth, one colour"
    assert (panel(shown, 1, 0) == panel(shown, 0, 0)).all()
    assert columns_of(predictions_sheet(reader, [dataclasses.replace(image, camera=None)])) == 3


def test_backbones_are_compared_in_one_projection_and_on_one_scale(tmp_path: Path) -> None:
    image = image_of(tmp_path)
    shown = comparison_sheet([reader_of(), reader_of(), reader_of(seed=1)], image)
    assert columns_of(shown) == 4
    for row in range(3):
        assert (panel(shown, row, 1) == panel(shown, row, 2)).all()
    assert (panel(shown, 0, 1) == panel(shown, 0, 3)).all(), "one backbone, one picture of its features"
    for row in (1, 2):
        assert (panel(shown, row, 1) != panel(shown, row, 3)).any()
    with pytest.raises(ValueError, match="depth and camera"):
        comparison_sheet([reader_of()], dataclasses.replace(image, depth_path=None))


def test_what_does_not_count_is_black_among_the_weights_and_dark_in_depth(tmp_path: Path) -> None:
    mask = np.ones((HEIGHT, WIDTH), dtype=bool)
    mask[:, : WIDTH // 2] = False
    shown = targets_sheet(scene_of(tmp_path, mask=mask), 1, BACKBONE)
    assert columns_of(shown) == 3
    weights, depth, normals = (panel(shown, 1, column) for column in range(3))
    left, right = np.s_[:, : PANEL_WIDTH // 2], np.s_[:, PANEL_WIDTH // 2 :]
    assert (weights[left] == 0).all()
    assert (depth[left] == DARK).all()
    assert (normals[left] == 128).all()
    counted = weights[right].max(axis=-1) > 0
    assert counted.any()
    assert (depth[right][counted] != DARK).any(axis=-1).all()
    # The plane faces the cameras.
    assert (normals[right][counted][:, 2] > 250).all()


def test_weights_run_from_black_to_white() -> None:
    shades = colour_values(np.linspace(0, 1, 11)[None], colour_scale("weight"), 0, 1)[0].sum(axis=-1)
    assert shades[0] == 0
    assert shades[-1] == 3 * 255
    assert (np.diff(shades.astype(int)) > 0).all()
