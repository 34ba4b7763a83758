"""load_image and load_mask: every kind of file that captures hold, and every way in which one can be broken."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from nerfstudio.data.utils.data_utils import get_image_mask_tensor_from_path
from PIL import Image

from fit3d_ns.capture import images
from fit3d_ns.capture.images import load_image, load_mask, read_header
from fit3d_ns.common.console import logger
from fit3d_ns.common.errors import InputError

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (20, 30), dtype=np.uint8)
RGB = RANDOM.integers(0, 256, (20, 30, 3), dtype=np.uint8)
ALPHA = RANDOM.integers(0, 256, (20, 30, 1), dtype=np.uint8)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """The log of a process that has not said anything yet."""
    monkeypatch.setattr(images, "_said", set())
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO)
    yield caplog
    logger.removeHandler(caplog.handler)


def over_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.rint(rgb * (alpha / 255.0) + 255.0 * (1 - alpha / 255.0))


def save(path: Path, array: np.ndarray, mode: str | None = None) -> Path:
    Image.fromarray(array, mode).save(path)
    return path


def bgr(array: np.ndarray) -> np.ndarray:
    return array[..., [2, 1, 0, *range(3, array.shape[2])]]


def test_rgb_comes_back_unchanged_writable_and_unsaid(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    image = load_image(save(tmp_path / "a.png", RGB))
    assert (image == RGB).all()
    assert image.dtype == np.uint8
    assert image.flags.writeable
    assert image.flags.c_contiguous
    assert not log.messages


def _grey(path: Path) -> np.ndarray:
    save(path, GREY)
    return GREY[..., None].repeat(3, axis=2)


def _one_bit(path: Path) -> np.ndarray:
    Image.fromarray(GREY > 99).save(path)
    return ((GREY > 99)[..., None].repeat(3, axis=2) * 255).astype(np.uint8)


def _grey_alpha(path: Path) -> np.ndarray:
    save(path, np.dstack([GREY, ALPHA]))
    return over_white(GREY[..., None].repeat(3, axis=2), ALPHA)


def _rgba(path: Path) -> np.ndarray:
    save(path, np.dstack([RGB, ALPHA]))
    return over_white(RGB, ALPHA)


def _palette(path: Path) -> np.ndarray:
    palette = Image.fromarray(RGB).quantize(16)
    palette.save(path)
    return np.asarray(palette.convert("RGB"))


def _palette_with_transparency(path: Path) -> np.ndarray:
    palette = Image.fromarray(RGB).quantize(16)
    palette.save(path, transparency=3)
    index, colours = np.asarray(palette), np.asarray(palette.convert("RGB"))
    return np.where((index == 3)[..., None], 255, colours)


def _grey_16(path: Path) -> np.ndarray:
    deep = RANDOM.integers(0, 65536, (20, 30), dtype=np.uint16)
    Image.fromarray(deep).save(path)
    return np.rint(deep / 257.0)[..., None].repeat(3, axis=2)


def _rgb_16(path: Path) -> np.ndarray:
    deep = RANDOM.integers(0, 65536, (20, 30, 3), dtype=np.uint16)
    cv2.imwrite(str(path), bgr(deep))
    return np.rint(deep / 257.0)


def _rgba_16(path: Path) -> np.ndarray:
    deep = np.dstack([RGB, ALPHA]).astype(np.uint16) * 257
    cv2.imwrite(str(path), bgr(deep))
    return over_white(RGB, ALPHA)


def _float_grey(path: Path) -> np.ndarray:
    Image.fromarray(GREY.astype(np.float32) / 255.0).save(path)
    return GREY[..., None].repeat(3, axis=2)


def _float_rgb(path: Path) -> np.ndarray:
    # OpenCV's default compression of float TIFFs is lossy.
    cv2.imwrite(str(path), bgr(RGB.astype(np.float32) / 255.0), [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    return RGB


def _cmyk(path: Path) -> np.ndarray:
    Image.fromarray(RGB).convert("CMYK").save(path)
    return RGB


KINDS: list[tuple[Callable[[Path], np.ndarray], str, str, list[str]]] = [
    (_grey, "png", "greyscale", ["repeated to RGB"]),
    (_one_bit, "png", "greyscale", ["repeated to RGB"]),
    (_grey_alpha, "png", "greyscale with alpha", ["repeated to RGB", "composited over"]),
    (_rgba, "png", "RGB with alpha", ["composited over"]),
    (_palette, "png", "palette", ["colours looked up"]),
    (_palette_with_transparency, "png", "palette with alpha", ["colours looked up", "composited over"]),
    (_grey_16, "png", "16-bit greyscale", ["rounded to 8 bits", "repeated to RGB"]),
    (_grey_16, "tiff", "16-bit greyscale", ["rounded to 8 bits", "repeated to RGB"]),
    (_rgb_16, "png", "16-bit RGB", ["rounded to 8 bits"]),
    (_rgb_16, "tiff", "16-bit RGB", ["rounded to 8 bits"]),
    (_rgba_16, "png", "16-bit RGB with alpha", ["rounded to 8 bits", "composited over"]),
    (_float_grey, "tiff", "float greyscale", ["scaled to 8 bits"]),
    (_float_rgb, "tiff", "float RGB", ["scaled to 8 bits"]),
    (_cmyk, "tiff", "CMYK", ["converted to RGB"]),
]


@pytest.mark.parametrize(("write", "suffix", "kind", "deeds"), KINDS, ids=[f"{k[2]} {k[1]}" for k in KINDS])
def test_other_kinds_are_converted_and_that_is_said_once(
    tmp_path: Path,
    log: pytest.LogCaptureFixture,
    write: Callable[[Path], np.ndarray],
    suffix: str,
    kind: str,
    deeds: list[str],
) -> None:
    path = tmp_path / f"a.{suffix}"
    expected = write(path)
    image = load_image(path)
    assert image.dtype == np.uint8
    assert image.shape == (20, 30, 3)
    assert np.abs(image.astype(int) - expected).max() <= (1 if "alpha" in kind else 0)
    load_image(path)
    assert len(log.messages) == 1
    assert f" {kind}: " in log.messages[0]
    assert all(deed in log.messages[0] for deed in deeds)
    header = read_header(path)
    assert (header.width, header.height, header.kind) == (30, 20, kind)


def test_the_background_is_the_callers_choice(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.zeros((4, 4, 4), np.uint8))
    assert (load_image(path, background=(0.2, 0.4, 1.0)) == (51, 102, 255)).all()


def test_alpha_can_be_kept_where_there_is_any(tmp_path: Path) -> None:
    rgba = np.dstack([RGB, ALPHA])
    assert (load_image(save(tmp_path / "a.png", rgba), keep_alpha=True) == rgba).all()
    assert (load_image(save(tmp_path / "b.png", RGB), keep_alpha=True) == RGB).all()


def test_exif_rotation_is_not_applied_because_poses_belong_to_the_stored_pixels(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    assert (load_image(tmp_path / "a.png") == RGB).all()
    assert read_header(tmp_path / "a.png").exif_rotated


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp", "bmp"])
def test_a_truncated_image_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a.{suffix}", RANDOM.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    _truncate(path)
    with pytest.raises(InputError, match=r"a\.\w+ cannot be read or is truncated .* replace it"):
        load_image(path)


def test_a_truncated_16_bit_image_is_refused_by_name(tmp_path: Path) -> None:
    _rgb_16(tmp_path / "a.png")
    _truncate(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png cannot be read or is truncated .* replace it"):
        load_image(tmp_path / "a.png")


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
@pytest.mark.parametrize("read", [load_image, read_header, load_mask])
def test_a_file_that_is_no_image_is_refused_by_name(
    tmp_path: Path, content: bytes, read: Callable[[Path], object]
) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.png cannot be read or is truncated .* replace it"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("read", [load_image, read_header, load_mask])
def test_a_missing_file_is_refused_by_name(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(InputError, match=r"a\.png does not exist; restore it"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("value", [1.5, -0.1, np.nan, np.inf])
def test_float_images_outside_0_to_1_are_refused(tmp_path: Path, value: float) -> None:
    array = np.full((4, 4), 0.5, np.float32)
    array[1, 2] = value
    with pytest.raises(InputError, match=r"a\.tiff .* outside 0..1; convert it"):
        load_image(save(tmp_path / "a.tiff", array))


def test_integers_beyond_16_bits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.tiff has values outside 0..65535; convert it"):
        load_image(save(tmp_path / "a.tiff", np.full((4, 4), 70000, np.int32)))


def _write_mask(path: Path, kind: str) -> None:
    values = np.where(GREY > 128, GREY, 0).astype(np.uint8)
    match kind:
        case "8-bit":
            save(path, values)
        case "0/1":
            save(path, (values > 0).astype(np.uint8))
        case "1-bit":
            Image.fromarray(values > 0).save(path)
        case "16-bit":
            Image.fromarray(values.astype(np.uint16) * 256).save(path)
        case "palette":
            save(path, values % 7, "P")


@pytest.mark.parametrize("kind", ["8-bit", "0/1", "1-bit", "16-bit", "palette"])
@pytest.mark.filterwarnings("ignore:.*mode:DeprecationWarning")
def test_masks_mean_what_nerfstudio_reads(tmp_path: Path, kind: str) -> None:
    _write_mask(tmp_path / "m.png", kind)
    mask = load_mask(tmp_path / "m.png")
    assert mask.dtype == bool
    assert 0 < mask.mean() < 1
    assert (mask == get_image_mask_tensor_from_path(tmp_path / "m.png").numpy()[..., 0]).all()


def test_a_mask_with_colours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mask .*m\.png has 3 channels; save it with a single one"):
        load_mask(save(tmp_path / "m.png", RGB))


def test_a_mask_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"mask .*m\.png is zero everywhere, which leaves nothing of its image: correct"
    ):
        load_mask(save(tmp_path / "m.png", np.zeros((20, 30), np.uint8)))


def test_a_mask_of_another_size_than_its_image_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", np.full((20, 30), 255, np.uint8))
    assert load_mask(path, (30, 20)).all()
    with pytest.raises(
        InputError, match=r"mask .*m\.png has 30 x 20 pixels, but its image has 20 x 30: save it in the"
    ):
        load_mask(path, (20, 30))
