"""fit3d-lift on exports, runs and .ply files: the same features by every way, and clear words about bad input."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fit3d_ns.commands.lift import BackboneChoice, LiftArguments, run
from fit3d_ns.features.backbone import BackboneConfig
from fit3d_ns.method.export import export_run
from fit3d_ns.method.runs import scene_from_ply
from fit3d_ns.scene.gaussians import FeatureGaussians
from tests.fit3d_ns.method.colmap_model import write_colmap_model
from tests.fit3d_ns.method.runs import make_config, train
from tests.scenes import write_capture

TINY = BackboneChoice(name="vit_tiny_patch16_224", weights="random")


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_capture(tmp_path_factory.mktemp("capture") / "scene", distortion=(0.05, -0.02), masks=True)


@pytest.fixture(scope="module")
def run_folder(capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outputs")
    return train(make_config(capture, folder, steps=40, feature_lift="solve")).base_dir


@pytest.fixture(scope="module")
def exported(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_run(run_folder / "config.yml", tmp_path_factory.mktemp("runs"))


def relative_difference(first: Path, second: Path) -> float:
    a, b = (FeatureGaussians.load(path).features for path in (first, second))
    return float((a - b).norm() / b.norm())


def test_an_export_a_run_and_a_ply_lead_to_the_same_features(
    exported: Path, run_folder: Path, capture: Path, tmp_path: Path
) -> None:
    from_export = run(LiftArguments(export=exported, output_dir=tmp_path / "a"))
    from_run = run(LiftArguments(load_config=run_folder / "config.yml", output_dir=tmp_path / "b"))
    from_ply = run(
        LiftArguments(
            ply=exported / "splat.ply",
            data=capture,
            dataparser_transforms=run_folder / "dataparser_transforms.json",
            backbone=TINY,
            output_dir=tmp_path / "c",
        )
    )
    assert relative_difference(from_run, from_export) < 0.02
    assert relative_difference(from_ply, from_export) < 0.02
    # The method solves at the photos' own size, the tool at the backbone's: near, not equal.
    assert relative_difference(from_export, exported) < 0.3
    original, lifted = FeatureGaussians.load(exported), FeatureGaussians.load(from_export)
    for name in ("means", "quats", "scales", "opacities", "sh"):
        torch.testing.assert_close(getattr(lifted, name), getattr(original, name))
    assert lifted.scene.backbone == original.scene.backbone
    assert [view.grid for view in lifted.scene.views] == [view.grid for view in original.scene.views]


def test_full_width_is_an_identity_decoder_that_fits_no_worse(exported: Path, tmp_path: Path) -> None:
    full = run(LiftArguments(export=exported, feature_dim="full", output_dir=tmp_path / "full"))
    few = run(LiftArguments(export=exported, feature_dim=4, output_dir=tmp_path / "few"))
    gaussians = FeatureGaussians.load(full)
    assert gaussians.scene.feature_dim == gaussians.scene.channels == 192
    assert torch.equal(gaussians.decoder["weight"], torch.eye(192))
    reports = [json.loads((folder / "lifting.json").read_text()) for folder in (full, few)]
    assert reports[0]["cosine"] > reports[1]["cosine"]
    assert reports[0]["explained_variance"] == 1 > reports[1]["explained_variance"]
    assert {"held_out_cosine", "unseen_gaussians", "psnr"} <= reports[0].keys()


def test_int8_features_are_those_of_fp16_to_half_a_step(exported: Path, run_folder: Path, tmp_path: Path) -> None:
    lifted = [
        run(LiftArguments(export=exported, feature_storage=storage, output_dir=tmp_path / storage))
        for storage in ("fp16", "int8")
    ]
    trained = [exported, export_run(run_folder / "config.yml", tmp_path / "runs", 0, feature_storage="int8")]
    for half, whole in (lifted, trained):
        first, second = (FeatureGaussians.load(path) for path in (half, whole))
        assert [g.scene.feature_storage for g in (first, second)] == ["fp16", "int8"]
        largest = first.features.abs().amax(0)
        # Half a step, and what half precision is off itself; solves are repeatable.
        bound = largest * (0.5 / 127 + 2.0**-11) + 1e-6
        assert bool(((first.features - second.features).abs() <= bound).all())
        assert (whole / "gaussians.safetensors").stat().st_size < (half / "gaussians.safetensors").stat().st_size


def test_another_layer_gives_other_features_under_its_own_name(exported: Path, tmp_path: Path) -> None:
    lifted = run(LiftArguments(export=exported, backbone=BackboneChoice(layer=5), output_dir=tmp_path, name="layer 5"))
    scene = FeatureGaussians.load(lifted).scene
    assert (scene.scene, scene.backbone.layer, lifted.name) == ("layer 5", 5, "layer 5")
    assert relative_difference(lifted, exported) > 0.1


def test_choices_fill_in_from_where_the_scene_comes() -> None:
    base = BackboneConfig(name="a", weights="offline", layer=3, max_size=500)
    assert BackboneChoice().over(base) == base
    assert BackboneChoice(layer=5).over(base).layer == 5
    assert BackboneChoice(name="b").over(base).layer is None, "another network has other layers"


def test_exports_are_lifted_without_nerfstudio(exported: Path, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "class Blocker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'nerfstudio': raise ImportError('blocked')\n"
        "sys.meta_path.insert(0, Blocker())\n"
        "from fit3d_ns.commands.lift import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", program, "--export", str(exported), "--output-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert FeatureGaussians.load(tmp_path / exported.name).features.any()


# ---- frames


def true_poses(capture: Path) -> dict[str, np.ndarray]:
    """World-to-camera (OpenCV) by image name, in the frame of transforms.json."""
    frames = json.loads((capture / "transforms.json").read_text())["frames"]
    flip = np.diag([1.0, -1, -1, 1])
    return {Path(f["file_path"]).name: np.linalg.inv(np.array(f["transform_matrix"]) @ flip) for f in frames}


@pytest.mark.parametrize("kind", ["transforms.json", "colmap"])
def test_without_a_transform_the_ply_is_in_the_captures_own_frame(kind: str, exported: Path, tmp_path: Path) -> None:
    folder = write_capture(tmp_path / "scene")
    expected = true_poses(folder)
    if kind == "colmap":
        write_colmap_model(folder)
        (folder / "transforms.json").unlink()
    scene = scene_from_ply(exported / "splat.ply", folder)
    assert len(scene.views) == len(expected) == 10
    for view in scene.views:
        np.testing.assert_allclose(view.world_to_camera, expected[Path(view.path).name], atol=2e-5)
    assert {view.split for view in scene.views} == {"train", "eval"}


def test_with_nerfstudios_transform_the_views_are_those_of_the_run(
    exported: Path, run_folder: Path, capture: Path
) -> None:
    scene = scene_from_ply(exported / "splat.ply", capture, run_folder / "dataparser_transforms.json")
    expected = {view.path: view for view in FeatureGaussians.load(exported).scene.views}
    assert len(expected) == len(scene.views)
    for view in scene.views:
        np.testing.assert_allclose(view.world_to_camera, expected[view.path].world_to_camera, atol=2e-5)
        assert view.split == expected[view.path].split
        np.testing.assert_allclose(view.distortion, expected[view.path].distortion)
        assert view.mask_path == expected[view.path].mask_path


def test_gaussians_in_another_frame_than_the_cameras_are_noticed(
    exported: Path, capture: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("fit3d"), "propagate", True)
    wrong = tmp_path / "wrong.json"
    turned = [[-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 0]]
    wrong.write_text(json.dumps({"transform": turned, "scale": 30.0}))
    arguments = LiftArguments(
        ply=exported / "splat.ply",
        data=capture,
        dataparser_transforms=wrong,
        backbone=TINY,
        output_dir=tmp_path / "runs",
    )
    with contextlib.suppress(SystemExit):  # refused if hardly any Gaussian is seen; warned of in any case
        run(arguments)
    assert "dataparser-transforms" in caplog.text


# ---- bad input


def refused(arguments: LiftArguments, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        run(arguments)
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_what_does_not_go_together_is_refused(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ply = exported / "splat.ply"
    assert "give one of --export" in refused(LiftArguments(), capsys)
    assert "give one of --export" in refused(LiftArguments(export=exported, load_config=Path("c.yml")), capsys)
    assert "--ply and --data" in refused(LiftArguments(ply=ply), capsys)
    assert "does not exist" in refused(LiftArguments(load_config=Path("nowhere/config.yml")), capsys)
    assert "neither a transforms.json nor" in refused(LiftArguments(ply=ply, data=exported), capsys)
    assert "--feature-dim" in refused(LiftArguments(export=exported, feature_dim=0), capsys)
    same = LiftArguments(export=exported, output_dir=exported.parent)
    assert "another --output-dir" in refused(same, capsys)


def test_a_damaged_transform_is_refused(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.json"
    path.write_text('{"transform": [[1, 0], [0, 1]], "scale": 1}')
    arguments = LiftArguments(ply=exported / "splat.ply", data=tmp_path, dataparser_transforms=path)
    assert "3x4 transform" in refused(arguments, capsys)


def test_a_refused_lift_leaves_no_folder(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(exported, broken)
    (broken / "gaussians.safetensors").write_bytes(b"no")
    assert "damaged" in refused(LiftArguments(export=broken, output_dir=tmp_path / "runs"), capsys)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("mask", "complaint"),
    [
        (np.zeros((84, 112), np.uint8), r"is zero everywhere, which leaves nothing of its image: correct it"),
        (np.full((42, 56), 255, np.uint8), r"has 56 x 42 pixels, but its image has 112 x 84: save it in the image's"),
    ],
)
def test_a_mask_that_does_not_fit_is_named(
    exported: Path, capture: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], mask: np.ndarray, complaint: str
) -> None:
    moved = Path(shutil.copytree(capture, tmp_path / "moved"))
    spoilt = sorted((moved / "masks").iterdir())[3]
    Image.fromarray(mask).save(spoilt)
    arguments = LiftArguments(export=exported, images_root=moved, output_dir=tmp_path / "out")
    with pytest.raises(SystemExit):
        run(arguments)
    assert re.search(rf"error: mask .*{spoilt.name} {complaint}", capfd.readouterr().err)
    assert not (tmp_path / "out" / exported.name).exists()


# ---- nobody's files


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """What must be found before the work begins is found without it."""

    def work(*_: object) -> None:
        raise AssertionError("the work was begun")

    monkeypatch.setattr("fit3d_ns.lifting.scene.lift_scene", work)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["../victim", "..", ".", "", "/absolute", "a/b", ".hidden", "x" * 256])
def test_a_name_that_leads_elsewhere_is_refused_and_nothing_is_touched(
    name: str, overwrite: bool, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim/photo.jpg").write_text("a user's")
    arguments = LiftArguments(export=exported, output_dir=tmp_path / "runs", name=name, overwrite=overwrite)
    assert "--name is" in refused(arguments, capsys)
    assert tree(tmp_path) == {"victim/photo.jpg": b"a user's"}
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("name", ["../victim", "", ".", "/tmp/victim"])
def test_a_name_in_somebody_elses_export_is_refused(
    name: str, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "from elsewhere"
    shutil.copytree(exported, copy)
    (copy / "scene.json").write_text(json.dumps({**json.loads((copy / "scene.json").read_text()), "scene": name}))
    for given in (None, "fine"):
        arguments = LiftArguments(export=copy, output_dir=tmp_path / "runs", overwrite=True, name=given)
        assert "'scene' is" in refused(arguments, capsys)
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_photos_of_the_scenes_name_stays(
    exported: Path, tmp_path: Path, overwrite: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/1.jpg").write_text("a user's")
    arguments = LiftArguments(export=exported, output_dir=tmp_path, name="photos", overwrite=overwrite)
    assert "photos is a folder that fit3d did not write" in refused(arguments, capsys)
    assert tree(tmp_path) == {"photos/1.jpg": b"a user's"}


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("place", ["file", "file/below", "/proc/x", "/proc/self", "x" * 300])
def test_a_place_that_cannot_be_written_is_found_before_the_work(
    place: str, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("a user's")
    assert "--output-dir" in refused(LiftArguments(export=exported, output_dir=tmp_path / place), capsys)
    assert tree(tmp_path) == {"file": b"a user's"}


@pytest.mark.usefixtures("no_work")
def test_a_capture_whose_folder_has_no_scenes_name_needs_one(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capture = write_capture(tmp_path / "photos (1)")
    arguments = LiftArguments(ply=exported / "splat.ply", data=capture, output_dir=tmp_path / "runs")
    assert "give another with --name" in refused(arguments, capsys)
    with pytest.raises(AssertionError, match="the work was begun"):
        run(dataclasses.replace(arguments, name="photos 1"))


def test_lifting_again_is_silent_and_another_content_needs_overwrite(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = LiftArguments(export=exported, output_dir=tmp_path / "runs", feature_dim=4)
    made = run(arguments)
    run(arguments)
    before = tree(made)
    other = dataclasses.replace(arguments, feature_dim=3)
    assert "--overwrite" in refused(other, capsys)
    assert tree(made) == before
    run(dataclasses.replace(other, overwrite=True))
    assert FeatureGaussians.load(made).scene.feature_dim == 3
    itself = LiftArguments(export=made, output_dir=tmp_path / "runs", overwrite=True)
    assert "is the export to lift from" in refused(itself, capsys)
