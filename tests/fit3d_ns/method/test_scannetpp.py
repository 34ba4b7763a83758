"""ScanNet++'s DSLR scenes as they are downloaded: points, masks, splits, and a scene trained and exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.configs.dataparser_configs import all_dataparsers
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs

from fit3d_ns.common.errors import InputError
from fit3d_ns.method.export import export_run
from fit3d_ns.method.scannetpp import Fit3DScanNetppDataParserConfig
from fit3d_ns.method.trainer import Fit3DTrainerConfig
from fit3d_ns.scene.gaussians import FeatureGaussians
from tests.fit3d_ns.method.colmap_model import write_colmap_model
from tests.fit3d_ns.method.runs import make_config, train
from tests.scenes import write_capture

FISHEYE = {"camera_model": "OPENCV_FISHEYE", "k1": 0.02, "k2": -0.01, "k3": 0.002, "k4": 0.0}
AXES = np.array([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]])
"""From the world of the COLMAP model to that of transforms.json."""
TEST_FRAMES = 2


def write_scene(folder: Path, test_frames: int = TEST_FRAMES, undistorted: bool = False) -> Path:
    """A scene of ten photos in ScanNet++'s layout; the last ones are test frames."""
    capture = write_capture(folder / "capture", masks=True)
    meta = json.loads((capture / "transforms.json").read_text())
    # The model is written in its own world, in which the poses of transforms.json are with AXES.
    in_model = [
        {**frame, "transform_matrix": (np.linalg.inv(AXES) @ np.array(frame["transform_matrix"])).tolist()}
        for frame in meta["frames"]
    ]
    (capture / "transforms.json").write_text(json.dumps({**meta, "frames": in_model}))
    turn_points(capture / "points.ply")
    write_colmap_model(capture)
    scene, dslr = folder / "0a5c013435", folder / "0a5c013435" / "dslr"
    (dslr / "nerfstudio").mkdir(parents=True)
    shutil.move(capture / "sparse" / "0", dslr / "colmap")
    names = ("undistorted_images", "undistorted_anon_masks", "transforms_undistorted.json")
    images, masks, transforms = names if undistorted else ("resized_images", "resized_anon_masks", "transforms.json")
    shutil.move(capture / "images", dslr / images)
    shutil.move(capture / "masks", dslr / masks)
    frames = [
        {
            "file_path": Path(frame["file_path"]).name,
            "mask_path": Path(frame["mask_path"]).name,
            "transform_matrix": frame["transform_matrix"],
            "is_bad": index == 3,
        }
        for index, frame in enumerate(meta["frames"])
    ]
    last = len(frames) - test_frames
    lens = {"camera_model": "PINHOLE", "k1": 0.0} if undistorted else FISHEYE
    written = {key: meta[key] for key in ("w", "h", "fl_x", "fl_y", "cx", "cy")} | lens
    # As the toolkit writes them: the undistorted file has test frames among the others, too.
    written |= {"frames": frames if undistorted else frames[:last], "test_frames": frames[last:]}
    if not test_frames:
        del written["test_frames"]
    (dslr / "nerfstudio" / transforms).write_text(json.dumps(written))
    return scene


def turn_points(path: Path) -> None:
    header, body = path.read_text().split("end_header\n")
    rows = [line.split() for line in body.splitlines()]
    turned = np.array([[float(value) for value in row[:3]] for row in rows]) @ AXES[:3, :3]
    lines = [" ".join([*map(repr, place.tolist()), *row[3:]]) for place, row in zip(turned, rows, strict=True)]
    path.write_text(f"{header}end_header\n" + "\n".join(lines) + "\n")


def parsed(scene: Path, split: str = "train", **options: Any) -> DataparserOutputs:
    config = Fit3DScanNetppDataParserConfig(data=scene, **options)
    outputs: DataparserOutputs = config.setup().get_dataparser_outputs(split)
    return outputs


def names(outputs: DataparserOutputs) -> list[str]:
    return [path.name for path in outputs.image_filenames]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("scannetpp"))


def edited(scene: Path, folder: Path, change: Any) -> Path:
    """A copy of the scene whose transforms.json `change` has edited."""
    copy = folder / "copy"
    shutil.copytree(scene, copy)
    path = copy / "dslr/nerfstudio/transforms.json"
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))
    return copy


def test_nerfstudio_knows_it_and_its_own_is_left_alone() -> None:
    assert type(all_dataparsers["fit3d-scannetpp-data"]) is Fit3DScanNetppDataParserConfig
    assert type(all_dataparsers["scannetpp-data"]).__module__.startswith("nerfstudio.")


def test_the_points_lie_among_the_cameras_whatever_axes_the_model_has(scene: Path) -> None:
    from tests.scenes import ROOM

    outputs = parsed(scene)
    points = outputs.metadata["points3D_xyz"]
    rows = (ROOM / "sparse_pc.ply").read_text().split("end_header\n")[1].splitlines()
    places = torch.tensor([[float(value) for value in row.split()[:3]] for row in rows])
    transform = outputs.dataparser_transform
    expected = outputs.dataparser_scale * (places @ transform[:, :3].T + transform[:, 3])
    nearest = torch.cdist(points.double(), expected.double()).min(1).values
    assert len(points) == 1500
    assert float(nearest.max()) < 1e-4
    assert outputs.metadata["points3D_rgb"].dtype == torch.uint8


def test_published_test_frames_are_the_evaluation_split(scene: Path) -> None:
    train_names, eval_names = names(parsed(scene)), names(parsed(scene, "val"))
    assert (len(train_names), len(eval_names)) == (8, TEST_FRAMES)
    assert not set(train_names) & set(eval_names)
    outputs = parsed(scene)
    assert [path.name for path in outputs.mask_filenames] == [Path(name).stem + ".png" for name in train_names]
    assert outputs.mask_filenames[0].parent.name == "resized_anon_masks"
    assert parsed(scene, use_masks=False).mask_filenames is None


def test_without_test_frames_every_eighth_one_is_held_out(tmp_path: Path) -> None:
    scene = write_scene(tmp_path, test_frames=0)
    train_names, eval_names = names(parsed(scene)), names(parsed(scene, "val"))
    assert (len(train_names), len(eval_names)) == (8, 2)
    everything = sorted(train_names + eval_names)
    assert [everything.index(name) for name in eval_names] == [0, 8]


def test_test_frames_of_hidden_scenes_have_no_photos(scene: Path, tmp_path: Path) -> None:
    copy = edited(scene, tmp_path, lambda meta: meta["test_frames"][0].update(file_path="DSC09999.JPG"))
    assert len(names(parsed(copy, "val"))) == TEST_FRAMES - 1


def test_bad_frames_are_kept_unless_asked(scene: Path) -> None:
    kept, left = names(parsed(scene)), names(parsed(scene, skip_bad_frames=True))
    assert len(kept) - len(left) == 1


def test_undistorted_photos_list_test_frames_once(tmp_path: Path) -> None:
    scene = write_scene(tmp_path, undistorted=True)
    outputs = parsed(scene, undistorted=True)
    assert len(names(outputs)) == 8
    assert not set(names(outputs)) & set(names(parsed(scene, "val", undistorted=True)))
    assert outputs.image_filenames[0].parent.name == "undistorted_images"
    assert float(outputs.cameras.distortion_params.abs().max()) == 0


def test_a_model_of_other_cameras_is_refused(scene: Path, tmp_path: Path) -> None:
    def move(meta: dict[str, Any]) -> None:
        meta["frames"][2]["transform_matrix"][0][3] += 0.5

    with pytest.raises(InputError, match=r"has other cameras than transforms\.json"):
        parsed(edited(scene, tmp_path, move))


@pytest.mark.parametrize(
    ("gone", "fault"),
    [
        ("nerfstudio/transforms.json", "has no cameras of ScanNet"),
        ("resized_images", "has no photos of ScanNet"),
        ("resized_anon_masks", "has no masks of ScanNet.* --use-masks False"),
        ("colmap/points3D.txt", "has no points3D.txt: .* --load-3D-points False"),
    ],
)
def test_what_is_missing_is_named(scene: Path, tmp_path: Path, gone: str, fault: str) -> None:
    copy = edited(scene, tmp_path, lambda meta: None)
    path = copy / "dslr" / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match=fault):
        parsed(copy)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda meta: meta.update(frames=3), '"frames" of .* is no list'),
        (lambda meta: meta.update(frames=[], test_frames=[]), "lists no photos"),
        (lambda meta: meta["frames"][0].pop("file_path"), 'has no "file_path"'),
        (lambda meta: meta["frames"][0].update(transform_matrix=[[1]]), "transform_matrix of .*: download"),
        (lambda meta: meta.pop("fl_x"), 'gives no "fl_x"'),
        (lambda meta: meta.update(camera_model="PANORAMA"), "camera_model 'PANORAMA'"),
    ],
)
def test_a_damaged_file_is_refused(scene: Path, tmp_path: Path, change: Any, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        parsed(edited(scene, tmp_path, change))


def test_a_scene_is_trained_and_exported(scene: Path, tmp_path: Path) -> None:
    def with_parser(config: Fit3DTrainerConfig) -> None:
        config.pipeline.datamanager.dataparser = Fit3DScanNetppDataParserConfig(data=scene)

    trainer = train(make_config(scene, tmp_path / "outputs", steps=20, change=with_parser))
    folder = export_run(trainer.base_dir / "config.yml", tmp_path / "runs")
    info = FeatureGaussians.load(folder).scene
    assert {view.camera_model for view in info.views} == {"OPENCV_FISHEYE"}
    assert [view.split for view in info.views].count("eval") == TEST_FRAMES
    assert info.views[0].path.startswith("dslr/resized_images/")
    assert str(info.views[0].mask_path).startswith("dslr/resized_anon_masks/")
    assert Path(info.images_root) == scene
