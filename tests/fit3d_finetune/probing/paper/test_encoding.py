"""Crops are padded, not resized, and encoded as timm itself does."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
import torch

from fit3d_finetune.probing.paper.encoding import CropEncoder, pad_to_patches
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.backbone import BackboneConfig
from tests.fit3d_finetune.probing.scenes import BACKBONE

RANDOM = np.random.default_rng(0)


def crop(height: int, width: int) -> np.ndarray:
    return RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_published_crop_gets_three_pixels_on_each_side() -> None:
    padded = pad_to_patches(torch.ones(1, 3, 512, 512), 14)
    assert padded.shape == (1, 3, 518, 518)
    assert padded[..., 3:515, 3:515].all()
    assert padded.sum() == 3 * 512 * 512
    odd = pad_to_patches(torch.ones(1, 1, 13, 16), 16)[0, 0]
    assert odd.sum(1).tolist() == [0, *[16] * 13, 0, 0], "the odd row lies below"
    assert pad_to_patches(torch.ones(1, 3, 28, 42), 14).shape == (1, 3, 28, 42)


@pytest.mark.parametrize("final_norm", [True, False])
def test_features_are_those_of_the_padded_crop_with_or_without_the_final_norm(final_norm: bool) -> None:
    encoder = CropEncoder({"a": BACKBONE}, final_norm=final_norm)
    first, second = crop(40, 50), crop(32, 64)
    found = encoder([first, second], (40, 64))
    backbone = encoder.backbones["a"]
    batch = torch.zeros(2, 3, 48, 64)
    mean, std = (torch.tensor(value)[:, None, None] for value in (backbone.mean, backbone.std))
    for index, (image, (height, width)) in enumerate([(first, (40, 50)), (second, (32, 64))]):
        pixels = torch.from_numpy(image).permute(2, 0, 1) / 255
        batch[index, :, 4 : 4 + height, :width] = (pixels - mean) / std
    with torch.no_grad():
        [(patches, prefix)] = backbone.model.forward_intermediates(
            batch, indices=[3], norm=final_norm, return_prefix_tokens=True, intermediates_only=True
        )
    torch.testing.assert_close(found.maps["a"], patches.permute(0, 2, 3, 1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.class_tokens["a"], prefix[:, 0], atol=1e-5, rtol=1e-4)
    assert found.maps["a"].shape == (2, 3, 4, encoder.channels["a"])


def test_values_between_two_colours_are_kept() -> None:
    encoder = CropEncoder({"a": BACKBONE}, final_norm=True)
    whole = encoder([crop(32, 32).astype(np.float32)], (32, 32)).maps["a"]
    assert whole.isfinite().all()
    image = np.full((32, 32, 3), 100.0, np.float32)
    a, b = (encoder([image + shift], (32, 32)).maps["a"] for shift in (0.0, 0.4))
    assert not torch.equal(a, b)


def test_a_model_without_class_token_gives_its_mean_patch() -> None:
    encoder = CropEncoder({"a": BackboneConfig(name="test_vit3", weights="random", layer=1)}, final_norm=False)
    assert encoder.backbones["a"].model.cls_token is None
    found = encoder([crop(32, 48)], (32, 48))
    torch.testing.assert_close(found.class_tokens["a"], found.maps["a"].mean((1, 2)))


def test_broken_weights_are_said_before_they_are_trained_on() -> None:
    encoder = CropEncoder({"a": BACKBONE}, final_norm=True)
    with torch.no_grad():
        next(encoder.backbones["a"].model.parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match="gives NaN or infinite features"):
        encoder([crop(32, 32)], (32, 32))


def test_the_cost_is_said_before_it_is_paid(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = CropEncoder({"a": BACKBONE, "b": dataclasses.replace(BACKBONE, layer=1)}, final_norm=True)
    times = iter([0.0, 2.0])
    monkeypatch.setattr("fit3d_finetune.probing.paper.encoding.time.perf_counter", lambda: next(times))
    logger = logging.getLogger("fit3d")
    monkeypatch.setattr(logger, "propagate", True)
    with caplog.at_level(logging.INFO, logger="fit3d"):
        encoder.announce("Segmentation probes", 40_000, 16, (64, 48))
    said = " ".join(caplog.text.split())
    assert "40,000 iterations of 16 crops of 48x64" in said
    assert "2 backbones in 2 s each" in said
    assert "15 days" in said
