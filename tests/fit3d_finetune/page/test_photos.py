"""Photos for the page: upright, of a bearable size, and a plain sentence about everything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fit3d_finetune.page.photos import MOST_EXAMPLES, find_examples, read_photo
from fit3d_ns.common.errors import InputError
from tests.fit3d_finetune.page.folders import write_photo


@pytest.mark.parametrize(
    ("size", "shown"),
    [((1200, 800), (300, 200)), ((500, 1501), (100, 300)), ((300, 20), (300, 20)), ((64, 48), (64, 48))],
)
def test_large_photos_are_shrunk_with_their_aspect_kept(
    size: tuple[int, int], shown: tuple[int, int], tmp_path: Path
) -> None:
    photo = read_photo(write_photo(tmp_path / "a.png", *size), 300)
    assert photo.image.shape == (shown[1], shown[0], 3)
    assert photo.image.dtype == np.uint8
    assert (photo.name, photo.file_size) == ("a.png", size)


def test_a_photo_is_turned_as_its_exif_data_ask(tmp_path: Path) -> None:
    image = Image.new("RGB", (60, 40))
    image.paste((255, 0, 0), (0, 0, 30, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    image.save(tmp_path / "phone.jpg", exif=exif, quality=95)
    photo = read_photo(tmp_path / "phone.jpg", 300)
    assert photo.image.shape == (60, 40, 3)
    assert photo.file_size == (40, 60)
    assert photo.image[:25, :, 0].min() > 200
    assert photo.image[35:, :, 0].max() < 50


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_every_kind_of_pixels_becomes_rgb(mode: str, tmp_path: Path) -> None:
    Image.new(mode, (48, 32)).save(tmp_path / "a.png")
    assert read_photo(tmp_path / "a.png", 300).image.shape == (32, 48, 3)


def test_a_phones_jpeg_that_holds_a_second_picture_is_taken(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (48, 32), "red"), Image.new("RGB", (48, 32), "blue")
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    assert read_photo(tmp_path / "a.jpg", 300).image[..., 0].min() > 200


def refused(path: Path, smallest: int = 16) -> str:
    """What is said of it: one sentence with the name, and no place on this machine."""
    with pytest.raises(InputError) as caught:
        read_photo(path, 560, smallest)
    said = str(caught.value)
    assert said.startswith(path.name)
    assert str(path.parent) not in said
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 90\nshowpage\n",
        b"\x00\x00\x00\x18ftypheic",
    ],
    ids=["empty", "text", "svg", "eps", "heic"],
)
def test_what_is_no_photo_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "upload.png").write_bytes(content)
    assert "JPEG, PNG" in refused(tmp_path / "upload.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_a_photo_that_was_cut_short_is_refused(suffix: str, tmp_path: Path) -> None:
    path = write_photo(tmp_path / f"half.{suffix}", 400, 300)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "give another file" in refused(path)


@pytest.mark.parametrize("size", [(9000, 8000), (20000, 10000)])
def test_a_photo_of_very_many_pixels_is_refused_before_it_is_decoded(
    size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("1", size).save(tmp_path / "vast.png")
    monkeypatch.setattr("fit3d_finetune.page.photos.load_image", None)
    assert "at most 64 million" in refused(tmp_path / "vast.png")


def test_a_photo_with_less_than_a_patch_is_refused(tmp_path: Path) -> None:
    assert "15 × 40 pixels, and one patch" in refused(write_photo(tmp_path / "tiny.png", 15, 40))
    assert "of which 560 × 14 are left" in refused(write_photo(tmp_path / "thin.png", 4000, 100))
    assert read_photo(tmp_path / "thin.png", 560, 14).image.shape == (14, 560, 3)


def test_examples_are_the_photos_of_a_folder_by_name(tmp_path: Path) -> None:
    for index in range(MOST_EXAMPLES + 2):
        write_photo(tmp_path / "photos" / f"{index:02}.PNG", 320, 240)
    (tmp_path / "photos" / "00.txt").write_text("not one")
    found = find_examples(tmp_path / "photos")
    assert [example.path.name for example in found] == [f"{index:02}.PNG" for index in range(MOST_EXAMPLES)]
    assert all(example.thumbnail.shape == (120, 160, 3) for example in found)


def test_a_folder_without_examples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--examples .* is not a folder"):
        find_examples(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"--examples .* holds no photo"):
        find_examples(tmp_path)
    (tmp_path / "bad.jpg").write_bytes(b"no")
    with pytest.raises(InputError, match=r"bad\.jpg is no photo"):
        find_examples(tmp_path)
