"""The backbone as a dense feature extractor: grid, normalisation, layers, families, bad input."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import lru_cache, partial

import cv2
import numpy as np
import pytest
import timm
import torch
import tyro
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import fit3d_ns.features.backbone as backbone_module
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.backbone import (
    INPUT_RULES,
    Backbone,
    BackboneConfig,
    backbone_fingerprint,
    grid_size,
    input_size,
    load_backbone,
    rule_of,
)
from fit3d_ns.features.names import skeleton
from tests.fit3d_ns.features.conftest import TINY

# One small member of every family that the method promises, with its number of prefix tokens.
FAMILIES = {
    "vit_small_patch14_dinov2.lvd142m": 1,
    "vit_small_patch14_reg4_dinov2.lvd142m": 5,
    "vit_small_patch16_dinov3.lvd1689m": 5,
    "vit_xsmall_patch16_clip_224": 1,
    "vit_base_patch16_siglip_224.webli": 0,
    "vit_base_patch16_224.mae": 1,
    "deit3_small_patch16_224.fb_in1k": 1,
}
LARGE = {
    "vit_base_patch14_dinov2.lvd142m": (14, 768),
    "vit_large_patch14_reg4_dinov2.lvd142m": (14, 1024),
    "vit_giant_patch14_dinov2.lvd142m": (14, 1536),
    "vit_7b_patch16_dinov3.lvd1689m": (16, 4096),
    "vit_base_patch16_clip_384.laion2b_ft_in12k_in1k": (16, 768),
    "vit_base_patch16_clip_224.openai": (16, 768),
    "vit_so400m_patch14_siglip_384.webli": (14, 1152),
    "deit3_base_patch16_224.fb_in22k_ft_in1k": (16, 768),
}


@lru_cache
def tiny(**options: object) -> Backbone:
    return load_backbone(BackboneConfig(**{"name": TINY, "weights": "random", **options}))  # type: ignore[arg-type]


def normalised(backbone: Backbone, images: Tensor) -> Tensor:
    return (images - torch.tensor(backbone.mean)[:, None, None]) / torch.tensor(backbone.std)[:, None, None]


# ---- the grid


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([8, 14, 16, 32]), st.none() | st.integers(32, 4000))
def test_input_size_is_the_nearest_whole_grid_within_the_limit(H: int, W: int, patch: int, limit: int | None) -> None:
    size = input_size(H, W, patch, limit)
    assert all(side % patch == 0 and side >= patch for side in size)
    assert grid_size(H, W, patch, limit) == (size[0] // patch, size[1] // patch)
    assert input_size(*size, patch, limit) == size
    scale = 1.0
    if limit is not None:
        assert max(size) <= limit
        scale = min(1.0, limit / max(H, W))
    for side, wanted in zip(size, (H * scale, W * scale), strict=True):
        at_limit = limit is not None and side == limit // patch * patch
        assert abs(side - wanted) <= patch / 2 + 1e-6 or side == patch or at_limit


@pytest.mark.parametrize(
    ("image", "limit", "expected"),
    [((336, 448), None, (336, 448)), ((584, 876), None, (588, 882)), ((480, 270), None, (476, 266)),
     ((1080, 1920), 1036, (588, 1036)), ((7, 7), None, (14, 14)), ((21, 20), None, (28, 14))],
)  # fmt: skip
def test_input_size_of_known_images(image: tuple[int, int], limit: int | None, expected: tuple[int, int]) -> None:
    assert input_size(*image, 14, limit) == expected


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([8, 14, 16, 32]))
def test_by_the_floor_rule_no_side_grows_and_less_than_a_patch_is_lost(H: int, W: int, patch: int) -> None:
    size = input_size(H, W, patch, None, "floor")
    assert grid_size(H, W, patch, None, "floor") == (size[0] // patch, size[1] // patch)
    for side, given_side in zip(size, (H, W), strict=True):
        assert side % patch == 0
        assert 0 <= given_side - side < patch or side == patch


@pytest.mark.parametrize("side", [14, 1036, 1400, 1932, 3003])
def test_by_the_floor_rule_a_side_at_the_limit_keeps_its_last_patch(side: int) -> None:
    for longest in range(side, 5000, 7):
        assert max(input_size(longest, 100, 14, side, "floor")) == side // 14 * 14


# ---- what comes out


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """timm models of two blocks: the family decides everything else, and base-size ones stay fast."""
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, depth=2))
    skeleton.cache_clear()
    yield
    skeleton.cache_clear()


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gives_the_patch_tokens_that_timm_gives(name: str) -> None:
    backbone = load_backbone(BackboneConfig(name=name, weights="random"))
    p = backbone.patch_size
    images = torch.rand(2, 3, 3 * p, 5 * p)
    prefix = FAMILIES[name]
    with torch.inference_mode():
        features, token = backbone.forward_with_class_token(images)
        tokens = backbone.model.forward_features(normalised(backbone, images))  # type: ignore[operator]
    assert features.shape == (2, backbone.embed_dim, 3, 5)
    torch.testing.assert_close(features.flatten(2).transpose(1, 2), tokens[:, prefix:], rtol=1e-4, atol=1e-4)
    expected = tokens[:, 0] if prefix else tokens.mean(dim=1)
    torch.testing.assert_close(token, expected, rtol=1e-4, atol=1e-4)
    assert backbone.mean == tuple(timm.models.get_pretrained_cfg(name).mean)


@pytest.mark.parametrize("name", LARGE)
def test_large_models_are_described_without_being_built(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone_module, "_create", None)
    fingerprint = backbone_fingerprint(BackboneConfig(name=name, weights="random"))
    assert (fingerprint["patch_size"], fingerprint["embed_dim"]) == LARGE[name]


def test_images_off_the_grid_are_resized_to_it() -> None:
    backbone = tiny()
    with torch.inference_mode():
        assert backbone(torch.rand(1, 3, 50, 100)).shape == (1, 192, *backbone.grid_size(50, 100))
        image = torch.rand(1, 3, 48, 96)
        # A constant stays what it is through the resize; a grid-sized image is not touched.
        grey = torch.full((1, 3, 50, 100), 0.5)
        torch.testing.assert_close(backbone(grey), backbone(torch.full((1, 3, 48, 96), 0.5)), rtol=1e-4, atol=1e-4)
        tokens = backbone.model.forward_features(normalised(backbone, image))  # type: ignore[operator]
        torch.testing.assert_close(backbone(image).flatten(2).transpose(1, 2), tokens[:, 1:])


def test_by_the_floor_rule_images_are_resized_bilinearly_as_opencv_does() -> None:
    backbone = tiny(input_rule="floor")
    seen: list[Tensor] = []
    backbone._intermediates = lambda images: seen.append(images) or [(images, images.flatten(2))]  # type: ignore[method-assign, func-returns-value]
    for height, width in ((84, 112), (63, 97), (584, 876)):
        image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        backbone(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)
        pixels = (seen[-1] * torch.tensor(backbone.std)[:, None, None] + torch.tensor(backbone.mean)[:, None, None])[0]
        expected = cv2.resize(image, (width // 16 * 16, height // 16 * 16), interpolation=cv2.INTER_LINEAR)
        difference = (pixels.permute(1, 2, 0) * 255 - torch.from_numpy(expected).float()).abs()
        assert float(difference.max()) < 1.0  # OpenCV rounds to 8 bits


def test_the_words_of_an_input_rule_lead_back_to_it() -> None:
    for rule, words in INPUT_RULES.items():
        assert rule_of(words) == rule
        config = BackboneConfig(name=TINY, weights="random", input_rule=rule)
        assert backbone_fingerprint(config)["input_rule"] == words
    assert rule_of("some other rule") == "nearest"


def test_an_intermediate_layer_is_its_block_with_the_final_norm() -> None:
    backbone = tiny(layer=-4)
    assert backbone.layer == 8
    images = torch.rand(1, 3, 64, 64)
    model: timm.models.VisionTransformer = backbone.model  # type: ignore[assignment]
    with torch.inference_mode():
        x = model._pos_embed(model.patch_embed(normalised(backbone, images)))
        for block in model.blocks[:9]:
            x = block(x)
        torch.testing.assert_close(backbone(images).flatten(2).transpose(1, 2), model.norm(x)[:, 1:])


def test_position_embeddings_are_the_trained_ones_at_the_training_size() -> None:
    model: timm.models.VisionTransformer = tiny().model  # type: ignore[assignment]
    empty = torch.zeros(1, 14, 14, 192)
    with torch.inference_mode():
        same = model._pos_embed(empty)[:, 1:]
        other = model._pos_embed(torch.zeros(1, 10, 20, 192))[:, 1:]
    assert torch.equal(same, model.pos_embed[:, 1:])
    assert other.shape == (1, 200, 192)


def test_gradients_reach_the_image_and_the_blocks_that_were_used_only() -> None:
    backbone = tiny(layer=2)
    images = torch.rand(1, 3, 40, 40, requires_grad=True)
    backbone(images).square().mean().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    blocks = backbone.model.blocks
    assert blocks[2].attn.qkv.weight.grad is not None  # type: ignore[index, union-attr]
    assert blocks[3].attn.qkv.weight.grad is None  # type: ignore[index, union-attr]


def test_bf16_is_close_to_fp32_and_still_returns_fp32() -> None:
    images = torch.rand(1, 3, 96, 128)
    with torch.inference_mode():
        fp32, bf16 = tiny()(images), tiny(precision="bf16")(images)
    assert bf16.dtype == torch.float32
    assert not torch.equal(fp32, bf16)
    assert torch.cosine_similarity(fp32, bf16, dim=1).min() > 0.999


def test_random_weights_are_the_same_every_time_and_leave_the_random_state_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    images = torch.full((1, 3, 32, 32), 0.3)
    with torch.inference_mode():
        again = load_backbone(tiny().config)
        assert torch.equal(tiny()(images), again(images))
    assert torch.equal(before, torch.get_rng_state())


# ---- the fingerprint


def test_the_fingerprint_is_that_of_the_backbone_and_plain_json() -> None:
    config = BackboneConfig(name=TINY, weights="random", layer=3)
    fingerprint = backbone_fingerprint(config)
    backbone = load_backbone(config)
    assert json.loads(json.dumps(fingerprint)) == fingerprint
    for key in ("layer", "patch_size", "embed_dim", "weights_sha256", "description"):
        assert fingerprint[key] == getattr(backbone, key)


@pytest.mark.parametrize(
    "change",
    [{"layer": 3}, {"precision": "bf16"}, {"max_size": 64}, {"name": "vit_tiny_patch16_384"},
     {"input_rule": "floor"}, {"name": "vit_tiny_patch16_224.augreg_in21k"}],
)  # fmt: skip
def test_the_fingerprint_changes_with_every_option(change: dict[str, object]) -> None:
    config = BackboneConfig(name=TINY, weights="random")
    assert backbone_fingerprint(config) == backbone_fingerprint(replace(config))
    assert backbone_fingerprint(config) != backbone_fingerprint(replace(config, **change))  # type: ignore[arg-type]


def test_the_same_layer_written_three_ways_is_one_fingerprint() -> None:
    config = BackboneConfig(name=TINY, weights="random")
    same = [backbone_fingerprint(replace(config, layer=layer)) for layer in (None, -1, 11)]
    assert same[0] == same[1] == same[2]


# ---- bad input


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": "vit_small_patch14_dino2"}, r"no model .*did you mean vit_small_patch14_dinov2,"),
        ({"name": "dinov2_vits14"}, r"did you mean vit_small_patch14_dinov2,"),
        ({"name": "qqqqqq"}, r"no model 'qqqqqq'"),
        ({"name": "vit_small_patch14_dinov2.nope"}, r"no weights 'nope' .*lvd142m"),
        ({"name": "resnet18"}, "not a plain ViT"),
        ({"name": "swin_tiny_patch4_window7_224"}, "not a plain ViT"),
        ({"name": "vit_small_r26_s32_224"}, "not a plain ViT"),
        ({"layer": 12}, r"layer 12 does not exist.*0 to 11"),
        ({"layer": -13}, r"layer -13 does not exist"),
        ({"max_size": 15}, "less than one 16-pixel patch"),
        ({"precision": "fp8"}, "fp32 or bf16"),
        ({"input_rule": "ceil"}, "nearest or floor"),
    ],
)
def test_bad_options_are_one_sentence(options: dict[str, object], sentence: str) -> None:
    config = BackboneConfig(**{"name": TINY, "weights": "random", **options})  # type: ignore[arg-type]
    for use in (load_backbone, backbone_fingerprint):
        with pytest.raises(InputError, match=sentence) as caught:
            use(config)
        assert "\n" not in str(caught.value)


def test_images_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="images must be"):
        tiny()(torch.rand(3, 32, 32))


def test_every_option_is_documented_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tyro.cli(BackboneConfig, args=["--help"])
    text = capsys.readouterr().out
    for option in fields(BackboneConfig):
        assert f"--{option.name.replace('_', '-')}" in text
    assert "saliency-tuned" in text
    config = tyro.cli(BackboneConfig, args=["--layer", "-2", "--weights", "offline", "--max-size", "None"])
    assert config == BackboneConfig(layer=-2, weights="offline", max_size=None)


def test_the_environment_sets_the_default_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    assert BackboneConfig().weights == "hub"
    monkeypatch.setenv("FIT3D_BACKBONE_WEIGHTS", "offline")
    assert BackboneConfig().weights == "offline"
