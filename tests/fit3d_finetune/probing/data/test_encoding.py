"""Images, and their features from the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import fit3d_ns.features.cache
from fit3d_finetune.probing.data.datasets import read_data
from fit3d_finetune.probing.data.encoding import EncodedImages, standardizations
from fit3d_ns.features.backbone import Backbone, BackboneConfig
from tests.fit3d_finetune.probing.scenes import BACKBONE, FakeEncoded, FakeImage

IMAGE = FakeImage(np.zeros((8, 10), np.uint8))
OTHER = BackboneConfig(name="test_vit", weights="random", layer=1)


def count_images(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the layer of the backbone with each image that it sees."""
    seen: list[int] = []
    original = Backbone.forward_with_class_token

    def forward(self: Backbone, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.extend([self.layer] * len(images))
        return original(self, images)

    monkeypatch.setattr(Backbone, "forward_with_class_token", forward)
    return seen


def test_each_image_is_encoded_once_per_backbone(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = read_data([str(scene)])[0].images
    seen = count_images(monkeypatch)
    encoded = EncodedImages(images, {"a": BACKBONE, "b": OTHER})
    assert sorted(seen) == [1] * 6 + [3] * 6
    assert encoded.features("a", 0).shape == (3, 4, 64)
    assert encoded.class_token("b", 0).shape == (64,)
    assert not torch.allclose(encoded.features("a", 0), encoded.features("b", 0))


def test_a_second_run_loads_no_backbone(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = read_data([str(scene)])[0].images
    first = EncodedImages(images, {"a": BACKBONE})

    def refuse(*_: object) -> Backbone:
        raise AssertionError("the backbone was loaded although every image is cached")

    monkeypatch.setattr(fit3d_ns.features.cache, "load_backbone", refuse)
    second = EncodedImages(images, {"a": BACKBONE})
    assert torch.equal(first.features("a", 3), second.features("a", 3))
    with pytest.raises(AssertionError, match="was loaded"):
        EncodedImages(images, {"a": OTHER})


def test_standardized_training_features_have_mean_zero_and_variance_one() -> None:
    maps = [3 + 2 * torch.randn(4, 5, 6) for _ in range(3)]
    encoded = FakeEncoded([IMAGE] * 3, {"a": maps})
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
    statistics = standardizations(FakeEncoded([IMAGE] * 3, {"a": maps}))
    assert statistics["a"](torch.full((6,), 0.5))[2].abs() <= 0.3
    # Nor does a class token that was seen once.
    one = standardizations(FakeEncoded([IMAGE], {"a": maps[:1]}))
    assert one["a/class"](torch.ones(6)).abs().max() < 3
