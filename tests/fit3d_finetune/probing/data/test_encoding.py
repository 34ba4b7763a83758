"""Windows of images, and their features from the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fit3d_ns.features.cache
from fit3d_finetune.probing.data.datasets import read_data
from fit3d_finetune.probing.data.encoding import (
    EncodedWindows,
    Window,
    _WindowPixels,
    random_windows,
    sliding_windows,
    standardizations,
    whole_images,
)
from fit3d_ns.features.backbone import Backbone, BackboneConfig
from tests.fit3d_finetune.probing.scenes import BACKBONE, FakeEncoded, FakeImage

OTHER = BackboneConfig(name="test_vit", weights="random", layer=1)


class Sized(FakeImage):
    """An image of a size, with pixels that say where they are: red is the column, green the row."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__(classes=np.zeros((height, width), np.uint8))

    def image(self) -> np.ndarray:
        rows, columns = np.mgrid[: self.size()[0], : self.size()[1]]
        return np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8)


@settings(max_examples=40, deadline=None)
@given(st.integers(5, 60), st.integers(5, 60), st.integers(4, 40), st.data())
def test_sliding_windows_cover_every_pixel_and_stay_inside(height: int, width: int, crop: int, data: st.DataObject):
    stride = data.draw(st.integers(1, crop))
    windows = sliding_windows([Sized(height, width)], crop, stride)
    seen = np.zeros((height, width), int)
    for window in windows:
        assert min(window.box) >= 0
        assert max(window.box) <= 1 + 1e-12
        seen[window.pixels(height, width)] += 1
    assert seen.min() >= 1
    assert len({window.box for window in windows}) == len(windows), "no window twice"


def test_sliding_windows_are_square_at_the_size_that_the_backbone_sees() -> None:
    images = [Sized(30, 47)]
    windows = sliding_windows(images, crop=40, stride=27)
    pixels = _WindowPixels(images, windows)
    assert len(windows) == 2
    assert all(pixels[index].shape == (40, 40, 3) for index in range(2))


@settings(max_examples=40, deadline=None)
@given(st.integers(5, 60), st.integers(5, 60), st.integers(4, 40), st.integers(0, 9))
def test_random_windows_lie_inside_each_as_it_is_and_mirrored(height: int, width: int, crop: int, seed: int):
    windows = random_windows([Sized(height, width)] * 2, crop, per_image=2, seed=seed)
    assert [window.image for window in windows] == [0] * 4 + [1] * 4
    for plain, mirrored in zip(windows[::2], windows[1::2], strict=True):
        assert min(plain.box) >= 0
        assert max(plain.box) <= 1 + 1e-12
        assert plain.box == mirrored.box
        assert (plain.mirrored, mirrored.mirrored) == (False, True)


def test_random_windows_depend_on_the_seed_alone() -> None:
    images = [Sized(40, 60)]
    assert random_windows(images, 20, 3, seed=4) == random_windows(images, 20, 3, seed=4)
    assert random_windows(images, 20, 3, seed=4) != random_windows(images, 20, 3, seed=5)


@pytest.mark.parametrize("mirrored", [False, True])
def test_places_point_at_the_pixels_that_the_backbone_saw(mirrored: bool) -> None:
    height, width = 20, 30
    window = Window(0, (0.25, 0.2, 0.75, 0.8), mirrored)
    cut = _WindowPixels([Sized(height, width)], [window])[0]
    rows, columns = window.pixels(height, width)
    r, c = (axis.ravel() for axis in np.mgrid[rows, columns])
    places = window.places(r, c, height, width)
    assert places.min() > 0
    assert places.max() < 1
    x, y = (places * (cut.shape[1], cut.shape[0])).astype(int).T
    np.testing.assert_array_equal(cut[y, x, 0], c)
    np.testing.assert_array_equal(cut[y, x, 1], r)


def count_images(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the layer of the backbone with each image that it sees."""
    seen: list[int] = []
    original = Backbone.forward_with_class_token

    def forward(self: Backbone, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.extend([self.layer] * len(images))
        return original(self, images)

    monkeypatch.setattr(Backbone, "forward_with_class_token", forward)
    return seen


def test_each_window_is_encoded_once_per_backbone(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = read_data([str(scene)])[0].images
    seen = count_images(monkeypatch)
    both = whole_images(6) + whole_images(6, mirrored=True)
    encoded = EncodedWindows(images, both, {"a": BACKBONE, "b": OTHER})
    assert sorted(seen) == [1] * 12 + [3] * 12
    assert encoded.features("a", 0).shape == (3, 4, 64)
    assert encoded.class_token("b", 0).shape == (64,)
    assert not torch.allclose(encoded.features("a", 0), encoded.features("b", 0))
    assert not torch.allclose(encoded.features("a", 0), encoded.features("a", 6))


def test_a_second_run_loads_no_backbone(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = read_data([str(scene)])[0].images
    first = EncodedWindows(images, whole_images(6), {"a": BACKBONE})

    def refuse(*_: object) -> Backbone:
        raise AssertionError("the backbone was loaded although every window is cached")

    monkeypatch.setattr(fit3d_ns.features.cache, "load_backbone", refuse)
    second = EncodedWindows(images, whole_images(6), {"a": BACKBONE})
    assert torch.equal(first.features("a", 3), second.features("a", 3))
    with pytest.raises(AssertionError, match="was loaded"):
        EncodedWindows(images, whole_images(6, mirrored=True), {"a": BACKBONE})


def test_standardized_training_features_have_mean_zero_and_variance_one() -> None:
    maps = [3 + 2 * torch.randn(4, 5, 6) for _ in range(3)]
    encoded = FakeEncoded([Sized(8, 10)] * 3, {"a": maps})
    statistics = standardizations(encoded)
    rows = torch.cat([statistics["a"](map).reshape(-1, 6) for map in maps])
    torch.testing.assert_close(rows.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows.std(0, correction=0), torch.ones(6), atol=1e-5, rtol=0)
    tokens = torch.stack([encoded.class_token("a", index) for index in range(3)])
    torch.testing.assert_close(statistics["a/class"].mean, tokens.mean(0))


def test_a_channel_that_never_varies_in_training_does_not_blow_up_in_testing() -> None:
    maps = [torch.randn(4, 5, 6) for _ in range(3)]
    for map in maps:
        map[..., 2] = 0.3
    statistics = standardizations(FakeEncoded([Sized(8, 10)] * 3, {"a": maps}))
    assert statistics["a"](torch.full((6,), 0.5))[2].abs() <= 0.3
    # Nor does a class token that was seen once.
    one = standardizations(FakeEncoded([Sized(8, 10)], {"a": maps[:1]}))
    assert one["a/class"](torch.ones(6)).abs().max() < 3
