"""fit3d-export writes what was trained, and nothing when it should not."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fit3d_ns.capture.images import load_image
from fit3d_ns.capture.lens import undistort
from fit3d_ns.commands.export import ExportArguments, run
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.decoder import FeatureDecoder
from fit3d_ns.method import export
from fit3d_ns.method.export import export_run
from fit3d_ns.method.runs import finished_runs
from fit3d_ns.method.trainer import Fit3DTrainer, Fit3DTrainerConfig
from fit3d_ns.scene.gaussians import FeatureGaussians
from fit3d_ns.scene.render import render_features, render_rgb
from tests.fit3d_ns.method.runs import make_config, train
from tests.scenes import write_capture


@pytest.fixture(scope="module")
def distorted_run(tmp_path_factory: pytest.TempPathFactory) -> Fit3DTrainer:
    """A run on a distorted capture with masks, moving cameras and a random start."""
    folder = tmp_path_factory.mktemp("distorted")
    capture = write_capture(folder / "scene", distortion=(0.05, -0.02), masks=True)

    def with_poses(config: Fit3DTrainerConfig) -> None:
        config.pipeline.model.camera_optimizer.mode = "SO3xR3"
        config.optimizers["camera_opt"]["scheduler"] = None

    return train(make_config(capture, folder / "outputs", steps=40, change=with_poses))


@pytest.fixture(scope="module")
def exported(distorted_run: Fit3DTrainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_run(distorted_run.base_dir / "config.yml", tmp_path_factory.mktemp("runs"))


def test_rendering_the_export_equals_rendering_the_checkpoint(distorted_run: Fit3DTrainer, exported: Path) -> None:
    gaussians = FeatureGaussians.load(exported)
    model, datamanager = distorted_run.pipeline.model, distorted_run.pipeline.datamanager
    model.eval()
    train_views = [view for view in gaussians.scene.views if view.split == "train"]
    for index in (0, 4):
        camera = datamanager.train_cameras[index : index + 1]
        camera.metadata = {"cam_idx": index}
        camera.camera_to_worlds = model.camera_optimizer.apply_to_camera(camera).detach()
        with torch.no_grad():
            expected = model.get_outputs_for_camera(camera)
            expected_features = model.render_features(camera)[..., :-1]
            view = train_views[index].pinhole()
            features, alpha = render_features(gaussians, view)
            background = tuple(model.background_color.tolist())
            rgb, _ = render_rgb(gaussians, view, background)
        torch.testing.assert_close(rgb, expected["rgb"], atol=1e-4, rtol=0)
        torch.testing.assert_close(alpha, expected["accumulation"], atol=1e-5, rtol=0)
        largest = float(gaussians.features.abs().max())
        torch.testing.assert_close(features, expected_features, atol=2**-10 * largest, rtol=0)


def test_the_exported_decoder_is_the_models(distorted_run: Fit3DTrainer, exported: Path) -> None:
    gaussians = FeatureGaussians.load(exported)
    scene = gaussians.scene
    decoder = FeatureDecoder(scene.decoder, scene.feature_dim, scene.channels)
    decoder.load_state_dict(gaussians.decoder)
    features = torch.randn(5, scene.feature_dim)
    torch.testing.assert_close(decoder(features), distorted_run.pipeline.model.decoder(features))


def test_the_exported_views_lead_to_the_images_that_were_trained_on(
    distorted_run: Fit3DTrainer, exported: Path
) -> None:
    scene = FeatureGaussians.load(exported).scene
    cached = distorted_run.pipeline.datamanager.cached_train
    maps = distorted_run.pipeline.datamanager.train_features
    train_views = [view for view in scene.views if view.split == "train"]
    assert len(train_views) == len(cached)
    for view, batch, size in zip(train_views, cached, maps.grid_sizes, strict=True):
        image = load_image(Path(scene.images_root) / view.path)
        undistorted, _ = undistort(image, view.K, view.distortion, view.camera_model)
        np.testing.assert_array_equal(undistorted, batch["image"].numpy())
        assert view.grid == size
        assert view.mask_path is not None
        assert (Path(scene.images_root) / view.mask_path).is_file()


def test_previews_show_held_out_views(exported: Path) -> None:
    sheet = np.asarray(Image.open(exported / "previews.png"), dtype=float)
    width = sheet.shape[1] // 4
    for panel in range(4):  # photo, rgb, feature_pca, depth
        assert sheet[:, panel * width : (panel + 1) * width].std() > 5


def test_every_finished_run_is_exported_and_others_are_left_out(tiny_capture: Path, tmp_path: Path) -> None:
    def named(scene: str, time_stamp: str, steps: int, planned: int) -> Path:
        def change(config: Fit3DTrainerConfig) -> None:
            config.experiment_name, config.timestamp = scene, time_stamp

        trainer = train(make_config(tiny_capture, tmp_path / "outputs", steps=steps, change=change))
        trainer.config.max_num_iterations = planned
        trainer.config.save_config()
        return trainer.base_dir / "config.yml"

    named("a", "2026-01-01_000000", 2, 2)
    newer = named("a", "2026-01-02_000000", 2, 2)
    named("b", "2026-01-01_000000", 2, 3000)  # stopped early
    assert finished_runs(tmp_path / "outputs") == [newer]
    run(ExportArguments(all=tmp_path / "outputs", output_dir=tmp_path / "runs", previews=0))
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (ExportArguments(), "give either --load-config"),
        (ExportArguments(load_config=Path("nowhere/config.yml")), "does not exist"),
        (ExportArguments(all=Path("nowhere")), "has no finished fit3d run"),
    ],
)
def test_bad_arguments_are_one_sentence_and_exit_code_2(
    arguments: ExportArguments, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(arguments)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line


def test_a_run_of_another_method_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text("a: 1\n")
    with pytest.raises(InputError, match=r"not the config\.yml of a fit3d method"):
        export_run(path, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


# ---- nobody's files


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(arguments: ExportArguments, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        run(arguments)
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """What must be found before the work begins is found without it."""

    def work(*_: object) -> None:
        raise AssertionError("the work was begun")

    monkeypatch.setattr(export, "load_pipeline", work)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["../victim", "..", ".", "", "/absolute", "a/b", ".hidden", "x" * 256])
def test_a_name_that_leads_elsewhere_is_refused_and_nothing_is_touched(
    name: str, overwrite: bool, distorted_run: Fit3DTrainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim/photo.jpg").write_text("a user's")
    config = distorted_run.base_dir / "config.yml"
    arguments = ExportArguments(load_config=config, output_dir=tmp_path / "runs", name=name, overwrite=overwrite)
    assert "--name is" in refused(arguments, capsys)
    assert tree(tmp_path) == {"victim/photo.jpg": b"a user's"}
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("no_work")
def test_an_experiment_whose_name_leads_elsewhere_needs_another_name(
    distorted_run: Fit3DTrainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(distorted_run.base_dir, tmp_path / "run")
    config = tmp_path / "run/config.yml"
    config.write_text(config.read_text().replace("experiment_name: tiny", "experiment_name: ../victim"))
    (tmp_path / "victim").mkdir()
    arguments = ExportArguments(load_config=config, output_dir=tmp_path / "runs", overwrite=True)
    assert "--name" in refused(arguments, capsys)
    assert (tmp_path / "victim").is_dir()
    with pytest.raises(AssertionError, match="the work was begun"):
        run(dataclasses.replace(arguments, name="fine"))
    assert "--name names one scene" in refused(ExportArguments(all=tmp_path, name="fine"), capsys)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_photos_of_the_scenes_name_stays(
    distorted_run: Fit3DTrainer, tmp_path: Path, overwrite: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/1.jpg").write_text("a user's")
    config = distorted_run.base_dir / "config.yml"
    arguments = ExportArguments(load_config=config, output_dir=tmp_path, name="photos", overwrite=overwrite)
    assert "photos is a folder that fit3d did not write" in refused(arguments, capsys)
    assert tree(tmp_path) == {"photos/1.jpg": b"a user's"}


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("place", ["file", "file/below", "/proc/x", "/proc/self", "x" * 300])
@pytest.mark.parametrize("many", [False, True])
def test_a_place_that_cannot_be_written_is_found_before_the_work(
    place: str, many: bool, distorted_run: Fit3DTrainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("a user's")
    config = distorted_run.base_dir / "config.yml"
    what = {"all": distorted_run.base_dir} if many else {"load_config": config}
    assert "--output-dir" in refused(ExportArguments(**what, output_dir=tmp_path / place), capsys)  # type: ignore[arg-type]
    assert tree(tmp_path) == {"file": b"a user's"}


def test_exporting_again_is_silent_and_another_content_needs_overwrite(
    distorted_run: Fit3DTrainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ExportArguments(
        load_config=distorted_run.base_dir / "config.yml", output_dir=tmp_path / "runs", previews=0
    )
    run(arguments)
    run(arguments)
    before = tree(tmp_path)
    other = dataclasses.replace(arguments, feature_storage="int8")
    assert "--overwrite" in refused(other, capsys)
    assert tree(tmp_path) == before
    run(dataclasses.replace(other, overwrite=True))
    assert FeatureGaussians.load(tmp_path / "runs/tiny").scene.feature_storage == "int8"
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["tiny"]
