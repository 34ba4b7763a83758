"""fit3d-capture: photos and a video to a capture that trains, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from fit3d_ns.capture.checks import check_transforms
from fit3d_ns.commands import capture
from fit3d_ns.commands.capture import CaptureArguments, run
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.kept_rates import keep_rate
from fit3d_ns.reconstruction import engine
from fit3d_ns.reconstruction import photos as reconstruction_photos
from fit3d_ns.reconstruction.preview import RATES
from fit3d_ns.reconstruction.workplace import WORK_FOLDER
from fit3d_ns.scene.gaussians import FeatureGaussians
from tests.console_scripts import run_script, train_briefly
from tests.trees import figures, listed

FOX = Path(__file__).parents[4] / "shared" / "data" / "fox"
SMALL = (270, 480)

needs_pycolmap = pytest.mark.skipif(importlib.util.find_spec("pycolmap") is None, reason="needs pycolmap")
needs_fox = pytest.mark.skipif(not FOX.is_dir(), reason=f"needs the fox photos in {FOX}")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every second of the first photos of the fox, small."""
    folder = tmp_path_factory.mktemp("fox")
    for path in sorted((FOX / "images").glob("*.jpg"))[:16:2]:
        with Image.open(path) as photo:
            photo.resize(SMALL, Image.Resampling.LANCZOS).save(folder / path.name, quality=95)
    return folder


def is_capture(folder: Path) -> dict[str, object]:
    """Check a capture as training does and as nerfstudio reads it; returns its summary."""
    assert not (folder / WORK_FOLDER).exists()
    check_transforms(folder)
    parsed = NerfstudioDataParserConfig(data=folder, load_3D_points=True).setup().get_dataparser_outputs("train")
    summary = json.loads((folder / "capture.json").read_text())
    assert len(parsed.image_filenames) >= 3
    assert len(parsed.metadata["points3D_xyz"]) == summary["points"] > 50
    assert sorted(path.name for path in folder.iterdir()) == sorted(summary["files"])
    return summary


def centres(folder: Path, names: dict[str, str] | None = None) -> dict[str, np.ndarray]:
    """Where the photos of a transforms.json were taken, by their given names."""
    frames = json.loads((folder / "transforms.json").read_text())["frames"]
    found = {Path(frame["file_path"]).name: np.array(frame["transform_matrix"])[:3, 3] for frame in frames}
    return found if names is None else {names[name]: centre for name, centre in found.items()}


def misfit(ours: np.ndarray, theirs: np.ndarray) -> float:
    """RMS distance after the best similarity transform, as a share of the spread: [N, 3] each."""
    a, b = ours - ours.mean(0), theirs - theirs.mean(0)
    u, s, vt = np.linalg.svd(b.T @ a)
    sign = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    scale = (s * np.diag(sign)).sum() / (a**2).sum()
    rest = b - scale * a @ (u @ sign @ vt).T
    return float(np.sqrt((rest**2).sum() / (b**2).sum()))


@needs_pycolmap
@needs_fox
def test_photos_become_a_capture_that_agrees_with_the_known_poses(photos: Path, tmp_path: Path) -> None:
    output = run(CaptureArguments(photos, tmp_path / "room"))
    summary = is_capture(output)
    assert summary["registered"] == 8
    assert (summary["matching"], summary["mapper"]) == ("exhaustive", "incremental")
    assert len(summary["cameras"]) == 1
    assert summary["mean_reprojection_error"] < 1.0
    ours, known = centres(output, summary["given_names"]), centres(FOX)
    assert misfit(np.array(list(ours.values())), np.array([known[name] for name in ours])) < 0.03
    with pytest.raises(InputError, match="holds a capture already"):
        run.__wrapped__(CaptureArguments(photos, output))


@needs_pycolmap
@needs_fox
def test_a_video_becomes_a_capture(tmp_path: Path) -> None:
    """Made of photos: between two of them blurred ones, and one photo that stands for a while."""
    video = tmp_path / "fox.mp4"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"mp4v"), 10, SMALL)
    kept = []
    count = 0
    for path in sorted((FOX / "images").glob("*.jpg"))[:18:3]:
        frame = cv2.resize(cv2.imread(str(path)), SMALL, interpolation=cv2.INTER_AREA)
        kept.append(range(count, count + 3))
        for _ in range(3):
            writer.write(frame)
        writer.write(cv2.GaussianBlur(frame, (0, 0), 6))
        count += 4
    writer.release()

    output = run(CaptureArguments(video, tmp_path / "room", frames=12, camera_model="SIMPLE_RADIAL"))
    summary = is_capture(output)
    assert (summary["kind"], summary["matching"]) == ("video", "sequential")
    assert 5 <= summary["registered"] <= summary["photos"] <= 12
    picked = [int(given.removeprefix("frame ")) for given in summary["given_names"].values()]
    assert all(any(index in sharp for sharp in kept) for index in picked)


@needs_pycolmap
@needs_fox
def test_what_was_stopped_goes_on(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = CaptureArguments(photos, tmp_path / "room", matching="sequential", feature_size=400)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine, "match_features", stop)
        with pytest.raises(KeyboardInterrupt):
            run(arguments)
    assert [path.name for path in arguments.output_dir.iterdir()] == [WORK_FOLDER]
    database = arguments.output_dir / WORK_FOLDER / "database.db"
    before = {name: features.tobytes() for name, features in engine.read_descriptors(database).items()}
    assert len(before) == 8

    def features_are_as_they_were(place: Path, *_: object) -> None:
        after = engine.read_descriptors(place)
        assert {name: features.tobytes() for name, features in after.items()} == before
        assert len({image.camera_id for image in engine.load_pycolmap().Database.open(place).read_all_images()}) == 1
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(reconstruction_photos, "prepare_photos", None)
        patch.setattr(engine, "match_features", features_are_as_they_were)
        with pytest.raises(KeyboardInterrupt):
            run(arguments)
    assert is_capture(run(arguments))["photos"] == 8


@needs_pycolmap
@needs_fox
def test_features_that_are_found_in_two_runs_share_the_camera(photos: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in photos.iterdir())[:4]
    database = tmp_path / "database.db"
    for given in (names[:2], names):
        engine.extract_features(database, photos, [given], "OPENCV", 200)
    with engine.load_pycolmap().Database.open(database) as opened:
        assert [image.camera_id for image in opened.read_all_images()] == [1] * 4


@needs_pycolmap
def test_photos_without_anything_in_common_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    for index in range(4):
        noise = np.random.default_rng(index).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((200, 150)).save(source / f"{index}.png")
    with pytest.raises(InputError, match=r"places of only \d of 4 photos"):
        run.__wrapped__(CaptureArguments(source, tmp_path / "room"))
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@needs_pycolmap
@needs_fox
@pytest.mark.slow
def test_a_capture_is_trained_and_exported(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "room"
    run_script("fit3d-capture", photos, "--output-dir", output)
    config = train_briefly(output, tmp_path / "outputs", steps=60)
    run_script("fit3d-export", "--load-config", config, "--output-dir", tmp_path / "runs")
    (export,) = (path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    assert len(FeatureGaussians.load(export).means) > 0


@needs_pycolmap
@needs_fox
def test_photos_of_two_sizes_have_two_cameras(photos: Path, tmp_path: Path) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    for index, path in enumerate(sorted(photos.iterdir())[:6]):
        with Image.open(path) as photo:
            size = SMALL if index % 2 else (SMALL[0] * 4 // 5, SMALL[1] * 4 // 5)
            photo.resize(size, Image.Resampling.LANCZOS).save(source / path.name, quality=95)
    output = run(CaptureArguments(source, tmp_path / "room", camera_model="SIMPLE_RADIAL"))
    assert len(is_capture(output)["cameras"]) == 2
    assert json.loads((output / "transforms.json").read_text())["camera_model"] == "OPENCV"


def refused(arguments: CaptureArguments) -> str:
    with pytest.raises(InputError) as raised:
        run.__wrapped__(arguments)
    return str(raised.value)


@needs_pycolmap
def test_bad_input_is_one_sentence_and_nothing_is_written(tmp_path: Path) -> None:
    empty, text, output = tmp_path / "empty", tmp_path / "notes.mp4", tmp_path / "room"
    empty.mkdir()
    text.write_text("this is no video")
    before = sorted(tmp_path.rglob("*"))
    assert "holds 0 photos" in refused(CaptureArguments(empty, output))
    assert "no video that can be decoded" in refused(CaptureArguments(text, output))
    assert "is not there" in refused(CaptureArguments(tmp_path / "missing", output))
    assert "--frames is 2" in refused(CaptureArguments(text, output, frames=2))
    assert "--max-photos is 1" in refused(CaptureArguments(empty, output, max_photos=1))
    assert "--feature-size is 50" in refused(CaptureArguments(empty, output, feature_size=50))
    assert sorted(tmp_path.rglob("*")) == before


@needs_pycolmap
def test_places_that_are_others_are_refused(tmp_path: Path) -> None:
    source, output = tmp_path / "photos", tmp_path / "room"
    source.mkdir()
    for index in range(3):
        Image.new("RGB", (40, 30)).save(source / f"{index}.png")
    assert "lies in the folder of the photos" in refused(CaptureArguments(source, source / "room"))
    output.mkdir()
    (output / "thesis.txt").write_text("mine")
    assert "holds thesis.txt" in refused(CaptureArguments(source, output))
    assert "is a file" in refused(CaptureArguments(source, output / "thesis.txt"))
    assert (output / "thesis.txt").read_text() == "mine"


def test_without_pycolmap_one_sentence_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(SystemExit) as ended:
        run(CaptureArguments(tmp_path, tmp_path / "room"))
    assert ended.value.code == 2
    assert "error: fit3d-capture needs the package pycolmap: pip install 'pycolmap>=4.2,<5'." in capsys.readouterr().err


def test_large_sets_are_compared_by_likeness(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{index:04d}" for index in range(200)]
    generator = np.random.default_rng(0)
    found = {name: generator.integers(0, 255, (20, 128), dtype=np.uint8) for name in names}
    monkeypatch.setattr(engine, "read_descriptors", lambda database: found)

    class Place:
        database = Path("x")

    choices = [
        capture.choose_pairs("auto", names[:n], video, Place())  # type: ignore[arg-type]
        for n, video in ((150, False), (200, False), (200, True))
    ]
    assert [matching for matching, _ in choices] == ["exhaustive", "alike", "sequential"]
    assert len(choices[1][1]) < 200 * 199 / 2


# ---- the plan without the capture


@needs_pycolmap
@needs_fox
def test_a_dry_run_says_what_a_capture_would_take_and_writes_nothing(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FIT3D_CACHE_DIR", str(tmp_path / "cache"))
    before = listed(tmp_path, photos)
    run(CaptureArguments(photos, tmp_path / "new" / "room", dry_run=True))
    assert listed(tmp_path, photos) == before
    said = figures(capsys.readouterr().out)
    assert said["Pairs"] == "28 to compare (exhaustive)"
    assert said["poses of 8 photos"].startswith("no estimate")
    assert "no capture of 3 to 24 photos was made on this machine yet" in said["poses of 8 photos"]
    assert re.match(r"0:0\d:", said["features of 8 photos"])
    assert said["Time"].endswith(", and what has no estimate")

    keep_rate(
        RATES, mapper="incremental", photos=10, poses_seconds=20.0, memory=500e9
    )  # more than this process ever had
    run(CaptureArguments(photos, tmp_path / "new" / "room", dry_run=True))
    said = figures(capsys.readouterr().out)
    assert said["poses of 8 photos"].startswith("0:00:16 (2.00 s each")
    assert said["Time"].endswith("in all")
    assert said["Memory"].startswith("500.0 GB")


@needs_pycolmap
def test_a_dry_run_refuses_what_a_capture_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = tmp_path / "photos"
    given.mkdir()
    for number in range(4):
        Image.fromarray(np.full((240, 320, 3), number, np.uint8)).save(given / f"{number}.png")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "video.mp4").write_bytes(b"none")
    cut = tmp_path / "cut"
    cut.mkdir()
    for path in given.iterdir():
        (cut / path.name).write_bytes(path.read_bytes())
    (cut / "3.png").write_bytes((given / "3.png").read_bytes()[:100])
    for source, output in (
        (given, tmp_path / "full"),
        (given, given / "room"),
        (tmp_path / "video.mp4", tmp_path / "room"),
        (cut, tmp_path / "room"),
        (tmp_path / "none", tmp_path / "room"),
    ):
        said = []
        for dry_run in (False, True):
            with pytest.raises(SystemExit) as stop:
                run(CaptureArguments(source, output, dry_run=dry_run))
            assert stop.value.code == 2
            said.append([line for line in capsys.readouterr().err.splitlines() if "error" in line])
        assert said[0] == said[1] != []
        assert not (tmp_path / "room").exists()
