"""Captures in the formats of other data sets and apps, through nerfstudio's own routes: trained and exported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from nerfstudio.data.dataparsers.arkitscenes_dataparser import ARKitScenesDataParserConfig
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.dataparsers.scannet_dataparser import ScanNetDataParserConfig
from nerfstudio.scripts.process_data import ProcessPolycam, ProcessRecord3D
from PIL import Image
from scipy.spatial.transform import Rotation

from fit3d_ns.method.export import export_run
from fit3d_ns.method.trainer import Fit3DTrainerConfig
from fit3d_ns.scene.gaussians import FeatureGaussians
from tests.fit3d_ns.method.runs import make_config, train
from tests.scenes import write_capture

TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
VIEWS = 10
needs_ffmpeg = pytest.mark.skipif(
    shutil.which("ffmpeg") is None, reason="ns-process-data needs ffmpeg: not on the PATH"
)


class Capture:
    """The sample room's photos, with what every format says of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = write_capture(folder, views=VIEWS)
        self.meta = json.loads((self.folder / "transforms.json").read_text())
        self.poses = [np.array(frame["transform_matrix"]) for frame in self.meta["frames"]]
        """Camera to world, OpenGL's axes."""

    def photo(self, index: int) -> Image.Image:
        return Image.open(self.folder / self.meta["frames"][index]["file_path"]).convert("RGB")

    @property
    def intrinsics(self) -> np.ndarray:
        meta = self.meta
        return np.array([[meta["fl_x"], 0, meta["cx"]], [0, meta["fl_y"], meta["cy"]], [0, 0, 1.0]])


@pytest.fixture
def capture(tmp_path: Path) -> Capture:
    return Capture(tmp_path / "capture")


def write_scannet(capture: Capture, folder: Path) -> Path:
    """As ScanNet's SensReader exports a scan: color/, depth/, pose/, intrinsic/, and its mesh."""
    for name in ("color", "depth", "pose", "intrinsic"):
        (folder / name).mkdir(parents=True)
    K = np.eye(4)
    K[:3, :3] = capture.intrinsics
    np.savetxt(folder / "intrinsic" / "intrinsic_color.txt", K)
    for index, pose in enumerate(capture.poses):
        capture.photo(index).save(folder / "color" / f"{index}.jpg", quality=95)
        Image.fromarray(np.full((48, 64), 2_000, np.uint16)).save(folder / "depth" / f"{index}.png")
        np.savetxt(folder / "pose" / f"{index}.txt", pose @ TO_OPENCV)
    # Frames that were lost have no pose, and are left out.
    capture.photo(0).save(folder / "color" / f"{VIEWS}.jpg")
    Image.fromarray(np.zeros((48, 64), np.uint16)).save(folder / "depth" / f"{VIEWS}.png")
    np.savetxt(folder / "pose" / f"{VIEWS}.txt", np.full((4, 4), -np.inf))
    shutil.copy(capture.folder / "points.ply", folder / f"{folder.name}_vh_clean_2.ply")
    return folder


def write_arkitscenes(capture: Capture, folder: Path) -> Path:
    """As ARKitScenes' 3dod subset is downloaded: VIDEO_frames/ with photos, intrinsics, depth and trajectory."""
    frames = folder / f"{folder.name}_frames"
    for name in ("lowres_wide", "lowres_depth", "lowres_wide_intrinsics"):
        (frames / name).mkdir(parents=True)
    meta, lines = capture.meta, []
    for index, pose in enumerate(capture.poses):
        stamp = f"{300 + 0.1 * index:.3f}"
        capture.photo(index).save(frames / "lowres_wide" / f"{folder.name}_{stamp}.png")
        Image.fromarray(np.full((48, 64), 2_000, np.uint16)).save(
            frames / "lowres_depth" / f"{folder.name}_{stamp}.png"
        )
        numbers = (meta[key] for key in ("w", "h", "fl_x", "fl_y", "cx", "cy"))
        pincam = frames / "lowres_wide_intrinsics" / f"{folder.name}_{stamp}.pincam"
        pincam.write_text(" ".join(map(str, numbers)))
        to_camera = np.linalg.inv(pose @ TO_OPENCV)
        turn, _ = cv2.Rodrigues(to_camera[:3, :3])
        lines.append(" ".join(map(str, [stamp, *turn[:, 0], *to_camera[:3, 3]])))
    (frames / "lowres_wide.traj").write_text("\n".join(lines) + "\n")
    return folder


def write_record3d(capture: Capture, folder: Path) -> Path:
    """As Record3D exports an .r3d, unpacked: rgb/ and metadata.json."""
    (folder / "rgb").mkdir(parents=True)
    meta, poses = capture.meta, []
    for index, pose in enumerate(capture.poses):
        capture.photo(index).save(folder / "rgb" / f"{index}.jpg", quality=95)
        poses.append([*Rotation.from_matrix(pose[:3, :3]).as_quat().tolist(), *pose[:3, 3].tolist()])
    values = {"poses": poses, "K": capture.intrinsics.T.flatten().tolist(), "h": meta["h"], "w": meta["w"], "fps": 60}
    (folder / "metadata.json").write_text(json.dumps(values))
    return folder


def write_polycam(capture: Capture, folder: Path) -> Path:
    """As Polycam exports raw data in developer mode: keyframes/ with corrected images and cameras."""
    for name in ("corrected_images", "corrected_cameras", "depth"):
        (folder / "keyframes" / name).mkdir(parents=True)
    meta = capture.meta
    for index, pose in enumerate(capture.poses):
        stem = str(1_000 + index)
        capture.photo(index).save(folder / "keyframes" / "corrected_images" / f"{stem}.jpg", quality=95)
        Image.fromarray(np.full((48, 64), 2_000, np.uint16)).save(folder / "keyframes" / "depth" / f"{stem}.png")
        values = {f"t_{row}{column}": pose[row, column] for row in range(3) for column in range(4)}
        values |= {"fx": meta["fl_x"], "fy": meta["fl_y"], "cx": meta["cx"], "cy": meta["cy"]}
        values |= {"width": meta["w"], "height": meta["h"], "blur_score": 100.0}
        (folder / "keyframes" / "corrected_cameras" / f"{stem}.json").write_text(json.dumps(values))
    return folder


def scannet(capture: Capture, folder: Path) -> DataParserConfig:
    data = write_scannet(capture, folder / "scene0000_00")
    return ScanNetDataParserConfig(data=data, ply_file_path=data / "scene0000_00_vh_clean_2.ply")


def arkitscenes(capture: Capture, folder: Path) -> DataParserConfig:
    return ARKitScenesDataParserConfig(data=write_arkitscenes(capture, folder / "41069021"))


def record3d(capture: Capture, folder: Path) -> DataParserConfig:
    data = write_record3d(capture, folder / "raw")
    ProcessRecord3D(data=data, output_dir=folder / "room", num_downscales=0).main()
    return NerfstudioDataParserConfig(data=folder / "room")


def polycam(capture: Capture, folder: Path) -> DataParserConfig:
    data = write_polycam(capture, folder / "raw")
    ProcessPolycam(data=data, output_dir=folder / "room", num_downscales=0, crop_border_pixels=2).main()
    return NerfstudioDataParserConfig(data=folder / "room")


FORMATS = [
    scannet,
    arkitscenes,
    pytest.param(record3d, marks=needs_ffmpeg),
    pytest.param(polycam, marks=needs_ffmpeg),
]


def relative(poses: np.ndarray) -> np.ndarray:
    """Every camera in the frame of the first one, with lengths as shares of the largest: whatever world it was."""
    homogeneous = np.concatenate([poses[:, :3], np.broadcast_to([[[0, 0, 0, 1.0]]], (len(poses), 1, 4))], 1)
    found = np.linalg.inv(homogeneous[0]) @ homogeneous
    found[:, :3, 3] /= np.linalg.norm(found[:, :3, 3], axis=-1).max()
    return np.asarray(found)


@pytest.mark.parametrize("make", FORMATS)
def test_a_capture_is_trained_and_exported(
    make: Callable[[Capture, Path], DataParserConfig], capture: Capture, tmp_path: Path
) -> None:
    parser = make(capture, tmp_path / "data")

    def with_parser(config: Fit3DTrainerConfig) -> None:
        config.pipeline.datamanager.dataparser = parser

    trainer = train(make_config(Path(parser.data), tmp_path / "outputs", steps=10, change=with_parser))
    folder = export_run(trainer.base_dir / "config.yml", tmp_path / "runs")
    info = FeatureGaussians.load(folder).scene
    assert len(info.views) == VIEWS
    assert {view.split for view in info.views} == {"train", "eval"}
    order = sorted(info.views, key=lambda view: float("".join(c for c in Path(view.path).stem if c.isdigit())))
    found = relative(np.stack([np.linalg.inv(view.world_to_camera) @ TO_OPENCV for view in order]))
    expected = relative(np.stack(capture.poses))
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_scannets_points_come_from_its_mesh(capture: Capture, tmp_path: Path) -> None:
    outputs: Any = scannet(capture, tmp_path / "data").setup().get_dataparser_outputs("train")
    assert len(outputs.metadata["points3D_xyz"]) == 1_500
