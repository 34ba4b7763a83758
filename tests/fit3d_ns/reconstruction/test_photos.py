"""Photos made ready: order, orientation, formats, cameras, smaller copies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fit3d_ns.common.errors import InputError
from fit3d_ns.reconstruction.photos import camera_groups, list_photos, prepare_photos, write_smaller_copies

ORIENTATION, MODEL = 0x0112, 0x0110


def photo(path: Path, width: int = 40, height: int = 30, **tags: object) -> Path:
    """Left half red, right half blue."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 255
    exif = Image.Exif()
    for name, value in tags.items():
        exif[{"orientation": ORIENTATION, "model": MODEL}[name]] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **({"exif": exif} if tags else {}))
    return path


def prepared(source: Path, folder: Path) -> dict[str, str]:
    folder.mkdir()
    return prepare_photos(list_photos(source, None), source, folder)


def test_photos_are_taken_in_order_from_all_folders_but_hidden_ones(tmp_path: Path) -> None:
    for name in ("b/2.png", "a/1.JPG", "c 3.jpeg", ".hidden/4.jpg", "notes.txt"):
        photo(tmp_path / f"x/{name}") if "txt" not in name else (tmp_path / "x" / name).write_text("")
    names = prepared(tmp_path / "x", tmp_path / "images")
    assert names == {"frame_00001.jpg": "a/1.JPG", "frame_00002.png": "b/2.png", "frame_00003.jpeg": "c 3.jpeg"}
    assert (tmp_path / "images/frame_00001.jpg").read_bytes() == (tmp_path / "x/a/1.JPG").read_bytes()


def test_fewer_than_three_photos_are_refused(tmp_path: Path) -> None:
    photo(tmp_path / "1.jpg")
    with pytest.raises(InputError, match="holds 1 photos"):
        list_photos(tmp_path, None)


def test_at_most_so_many_are_taken_evenly(tmp_path: Path) -> None:
    for index in range(9):
        photo(tmp_path / f"{index}.jpg")
    assert [path.stem for path in list_photos(tmp_path, 3)] == ["0", "4", "8"]


def test_photos_are_turned_as_their_exif_data_say_and_keep_the_rest(tmp_path: Path) -> None:
    for index, orientation in enumerate((1, 6, 3)):
        photo(tmp_path / f"x/{index}.jpg", orientation=orientation, model="Phone")
    names = list(prepared(tmp_path / "x", tmp_path / "images"))
    for name, size, left in zip(names, ((40, 30), (30, 40), (40, 30)), ((255, 0, 0), None, (0, 0, 255)), strict=True):
        with Image.open(tmp_path / "images" / name) as image:
            assert image.size == size
            exif = image.getexif()
            assert (exif[ORIENTATION], exif[MODEL]) == (1, "Phone")
            if left is not None:
                assert np.abs(np.subtract(image.convert("RGB").getpixel((4, 15)), left)).max() < 30


def test_other_formats_become_png(tmp_path: Path) -> None:
    for name in ("1.webp", "2.tif", "3.bmp"):
        photo(tmp_path / "x" / name)
    assert list(prepared(tmp_path / "x", tmp_path / "images")) == [f"frame_0000{i}.png" for i in (1, 2, 3)]


def test_a_truncated_photo_is_named(tmp_path: Path) -> None:
    for index in range(3):
        photo(tmp_path / f"x/{index}.jpg", 400, 300)
    data = (tmp_path / "x/1.jpg").read_bytes()
    (tmp_path / "x/1.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"1\.jpg .*truncated"):
        prepared(tmp_path / "x", tmp_path / "images")


def test_photos_of_one_size_and_device_share_a_camera(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg", model="Phone")
    photo(tmp_path / "b.jpg", model="Phone")
    photo(tmp_path / "c.jpg", model="Other")
    photo(tmp_path / "d.jpg", 30, 40, model="Phone")
    photo(tmp_path / "e.png")
    names = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.png"]
    assert camera_groups(tmp_path, names) == [["a.jpg", "b.jpg"], ["c.jpg"], ["d.jpg"], ["e.png"]]


def test_large_photos_get_smaller_copies_until_one_is_small(tmp_path: Path) -> None:
    photo(tmp_path / "images/a.jpg", 3301, 500)
    photo(tmp_path / "images/b.png", 200, 100)
    assert write_smaller_copies(tmp_path / "images", tmp_path) == ["images_2", "images_4"]
    for factor in (2, 4):
        with Image.open(tmp_path / f"images_{factor}/a.jpg") as image:
            assert image.size == (3301 // factor, 500 // factor)
    assert write_smaller_copies(tmp_path / "images_4", tmp_path / "x") == []
