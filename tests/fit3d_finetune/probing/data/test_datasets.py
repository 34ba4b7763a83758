"""Reading labelled data: three layouts, and one clear sentence about whatever is wrong with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fit3d_finetune.probing.data.checks import check_depth, count_labels
from fit3d_finetune.probing.data.class_names import CAMVID
from fit3d_finetune.probing.data.datasets import read_data
from fit3d_finetune.probing.data.labelled_images import scenes_of
from fit3d_ns.common.errors import InputError
from tests.fit3d_finetune.probing.scenes import CLASSES, HEIGHT, WIDTH, change_transforms


def write_folder(root: Path, labels: bool = True, depth: bool = True) -> Path:
    """images/, annotations/ and depth/ with three small images."""
    random = np.random.default_rng(0)
    for name, kept in (("images", True), ("annotations", labels), ("depth", depth)):
        if kept:
            (root / name).mkdir(parents=True)
    for index in range(3):
        Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(root / f"images/{index}.jpg")
        if labels:
            Image.fromarray(random.integers(0, 3, (6, 8), dtype=np.uint8)).save(root / f"annotations/{index}.png")
        if depth:
            Image.fromarray(np.full((6, 8), 1500, np.uint16)).save(root / f"depth/{index}.png")
    if labels:
        (root / "classes.json").write_text(json.dumps(CLASSES))
    return root


def test_a_scene_gives_images_labels_depth_in_metres_and_opencv_cameras(scene: Path) -> None:
    [data] = read_data([str(scene)])
    assert len(data.images) == 6
    assert data.classes == tuple(CLASSES)
    assert data.has_labels
    assert data.has_depth
    assert data.has_geometry
    image = data.images[0]
    assert image.image().shape == (HEIGHT, WIDTH, 3)
    assert image.labels(3).dtype == np.uint8
    assert image.depth().mean() == pytest.approx(3.0, abs=0.3)
    # The camera looks along its z axis at the wall, from 3 m.
    pose = image.camera.camera_to_world
    np.testing.assert_allclose(pose[:3, 3] + 3 * pose[:3, 2], 0, atol=1e-9)
    assert pose[1, 1] == -1.0, "y points down"


def test_a_lens_with_distortion_gives_no_camera_for_correspondences(scene: Path) -> None:
    change_transforms(scene, k1=0.01)
    assert not read_data([str(scene)])[0].has_geometry


def test_a_fisheye_lens_is_no_pinhole_camera_even_without_distortion(scene: Path) -> None:
    change_transforms(scene, camera_model="OPENCV_FISHEYE")
    assert not read_data([str(scene)])[0].has_geometry


def test_a_frame_without_a_pose_has_no_camera(scene: Path) -> None:
    change_frame(scene, 1, lambda frame: frame.pop("transform_matrix"))
    [data] = read_data([str(scene)])
    assert [image.camera is None for image in data.images[:3]] == [False, True, False]


def test_what_the_whole_file_says_of_the_camera_goes_before_the_frame_as_in_nerfstudio(scene: Path) -> None:
    change_frame(scene, 1, lambda frame: frame.update(fl_x=1.0, w=3))
    cameras = [image.camera for image in read_data([str(scene)])[0].images]
    np.testing.assert_array_equal(cameras[1].K, cameras[0].K)
    assert cameras[1].size == (HEIGHT, WIDTH)


def change_frame(scene: Path, index: int, change: Callable[[dict[str, Any]], object]) -> None:
    path = scene / "transforms.json"
    meta = json.loads(path.read_text())
    change(meta["frames"][index])
    path.write_text(json.dumps(meta))


def change_matrix(row: int, column: int, value: float) -> Callable[[dict[str, Any]], object]:
    return lambda frame: frame["transform_matrix"][row].__setitem__(column, value)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (change_matrix(0, 3, float("nan")), "has NaN or infinite values"),
        (change_matrix(1, 3, float("inf")), "has NaN or infinite values"),
        (change_matrix(1, 3, 1e300), "has NaN or infinite values"),
        (change_matrix(1, 1, 5.0), "is not rigid"),
        (change_matrix(3, 3, 2.0), "does not end in the row 0 0 0 1"),
        (lambda frame: frame.update(transform_matrix="north"), "is not a matrix of numbers"),
        (lambda frame: frame.update(transform_matrix=frame["transform_matrix"][:2]), "has shape 2x4 instead of 3x4 or"),
        (lambda frame: frame.update(transform_matrix=None), "is missing"),
    ],
)
def test_a_pose_that_is_not_finite_and_rigid_is_refused(
    scene: Path, change: Callable[[dict[str, Any]], object], fault: str
) -> None:
    change_frame(scene, 2, change)
    with pytest.raises(
        InputError, match=rf"transform_matrix of frame .* in .*transforms\.json {fault}.*: correct it, or"
    ):
        read_data([str(scene)])


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"fl_x": 1e300}, '"fl_x" in .* is 1e\\+300, not a positive number'),
        ({"fl_y": 1e9}, '"fl_y" in .* is 1e\\+09, which no lens has'),
        ({"fl_x": "wide"}, "\"fl_x\" in .* is 'wide', not a positive number"),
        ({"w": 112.7}, '"w" in .* is 112\\.7, not a whole number of pixels'),
        ({"cx": float("nan")}, '"cx" in .* is nan, not a finite number'),
        ({"k1": 1e300}, "distortion in .* is not six numbers"),
        ({"depth_unit_scale_factor": 0}, "depth_unit_scale_factor in .* is 0, no positive number of metres"),
        ({"depth_unit_scale_factor": "mm"}, "depth_unit_scale_factor in .* is 'mm', no positive number of metres"),
    ],
)
def test_numbers_that_no_camera_has_are_refused(scene: Path, change: dict[str, Any], fault: str) -> None:
    change_transforms(scene, **change)
    with pytest.raises(InputError, match=fault):
        read_data([str(scene)])


def test_a_camera_for_images_of_another_size_is_refused(scene: Path) -> None:
    change_transforms(scene, w=2 * WIDTH, h=2 * HEIGHT)
    [data] = read_data([str(scene)])
    with pytest.raises(InputError, match=f"{WIDTH}x{HEIGHT}, but its camera .* is for {2 * WIDTH}x{2 * HEIGHT}"):
        data.images[0].consistency_view("scene")


def test_a_folder_is_told_from_a_scene_and_matches_files_by_stem(tmp_path: Path) -> None:
    [data] = read_data([str(write_folder(tmp_path / "plain"))])
    assert [image.name for image in data.images] == ["plain/0", "plain/1", "plain/2"]
    assert data.has_labels
    assert data.has_depth
    assert not data.has_geometry
    assert data.images[1].label_path == tmp_path / "plain/annotations/1.png"
    assert float(data.images[1].depth()[0, 0]) == pytest.approx(1.5)


def test_a_folder_may_be_called_like_a_kind(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scene.rename(tmp_path / "folder")
    [data] = read_data(["folder"])
    assert len(data.images) == len(read_data([f"scene:{tmp_path / 'folder'}"])[0].images) > 0


def test_a_kind_before_the_path_decides_against_the_guess(scene: Path) -> None:
    with pytest.raises(InputError, match=r"annotations|images"):
        read_data([f"folder:{scene / 'nothing'}"])
    assert read_data([f"scene:{scene}"])[0].has_geometry


def test_a_folder_without_labels_has_no_classes(tmp_path: Path) -> None:
    [data] = read_data([str(write_folder(tmp_path / "plain", labels=False))])
    assert data.classes == ()
    assert not data.has_labels
    assert data.has_depth


def test_camvid_reads_a_split_with_its_classes_and_void(tmp_path: Path) -> None:
    for part in ("images", "annotations"):
        (tmp_path / f"camvid/{part}/val").mkdir(parents=True)
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "camvid/images/val/a.png")
    Image.fromarray(np.array([[0, 3, 10, 11, 11, 1]] * 4, np.uint8)).save(tmp_path / "camvid/annotations/val/a.png")
    [data] = read_data([f"camvid:{tmp_path}/camvid/val"])
    assert data.classes == CAMVID
    assert len(data.classes) == 11
    assert data.images[0].labels(11)[0].tolist() == [0, 3, 10, 255, 255, 1]


@pytest.mark.parametrize(
    ("stems", "scenes"),
    [
        (("0016E5_07959", "0016E5_07961"), ["val", "val"]),
        (("0001TP_006690", "Seq05VD_f00000"), ["val/0001TP", "val/Seq05VD"]),
    ],
)
def test_a_drive_of_camvid_is_a_scene(tmp_path: Path, stems: tuple[str, ...], scenes: list[str]) -> None:
    for part in ("images", "annotations"):
        (tmp_path / f"camvid/{part}/val").mkdir(parents=True)
        for stem in stems:
            Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / f"camvid/{part}/val/{stem}.png")
    assert scenes_of(read_data([f"camvid:{tmp_path}/camvid/val"])) == scenes


def test_every_data_set_is_a_scene_by_its_short_name_where_that_tells_them_apart(tmp_path: Path) -> None:
    first, second, third = (write_folder(tmp_path / name) for name in ("a/room", "b/room", "b/hall"))
    assert scenes_of(read_data([str(first), str(third)])) == [*["room"] * 3, *["hall"] * 3]
    assert scenes_of(read_data([str(first), str(second)])) == [*[str(first)] * 3, *[str(second)] * 3]


@pytest.mark.parametrize("missing", ["images", "annotations"])
def test_camvid_without_its_files_says_where_it_looked(tmp_path: Path, missing: str) -> None:
    for part in {"images", "annotations"} - {missing}:
        (tmp_path / f"{part}/val").mkdir(parents=True)
        Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / f"{part}/val/a.png")
    with pytest.raises(InputError, match=r"(no images|1 of 1 annotations are missing).*annotations/val"):
        read_data([f"camvid:{tmp_path}/val"])


def test_missing_files_are_counted_and_the_first_is_named(scene: Path) -> None:
    (scene / "images/frame_001.png").unlink()
    (scene / "depth/frame_003.png").unlink()
    with pytest.raises(InputError, match=r"2 of 18 files are missing, the first is .*images/frame_001\.png"):
        read_data([str(scene)])


def test_annotations_that_are_missing_from_a_folder_are_counted(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "plain")
    (folder / "annotations/2.png").unlink()
    with pytest.raises(InputError, match=r"annotations lacks 1 of 3 files, the first for image 2"):
        read_data([str(folder)])


def test_a_label_outside_the_class_list_names_file_and_class(scene: Path) -> None:
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[3, 4] = 7
    Image.fromarray(labels).save(scene / "semantic/frame_005.png")
    with pytest.raises(InputError, match=r"frame_005\.png holds class 7, but there are 3 classes \(0 to 2"):
        count_labels(read_data([str(scene)]), 3, "test")


def test_void_is_no_class_of_its_own(scene: Path) -> None:
    for path in (scene / "semantic").iterdir():
        Image.fromarray(np.full((HEIGHT, WIDTH), 255, np.uint8)).save(path)
    with pytest.raises(InputError, match="no training image has a labelled pixel"):
        count_labels(read_data([str(scene)]), 3, "training")
    labels = np.full((HEIGHT, WIDTH), 255, np.uint8)
    labels[:2] = 1
    Image.fromarray(labels).save(scene / "semantic/frame_000.png")
    assert count_labels(read_data([str(scene)]), 3, "training").tolist() == [[0, 2 * WIDTH, 0], *([[0] * 3] * 5)]


@pytest.mark.parametrize("kind", ["semantic", "depth"])
def test_labels_and_depth_of_another_size_than_the_image_are_refused(scene: Path, kind: str) -> None:
    Image.fromarray(np.full((HEIGHT, WIDTH // 2), 1, np.uint16 if kind == "depth" else np.uint8)).save(
        scene / kind / "frame_000.png"
    )
    [data] = read_data([str(scene)])
    read = data.images[0].depth if kind == "depth" else lambda: data.images[0].labels(3)
    with pytest.raises(InputError, match=rf"{kind}/frame_000\.png is 32x48, but its image .* is 64x48"):
        read()


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_depth_of_the_wrong_unit_is_implausible(scene: Path, scale: float) -> None:
    change_transforms(scene, depth_unit_scale_factor=scale)
    with pytest.raises(InputError, match=r"median depth of .* m is implausible; check its unit"):
        check_depth(read_data([str(scene)]), 10.0, "test")


def test_depth_beyond_the_limit_everywhere_is_refused(scene: Path) -> None:
    with pytest.raises(InputError, match=r"no training image has a depth of at most 1.5 m: raise --max-depth"):
        check_depth(read_data([str(scene)]), 1.5, "training")
    check_depth(read_data([str(scene)]), 4.0, "training")


def test_depth_with_several_channels_is_refused(scene: Path) -> None:
    shutil.copy(scene / "images/frame_000.png", scene / "depth/frame_000.png")
    with pytest.raises(InputError, match="has 3 channels; depth must have one"):
        read_data([str(scene)])[0].images[0].depth()


def test_labels_stored_as_a_palette_are_read_by_their_indices(scene: Path) -> None:
    path = scene / "semantic/frame_000.png"
    labels = np.asarray(Image.open(path))
    palette = Image.fromarray(labels).convert("P")
    palette.putdata(labels.ravel().tolist())
    palette.putpalette([255, 0, 0, 0, 255, 0, 9, 9, 255])
    palette.save(path)
    assert Image.open(path).mode == "P"
    np.testing.assert_array_equal(read_data([str(scene)])[0].images[0].labels(3), labels)


def test_a_broken_label_file_is_named(scene: Path) -> None:
    (scene / "semantic/frame_000.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"frame_000\.png cannot be read as an image of labels"):
        read_data([str(scene)])[0].images[0].labels(3)


def test_data_with_other_class_lists_cannot_be_probed_together(scene: Path, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "plain")
    (other / "classes.json").write_text(json.dumps([*CLASSES, "door"]))
    with pytest.raises(InputError, match="have different class lists"):
        read_data([str(scene), str(other)])


def test_labels_without_a_class_list_are_refused_but_depth_alone_needs_none(scene: Path) -> None:
    (scene / "classes.json").unlink()
    with pytest.raises(InputError, match=r"has labels but no classes\.json"):
        read_data([str(scene)])
    change_transforms(scene, drop=["semantic_file_path"])
    assert read_data([str(scene)])[0].classes == ()


@pytest.mark.parametrize("content", ["{}", "[]", "[1, 2]", '{"0": "wall"}', "["])
def test_a_class_list_that_is_none_is_refused(scene: Path, content: str) -> None:
    (scene / "classes.json").write_text(content)
    with pytest.raises(InputError, match=r"classes\.json (must be a list|is not valid JSON)"):
        read_data([str(scene)])


def test_more_classes_than_a_byte_can_tell_from_void_are_refused(scene: Path) -> None:
    (scene / "classes.json").write_text(json.dumps([f"class {i}" for i in range(256)]))
    with pytest.raises(InputError, match="lists 256 classes; at most 255"):
        read_data([str(scene)])


@pytest.mark.parametrize("content", ["[]", '{"frames": {}}', '{"frames": [{"mask": 1}]}', "nonsense"])
def test_a_transforms_file_that_is_none_is_refused(scene: Path, content: str) -> None:
    (scene / "transforms.json").write_text(content)
    with pytest.raises(InputError, match=r"transforms\.json is (no nerfstudio capture|not valid JSON)"):
        read_data([str(scene)])


def test_a_place_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere holds no images: give a scene"):
        read_data([str(tmp_path / "nowhere")])
