"""Every fault of a capture is one sentence that names the file and says what to do."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fit3d_ns.capture.checks import check_posed_images, check_transforms
from fit3d_ns.common.errors import InputError

SAMPLES = Path(__file__).resolve().parents[4] / "shared" / "data"

Meta = dict[str, Any]


def pose(index: int) -> list[list[float]]:
    angle = 0.3 * index
    c, s = np.cos(angle), np.sin(angle)
    return [[c, -s, 0.0, float(index)], [s, c, 0.0, 1.0], [0.0, 0.0, 1.0, 2.0], [0.0, 0.0, 0.0, 1.0]]


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """A faultless capture of five images of 32x24 with masks and a point cloud."""
    folder = tmp_path / "scene"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    frames = []
    for i in range(5):
        Image.new("RGB", (32, 24)).save(folder / f"images/{i}.png")
        Image.new("L", (32, 24), 255).save(folder / f"masks/{i}.png")
        frames.append({"file_path": f"images/{i}.png", "mask_path": f"masks/{i}.png", "transform_matrix": pose(i)})
    (folder / "cloud.ply").write_text("ply")
    meta = {"fl_x": 30.0, "fl_y": 30, "cx": 16, "cy": 12.0, "w": 32, "h": 24, "camera_model": "OPENCV"}
    write(folder, meta | {"k1": 0.1, "ply_file_path": "cloud.ply", "frames": frames})
    return folder


def read(folder: Path) -> Meta:
    meta: Meta = json.loads((folder / "transforms.json").read_text())
    return meta


def write(folder: Path, meta: Meta) -> None:
    (folder / "transforms.json").write_text(json.dumps(meta))


def per_frame(meta: Meta) -> None:
    """Move the intrinsics from the top into every frame."""
    for key in ("fl_x", "fl_y", "cx", "cy", "w", "h", "k1"):
        value = meta.pop(key)
        for frame in meta["frames"]:
            frame[key] = value


def test_a_faultless_capture_passes_as_folder_and_as_file(capture: Path) -> None:
    check_transforms(capture)
    check_transforms(capture / "transforms.json")


def test_a_capture_with_intrinsics_per_frame_passes(capture: Path) -> None:
    meta = read(capture)
    per_frame(meta)
    for i, frame in enumerate(meta["frames"]):
        frame["w"] = 32 + i
        Image.new("RGB", (32 + i, 24)).save(capture / frame["file_path"])
        Image.new("L", (32 + i, 24)).save(capture / frame["mask_path"])
    write(capture, meta)
    check_transforms(capture)


def test_absolute_paths_pass(capture: Path) -> None:
    meta = read(capture)
    for frame in meta["frames"]:
        frame["file_path"] = str(capture / frame["file_path"])
    write(capture, meta)
    check_transforms(capture)


def test_named_splits_pass(capture: Path) -> None:
    meta = read(capture) | {"train_filenames": ["images/0.png", "images/1.png"], "val_filenames": ["images/2.png"]}
    write(capture, meta)
    check_transforms(capture)


def test_what_ns_process_data_writes_passes(capture: Path) -> None:
    """Whole numbers as floats, and its own change of axes."""
    axes = [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, -1.0, 0.0, 0.0]]
    write(capture, read(capture) | {"w": 32.0, "h": 24.0, "applied_transform": axes, "applied_scale": 0.01})
    check_transforms(capture)
    tiny = (1e-6 * np.array(axes)).tolist()
    write(capture, read(capture) | {"applied_transform": tiny})
    check_transforms(capture)


def drop_image(capture: Path, meta: Meta) -> None:
    for i in range(4):
        (capture / f"images/{i}.png").unlink()


def change_frame(index: int, key: str, value: Any) -> Callable[[Path, Meta], None]:
    def change(capture: Path, meta: Meta) -> None:
        meta["frames"][index][key] = value

    return change


def change_pose(row: int, column: int, value: Any) -> Callable[[Path, Meta], None]:
    def change(capture: Path, meta: Meta) -> None:
        meta["frames"][3]["transform_matrix"][row][column] = value

    return change


def scale_pose(factors: tuple[float, float, float]) -> Callable[[Path, Meta], None]:
    def change(capture: Path, meta: Meta) -> None:
        matrix = np.array(meta["frames"][3]["transform_matrix"])
        matrix[:3, :3] *= factors
        meta["frames"][3]["transform_matrix"] = matrix.tolist()

    return change


def change_meta(key: str, value: Any) -> Callable[[Path, Meta], None]:
    def change(capture: Path, meta: Meta) -> None:
        meta[key] = value

    return change


def remove(key: str) -> Callable[[Path, Meta], None]:
    def change(capture: Path, meta: Meta) -> None:
        del meta[key]

    return change


def only_two_frames(capture: Path, meta: Meta) -> None:
    del meta["frames"][2:]


def no_image_for_fl_x_of_one(capture: Path, meta: Meta) -> None:
    per_frame(meta)
    del meta["frames"][2]["fl_x"]


def negative_focal_length_of_one(capture: Path, meta: Meta) -> None:
    per_frame(meta)
    meta["frames"][2]["fl_y"] = -3.0


def other_image_size(capture: Path, meta: Meta) -> None:
    for i in (1, 3):
        Image.new("RGB", (64, 48)).save(capture / f"images/{i}.png")


def portrait_by_exif(capture: Path, meta: Meta) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (24, 32)).save(capture / "images/1.png", exif=exif)


def other_mask_size(capture: Path, meta: Meta) -> None:
    Image.new("L", (16, 12)).save(capture / "masks/2.png")


def coloured_mask(capture: Path, meta: Meta) -> None:
    Image.new("RGB", (32, 24)).save(capture / "masks/2.png")


def drop_mask(capture: Path, meta: Meta) -> None:
    (capture / "masks/2.png").unlink()


def one_mask_less(capture: Path, meta: Meta) -> None:
    del meta["frames"][2]["mask_path"]


def broken_image(capture: Path, meta: Meta) -> None:
    (capture / "images/2.png").write_bytes(b"\x89PNG")


FAULTS: list[tuple[str, Callable[[Path, Meta], None], str]] = [
    (
        "missing images",
        drop_image,
        r"4 of 5 images of .*transforms\.json do not exist \(.*0\.png, .*1\.png, .*2\.png and 1 more\); restore them",
    ),
    ("no frames", change_meta("frames", []), r"transforms\.json lists no images; create it with ns-process-data"),
    ("no frames key", remove("frames"), r'transforms\.json has no list "frames"; create it with ns-process-data'),
    ("frames no list", change_meta("frames", {"a": 1}), r'transforms\.json has no list "frames"; create'),
    ("frame no object", change_meta("frames", [1, 2, 3]), r'transforms\.json has no list "frames"; create'),
    (
        "no file_path",
        change_frame(1, "file_path", None),
        r'"file_path" of frame 1 of .*transforms\.json is missing; give',
    ),
    ("two views", only_two_frames, r"transforms\.json has 2 views, but 3 are needed; add more images"),
    ("pose missing", change_frame(3, "transform_matrix", None), r"frame 3 \(images/3\.png\) .* is missing; correct"),
    (
        "pose text",
        change_frame(3, "transform_matrix", "x"),
        r"\(images/3\.png\) .* is not a matrix of numbers; correct",
    ),
    (
        "pose ragged",
        change_frame(3, "transform_matrix", [[1, 2], [3]]),
        r"\(images/3\.png\) .* is not a matrix of numbers; correct",
    ),
    (
        "pose 3x4",
        change_frame(3, "transform_matrix", pose(3)[:3]),
        r"\(images/3\.png\) .* has shape 3x4 instead of 4x4; correct it, or remove this image",
    ),
    ("pose number", change_frame(3, "transform_matrix", 7), r"has shape of one number instead of 4x4; correct"),
    ("pose NaN", change_pose(0, 3, float("nan")), r"frame 3 \(images/3\.png\) in .* has NaN or infinite values; corr"),
    ("pose infinite", change_pose(1, 1, float("inf")), r"\(images/3\.png\) in .* has NaN or infinite values; correct"),
    ("pose scaled", scale_pose((1.01,) * 3), r"\(images/3\.png\) in .* is not rigid \(.* = 0.02, .*\); correct"),
    ("pose sheared", change_pose(0, 1, 0.5), r"frame 3 \(images/3\.png\) in .* is not rigid .*; correct it"),
    ("pose mirrored", scale_pose((1, 1, -1)), r"\(images/3\.png\) in .* mirrors the scene .*; correct it"),
    ("pose projective", change_pose(3, 0, 0.5), r"\(images/3\.png\) in .* does not end in the row 0 0 0 1; correct"),
    ("no fl_x", remove("fl_x"), r'transforms\.json gives no "fl_x" for frame 0 \(images/0\.png\); add it'),
    ("no w", remove("w"), r'transforms\.json gives no "w" for frame 0 \(images/0\.png\); add it'),
    ("no cx", remove("cx"), r'transforms\.json gives no "cx" for frame 0 \(images/0\.png\); add it'),
    ("no fl_x of one", no_image_for_fl_x_of_one, r'gives no "fl_x" for frame 2 \(images/2\.png\); add it to the frame'),
    ("fl_x zero", change_meta("fl_x", 0), r'"fl_x" in .*transforms\.json is 0, not a positive number; correct it'),
    ("h negative", change_meta("h", -24), r'"h" in .*transforms\.json is -24, not a positive number; correct it'),
    ("fl_y text", change_meta("fl_y", "wide"), r"\"fl_y\" in .*transforms\.json is 'wide', not a positive number"),
    ("cx NaN", change_meta("cx", float("nan")), r'"cx" in .*transforms\.json is nan, not a finite number; correct'),
    ("fl_y of one", negative_focal_length_of_one, r'"fl_y" in frame 2 \(images/2\.png\) of .* is -3.0, not a positive'),
    (
        "fl_x huge",
        change_meta("fl_x", 1e300),
        r'"fl_x" in .*transforms\.json is 1e\+300, not a positive number; correct',
    ),
    (
        "fl_y long",
        change_meta("fl_y", 1e9),
        r'"fl_y" in .* is 1e\+09, which no lens has for images of 32x24 .*; correct',
    ),
    ("fl_y short", change_meta("fl_y", 1e-9), r'"fl_y" in .* is 1e-09, which no lens has for images of 32x24 .*; corr'),
    ("cx far", change_meta("cx", -1e7), r'"cx" in .* is -1e\+07, far outside images of 32x24 pixels; correct it'),
    (
        "w broken",
        change_meta("w", 32.7),
        r'"w" in .*transforms\.json is 32\.7, not a whole number of pixels; correct it',
    ),
    ("k1 huge", change_meta("k1", 1e300), r"distortion in .*transforms\.json is not six numbers .*; correct it"),
    ("pose far", change_pose(0, 3, 1e300), r"frame 3 \(images/3\.png\) in .* has NaN or infinite values; correct it"),
    (
        "applied_transform singular",
        change_meta("applied_transform", [[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0]]),
        r"applied_transform in .*transforms\.json cannot be inverted; create the file again with ns-process-data",
    ),
    (
        "applied_transform of 2 rows",
        change_meta("applied_transform", pose(0)[:2]),
        r"has shape 2x4 instead of 3x4; crea",
    ),
    (
        "applied_transform NaN",
        change_meta("applied_transform", [[float("nan")] * 4] * 3),
        r"has NaN or infinite val.*;",
    ),
    (
        "applied_scale zero",
        change_meta("applied_scale", 0),
        r"applied_scale in .* is 0, not a positive number; correct",
    ),
    (
        "applied_scale text",
        change_meta("applied_scale", "one"),
        r"applied_scale in .* is 'one', not a positive number;",
    ),
    ("k1 NaN", change_meta("k1", float("nan")), r"distortion in .*transforms\.json is not six numbers .*; correct it"),
    ("few params", change_meta("distortion_params", [0.1]), r"distortion in .*transforms\.json is not six numbers"),
    ("k4", change_meta("k4", 0.1), r'"k4" in .*transforms\.json is 0.1, but only .* OPENCV_FISHEYE has a k4; correct'),
    (
        "camera model",
        change_meta("camera_model", "EQUIRECTANGULAR"),
        r"camera_model 'EQUIRECTANGULAR' in .*transforms\.json is not supported; undistort the images",
    ),
    (
        "image size",
        other_image_size,
        r"2 of 5 images do not have the size of their intrinsics: .*1\.png is 64x48 where .*transforms\.json gives "
        r"32x24; resize the images, or set w, h, fl_x, fl_y, cx and cy",
    ),
    ("EXIF", portrait_by_exif, r"1\.png is 24x32 where .* gives 32x24; rotate the pixels of the images as their EXIF"),
    ("mask missing", drop_mask, r"1 of 5 masks of .*transforms\.json do not exist \(.*masks/2\.png\); restore them or"),
    ("mask not named", one_mask_less, r"transforms\.json gives 4 of 5 frames a mask_path; give one to all or none"),
    ("mask size", other_mask_size, r"mask .*2\.png is 16x12 but its image .*2\.png is 32x24; resize the mask"),
    ("mask in colour", coloured_mask, r"mask .*2\.png has 3 channels; save it with a single one"),
    ("broken image", broken_image, r"image .*2\.png cannot be read or is truncated .*; replace it or remove it"),
    (
        "point cloud",
        change_meta("ply_file_path", "gone.ply"),
        r'names the point cloud .*gone\.ply, which does not exist; restore it or remove "ply_file_path"',
    ),
    (
        "split",
        change_meta("train_filenames", ["images/0.png", "images/9.png"]),
        r'"train_filenames" in .*transforms\.json names 1 images without a frame \(images/9\.png\); remove them',
    ),
    (
        "half a split",
        change_meta("train_filenames", ["images/0.png"]),
        r'transforms\.json has "train_filenames" but no "val_filenames"; name the images of both splits',
    ),
]


@pytest.mark.parametrize(("spoil", "sentence"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
def test_a_fault_is_one_sentence_with_file_and_remedy(
    capture: Path, spoil: Callable[[Path, Meta], None], sentence: str
) -> None:
    meta = read(capture)
    spoil(capture, meta)
    write(capture, meta)
    with pytest.raises(InputError, match=sentence) as caught:
        check_transforms(capture)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert ";" in message


def test_a_folder_without_transforms_says_to_run_ns_process_data(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no transforms\.json; create one with `ns-process-data images --data"):
        check_transforms(tmp_path)


def test_a_blender_folder_is_pointed_to_its_dataparser(tmp_path: Path) -> None:
    (tmp_path / "transforms_train.json").write_text("{}")
    with pytest.raises(InputError, match=r"is in Blender's format; add `blender-data`"):
        check_transforms(tmp_path)


@pytest.mark.parametrize("name", ["nowhere", "nowhere/transforms.json"])
def test_a_missing_path_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"{name} does not exist; give"):
        check_transforms(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b'{"frames": [', b"\xff\xfe\x00", b"[1, 2]", b"[" * 100_000])
def test_broken_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "transforms.json").write_bytes(content)
    with pytest.raises(InputError, match=r"transforms\.json is not (valid JSON|a JSON object).*; create it again"):
        check_transforms(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    [
        "frames",
        "fl_x",
        "cx",
        "w",
        "k1",
        "applied_transform",
        "applied_scale",
        "camera_model",
        "ply_file_path",
        "distortion_params",
        "train_filenames",
    ]
)
FRAME_KEYS = st.sampled_from(["file_path", "transform_matrix", "mask_path"])


@settings(max_examples=300, deadline=None)
@given(values=st.dictionaries(KEYS, JSON, max_size=2), frame_values=st.dictionaries(FRAME_KEYS, JSON, max_size=2))
def test_no_json_value_leads_to_anything_but_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, values: Meta, frame_values: Meta
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    frames = []
    for i in range(3):
        if not (folder / f"images/{i}.png").exists():
            Image.new("RGB", (32, 24)).save(folder / f"images/{i}.png")
        frames.append({"file_path": f"images/{i}.png", "transform_matrix": pose(i)})
    frames[1] |= copy.deepcopy(frame_values)
    meta = {"fl_x": 30.0, "fl_y": 30, "cx": 16, "cy": 12.0, "w": 32, "h": 24, "frames": frames} | values
    write(folder, meta)
    with contextlib.suppress(InputError):
        check_transforms(folder)


class Posed:
    """Arguments of a faultless `check_posed_images` call."""

    def __init__(self, capture: Path, count: int = 5) -> None:
        self.images = [capture / f"images/{i}.png" for i in range(count)]
        self.masks: list[Path] | None = [capture / f"masks/{i}.png" for i in range(count)]
        self.widths: list[int] = [32] * count
        self.heights = np.full((count, 1), 24)
        self.poses = np.array([pose(i)[:3] for i in range(count)], np.float32)

    def check(self) -> None:
        check_posed_images(self.images, self.widths, self.heights, self.poses, self.masks)


def test_posed_images_without_fault_pass(capture: Path) -> None:
    posed = Posed(capture)
    posed.check()
    posed.masks = None
    posed.check()


def test_posed_images_that_are_missing_are_counted_and_named(capture: Path) -> None:
    posed = Posed(capture)
    posed.images[2] = capture / "images/gone.png"
    with pytest.raises(InputError, match=r"1 of 5 images of .* do not exist \(.*gone\.png\); restore them"):
        posed.check()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_posed_images_must_be_three(capture: Path, count: int) -> None:
    with pytest.raises(InputError, match=r"has no images; check .*--data|has 1 view,.*add more|has 2 views,.*add more"):
        Posed(capture, count).check()


def test_posed_images_of_another_size_are_named(capture: Path) -> None:
    posed = Posed(capture)
    posed.widths[4] = 33
    with pytest.raises(InputError, match=r"1 of 5 images .*4\.png is 32x24 where its camera says 33x24; resize"):
        posed.check()


@pytest.mark.parametrize(
    ("value", "fault"), [(np.nan, "has NaN or infinite values"), (3.0, "is not rigid"), (-1.0, "mirrors the scene")]
)
def test_posed_images_with_a_bad_pose_are_named(capture: Path, value: float, fault: str) -> None:
    posed = Posed(capture)
    posed.poses[4, 2, 2] = value
    with pytest.raises(InputError, match=rf"pose of .*4\.png {fault}.*; correct it, or remove this image"):
        posed.check()


def test_posed_images_with_a_missing_mask_are_named(capture: Path) -> None:
    (capture / "masks/3.png").unlink()
    with pytest.raises(InputError, match=r"1 of 5 masks of .* do not exist \(.*masks/3\.png\); restore them or train"):
        Posed(capture).check()


def test_posed_images_with_too_few_masks_are_refused(capture: Path) -> None:
    posed = Posed(capture)
    assert posed.masks is not None
    posed.masks.pop()
    with pytest.raises(InputError, match=r"has 4 masks for 5 images; give one for each image or none"):
        posed.check()


def test_posed_images_with_a_mask_of_another_size_are_named(capture: Path) -> None:
    other_mask_size(capture, {})
    with pytest.raises(InputError, match=r"mask .*2\.png is 16x12 but its image .*2\.png is 32x24; resize the mask"):
        Posed(capture).check()


@pytest.mark.parametrize("name", ["rooms/room_00", "fox"])
def test_real_captures_pass(name: str) -> None:
    if not (SAMPLES / name).is_dir():
        pytest.skip(f"sample data {SAMPLES / name} is not here")
    check_transforms(SAMPLES / name)
    check_transforms(SAMPLES / name / "transforms.json")


@pytest.mark.parametrize("name", ["rooms/room_00", "fox"])
def test_what_nerfstudio_reads_from_real_captures_passes(name: str) -> None:
    if not (SAMPLES / name).is_dir():
        pytest.skip(f"sample data {SAMPLES / name} is not here")
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    parser = NerfstudioDataParserConfig(data=SAMPLES / name, load_3D_points=False).setup()
    outputs = parser.get_dataparser_outputs(split="train")
    cameras = outputs.cameras
    check_posed_images(
        outputs.image_filenames,
        cameras.width.numpy(),
        cameras.height.numpy(),
        cameras.camera_to_worlds.numpy(),
        outputs.mask_filenames,
    )
