"""ScanNet's frames and NAVI: cameras, depth and labels of the true formats."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from fit3d_finetune.probing.data.datasets import read_data
from fit3d_finetune.probing.data.labelled_images import given_pairs, scenes_of
from fit3d_finetune.probing.data.navi import rotation
from fit3d_ns.common.errors import InputError
from tests.fit3d_finetune.probing.data.files import write_numbers, write_photo, write_text

POSE = np.array([[1, 0, 0, 0.5], [0, 0, 1, 2], [0, -1, 0, 1], [0, 0, 0, 1]], float)


def matrix(values: np.ndarray) -> str:
    return "\n".join(" ".join(f"{value:.6f}" for value in row) for row in values) + "\n"


def write_frames(folder: Path, stems: tuple[str, ...] = ("0", "10", "2"), size: tuple[int, int] = (12, 8)) -> Path:
    for which, focal, (cx, cy) in (("color", 11.0, (6, 4)), ("depth", 5.5, (3, 2))):
        K = np.diag([focal, focal, 1.0, 1.0])
        K[:2, 2] = cx, cy
        write_text(folder / f"intrinsic/intrinsic_{which}.txt", matrix(K))
    for stem in stems:
        write_photo(folder / f"color/{stem}.jpg", *size)
        write_numbers(folder / f"depth/{stem}.png", np.full((4, 6), 1500), np.uint16)
        write_text(folder / f"pose/{stem}.txt", matrix(POSE))
    return folder


def test_frames_of_scannet_have_opencv_cameras_and_depth_at_the_photos_size(tmp_path: Path) -> None:
    [data] = read_data([f"scannet-frames:{write_frames(tmp_path / 'scene0707_00')}"])
    assert [image.path.stem for image in data.images] == ["0", "2", "10"]
    image = data.images[0]
    np.testing.assert_allclose(image.camera.camera_to_world, POSE)
    assert image.camera.K.tolist() == [[11, 0, 6], [0, 11, 4], [0, 0, 1]]
    assert image.depth().shape == (8, 12)
    np.testing.assert_allclose(image.depth(), 1.5, rtol=1e-6)
    assert data.has_geometry
    assert not data.has_labels
    assert image.consistency_view("").depth.shape == (8, 12)


def test_photos_resized_to_the_depths_size_have_the_depths_camera(tmp_path: Path) -> None:
    [data] = read_data([f"scannet-frames:{write_frames(tmp_path / 'scene', size=(6, 4))}"])
    assert data.images[0].camera.K.tolist() == [[5.5, 0, 3], [0, 5.5, 2], [0, 0, 1]]
    write_photo(tmp_path / "scene/color/0.jpg", 30, 20)
    with pytest.raises(InputError, match=r"neither camera in .*intrinsic has its centre in the middle of .*0\.jpg"):
        read_data([f"scannet-frames:{tmp_path / 'scene'}"])


def test_frames_that_lost_their_pose_are_left_out(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "scene")
    write_text(folder / "pose/2.txt", matrix(np.full((4, 4), -np.inf)))
    assert [image.path.stem for image in read_data([f"scannet-frames:{folder}"])[0].images] == ["0", "10"]
    write_text(folder / "pose/0.txt", matrix(2 * np.eye(4)))
    with pytest.raises(InputError, match=r"pose.*0\.txt (is not rigid|does not end)"):
        read_data([f"scannet-frames:{folder}"])
    write_text(folder / "pose/0.txt", "1 2 3\n")
    with pytest.raises(InputError, match=r"shape \(3,\) instead of a 4x4"):
        read_data([f"scannet-frames:{folder}"])


def test_a_folder_of_scenes_is_read_as_a_whole(tmp_path: Path) -> None:
    for name in ("scene0707_00", "scene0708_00"):
        write_frames(tmp_path / name, ("0",))
    assert scenes_of(read_data([f"scannet-frames:{tmp_path}"])) == [
        f"{tmp_path.name}/scene0707_00",
        f"{tmp_path.name}/scene0708_00",
    ]


def test_pairs_of_scannet_1500_are_those_of_its_list(tmp_path: Path) -> None:
    for name in ("scene0707_00", "scene0708_01"):
        write_frames(tmp_path / "scans" / name, ("0", "15", "30"))
    place = f"scannet-1500:{tmp_path / 'scans'}"
    with pytest.raises(InputError, match=r"no test\.npz with the pairs"):
        read_data([place])
    np.savez(tmp_path / "test.npz", name=np.array([[707, 0, 0, 30], [708, 1, 30, 15]]))
    data = read_data([place])
    assert [[data[0].images[i].name for i in pair] for pair in data[0].pairs or ()] == [
        ["scene0707_00/0", "scene0707_00/30"],
        ["scene0708_01/30", "scene0708_01/15"],
    ]
    assert given_pairs([*data, *data]) == ((0, 2), (5, 4), (6, 8), (11, 10))
    assert given_pairs(read_data([f"scannet-frames:{tmp_path / 'scans'}"])) is None
    with pytest.raises(InputError, match="has no list of pairs"):
        given_pairs([*data, *read_data([f"scannet-frames:{tmp_path / 'scans'}"])])
    np.savez(tmp_path / "test.npz", name=np.array([[707, 0, 0, 45]]))
    with pytest.raises(InputError, match="lacks frame 45 of scene0707_00"):
        read_data([place])
    np.savez(tmp_path / "test.npz", names=np.array([[707, 0, 0, 45]]))
    with pytest.raises(InputError, match="has no array “name”"):
        read_data([place])


def test_scannets_own_labels_are_read_by_its_table(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "scene", ("0",))
    write_numbers(folder / "label-filt/0.png", [[1, 1163, 13, 0, 9999, 1]] * 4, np.uint16)
    with pytest.raises(InputError, match=r"has labels but no scannetv2-labels\.combined\.tsv"):
        read_data([f"scannet-frames:{folder}"])
    rows = ["id\traw_category\tnyu40id", "1\twall\t1", "1163\tobject\t40", "13\ttub\t36"]
    write_text(tmp_path / "scannetv2-labels.combined.tsv", "\n".join(rows))
    [data] = read_data([f"scannet-frames:{folder}"])
    assert data.images[0].labels(20)[0].tolist() == [0, 0, 255, 255, 18, 18, 255, 255, 255, 255, 0, 0]
    write_text(tmp_path / "scannetv2-labels.combined.tsv", "a\tb\n1\t2\n")
    with pytest.raises(InputError, match="is no table with columns id and nyu40id"):
        read_data([f"scannet-frames:{folder}"])


Q = [0.9, 0.1, -0.3, 0.2]


def write_navi(folder: Path, turned: bool = False, **changes: object) -> Path:
    """A photo of a plane 400 mm in front of the camera."""
    path = folder / "images/000.jpg"
    path.parent.mkdir(parents=True)
    exif = Image.Exif()
    if turned:
        exif[0x0112] = 6
    Image.new("RGB", (4, 6) if turned else (6, 4)).save(path, exif=exif)
    write_numbers(folder / "depth/000.png", np.full((4, 6), round(655_350 / 400)), np.uint16)
    entry = {
        "filename": "000.jpg",
        "image_size": [4, 6],
        "camera": {"q": Q, "t": [10.0, -20.0, 400.0], "focal_length": 5.0, "camera_model": "pixel_5"},
        **changes,
    }
    write_text(folder / "annotations.json", json.dumps([entry]))
    return folder


def test_a_quaternions_matrix_is_scipys() -> None:
    w, *xyz = Q
    np.testing.assert_allclose(rotation(3 * np.array(Q)), Rotation.from_quat([*xyz, w]).as_matrix())


@pytest.mark.parametrize("turned", [False, True])
def test_navis_photos_stand_upright_and_its_depth_is_metres(tmp_path: Path, turned: bool) -> None:
    [data] = read_data([f"navi:{write_navi(tmp_path / 'cup/multiview-00-pixel_5', turned)}"])
    [image] = data.images
    assert image.name == "cup/multiview-00-pixel_5/000"
    assert image.image().shape == (4, 6, 3)
    assert image.size() == (4, 6)
    np.testing.assert_allclose(image.depth(), 0.4, rtol=1e-3)
    assert image.camera.K.tolist() == [[5, 0, 3], [0, 5, 2], [0, 0, 1]]
    # The object's origin lies where t says, in the camera's frame.
    origin = np.linalg.inv(image.camera.camera_to_world) @ [0, 0, 0, 1]
    np.testing.assert_allclose(origin[:3], [0.01, -0.02, 0.4])
    assert data.has_geometry


def test_all_multiview_collections_below_a_folder_are_scenes(tmp_path: Path) -> None:
    for name in ("cup/multiview-00-a", "cup/multiview-01-b", "cup/wild_set"):
        write_navi(tmp_path / name)
    data = read_data([f"navi:{tmp_path}"])
    assert [image.scene for image in data[0].images] == ["cup/multiview-00-a", "cup/multiview-01-b"]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"camera": {}}, "has a photo without a camera"),
        ({"image_size": "large"}, "has a photo without a camera"),
        ({"filename": "../000.jpg"}, "names a photo outside its folder"),
    ],
)
def test_annotations_that_are_no_cameras_are_refused(tmp_path: Path, changes: dict[str, object], fault: str) -> None:
    folder = write_navi(tmp_path / "cup/multiview-00-a", **changes)
    with pytest.raises(InputError, match=fault):
        read_data([f"navi:{folder}"])
