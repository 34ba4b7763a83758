"""`--protocol paper` does what docs/fidelity/probes.md says, row by row; the references here are written anew."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import fit3d_finetune.probing.paper.batches as batches_module
import fit3d_finetune.probing.paper.depth as depth_module
import fit3d_finetune.probing.paper.segmentation as segmentation_module
from fit3d_finetune.commands.probe import ProbeArguments
from fit3d_finetune.probing.data.depth_benchmarks import DEPTH_BENCHMARKS, depth_limit
from fit3d_finetune.probing.data.labelled_images import LabelledImage, LabelledImages
from fit3d_finetune.probing.depth import DepthScores
from fit3d_finetune.probing.depth_loss import binned_depth
from fit3d_finetune.probing.paper.batches import depth_sample, draw_batches, segmentation_sample
from fit3d_finetune.probing.paper.depth import predict_depth, train_depth, with_first_class_token
from fit3d_finetune.probing.paper.depth_loss import depth_loss, gradient_loss, scale_invariant_loss
from fit3d_finetune.probing.paper.encoding import CropEncoder
from fit3d_finetune.probing.paper.heads import BatchNormHeads, clip_gradients, convolution_heads
from fit3d_finetune.probing.paper.segmentation import backward, predict_segmentation, train_segmentation
from fit3d_finetune.probing.plan import Probing, default_arms
from fit3d_finetune.probing.protocol import PAPER
from fit3d_finetune.probing.results import Arm
from fit3d_finetune.probing.segmentation import SegmentationScores
from fit3d_ns.features.backbone import DEFAULT_NAME, BackboneConfig
from tests.fidelity import FidelityTable
from tests.fit3d_finetune.probing.paper.encoders import ColourEncoder
from tests.fit3d_finetune.probing.scenes import BACKBONE, FakeImage

TABLE = FidelityTable("probes.md")
item = TABLE.item
ARMS = [Arm("original", ("colour",)), Arm("tuned", ("noise",)), Arm("original + tuned", ("colour", "noise"))]
NYU, KITTI, NONE = (DEPTH_BENCHMARKS[name] for name in ("nyu", "kitti", "none"))
DRAWS = 200


def test_every_row_of_the_table_has_a_test_and_every_test_a_row() -> None:
    TABLE.check(globals())


def test_a_deviation_has_its_reason() -> None:
    for name, published, here, why in TABLE.rows():
        assert published, name
        own_option = "`--" in here
        assert why or here == "the same" or own_option, f"{name} differs without a reason"


@dataclass
class Picture(FakeImage):
    """Noise of three classes in stripes, each of its own brightness; depth is 1 m more per stripe."""

    height: int = 96
    width: int = 128
    classes_of: Sequence[int] = (0, 1, 2)
    stripes: int = 6

    def __post_init__(self) -> None:
        stripe = np.arange(self.width) * self.stripes // self.width
        labels = np.asarray(self.classes_of)[stripe % len(self.classes_of)]
        self.classes = np.broadcast_to(labels, (self.height, self.width)).astype(np.uint8)
        self.metres = np.broadcast_to(1.0 + stripe, (self.height, self.width)).astype(np.float32)

    def image(self) -> np.ndarray:
        noise = np.random.default_rng(0).integers(0, 30, (self.height, self.width, 3))
        return (noise + 60 * self.classes[..., None] % 200).astype(np.uint8)


PICTURES = [Picture(stripes=3 + index) for index in range(4)]
SEGMENTATION = replace(PAPER, batch=3, segmentation_iterations=4, segmentation_sides=(256, 64), segmentation_crop=64)
DEPTH = replace(PAPER, batch=4, depth_iterations=4, depth_bins=16)


def segment(encoder: Any = None, seeds: tuple[int, ...] = (0,), **changes: Any) -> BatchNormHeads:
    protocol = replace(SEGMENTATION, **changes)
    return train_segmentation(encoder or ColourEncoder(), PICTURES, ARMS, 3, seeds, protocol)  # type: ignore[arg-type]


def estimate(encoder: Any = None, images: Sequence[Any] = PICTURES, **changes: Any) -> Any:
    protocol = replace(DEPTH, **changes)
    return train_depth(encoder or ColourEncoder(), images, ARMS, (0,), protocol, NONE, 8.0)  # type: ignore[arg-type]


def segmentation_draws(image: Any, **changes: Any) -> list[Any]:
    protocol = replace(SEGMENTATION, **changes)
    return [segmentation_sample(image, 3, protocol, np.random.default_rng(seed)) for seed in range(DRAWS)]


def depth_draws(image: Any, benchmark: Any = NYU) -> list[Any]:
    return [depth_sample(image, benchmark, PAPER, np.random.default_rng(seed)) for seed in range(DRAWS)]


class Recording(ColourEncoder):
    """Keeps the crops that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.crops: list[list[np.ndarray]] = []

    def __call__(self, crops: Any, size: tuple[int, int]) -> Any:
        self.crops.append([np.array(crop) for crop in crops])
        return super().__call__(crops, size)


def optimizers(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A record per step of the rate, momentum and weight decay of every optimiser that is made."""
    steps: list[dict[str, Any]] = []

    class Watched(torch.optim.AdamW):
        def step(self, closure: Any = None) -> Any:
            [group] = self.param_groups
            steps.append({name: group[name] for name in ("lr", "betas", "weight_decay", "eps")})
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "AdamW", Watched)
    return steps


# ---- both tasks


@item("Seeds")
def test_seeds_see_the_same_crops_drawn_by_the_first_and_start_from_their_own_numbers() -> None:
    def crops(seeds: tuple[int, ...]) -> list[list[np.ndarray]]:
        encoder = Recording()
        segment(encoder, seeds)
        return encoder.crops

    def same(one: list[list[np.ndarray]], other: list[list[np.ndarray]]) -> bool:
        return all(np.array_equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))

    assert same(crops((3,)), crops((3, 4)))
    assert not same(crops((3,)), crops((4, 3)))
    heads = BatchNormHeads(ARMS, ColourEncoder.channels, 3, (3, 4))
    assert not torch.equal(heads.weights["colour"][0], heads.weights["colour"][1])


@item("Crops")
def test_no_crop_comes_twice() -> None:
    encoder = Recording()
    segment(encoder, batch=4, segmentation_iterations=5)
    seen = {crop.tobytes() for batch in encoder.crops for crop in batch}
    assert len(seen) == 5 * 4, "4 images, 5 epochs"


@item("Order")
def test_batches_go_on_over_the_end_of_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[int] = []
    for batch in draw_batches(lambda index, _: index, 5, 3, 5, seed=0):  # type: ignore[arg-type, return-value]
        order += batch  # type: ignore[arg-type]
    assert len(order) == 15
    assert [sorted(order[start : start + 5]) for start in (0, 5, 10)] == [[0, 1, 2, 3, 4]] * 3
    assert len({tuple(order[start : start + 5]) for start in (0, 5, 10)}) > 1


@item("Batch")
def test_a_batch_has_sixteen_images_in_both_tasks() -> None:
    for train in (segment, estimate):
        encoder = Recording()
        train(encoder, batch=PAPER.batch, segmentation_iterations=1, depth_iterations=1)
        assert [len(batch) for batch in encoder.crops] == [16]


@item("Padding to patches")
def test_512_pixels_become_518_by_zeros_around_them() -> None:
    seen = []

    class Watching(CropEncoder):
        def _encode(self, backbone: Any, images: torch.Tensor) -> Any:
            seen.append(images)
            return images.new_zeros(len(images), 2, 37, 37), images.new_zeros(len(images), 2)

    encoder = Watching({"a": BACKBONE}, final_norm=True)
    encoder.backbones["a"].patch_size = 14
    encoder([np.full((512, 512, 3), 255, np.uint8)], (512, 512))
    [images] = seen
    assert images.shape == (1, 3, 518, 518)
    inside = images[..., 3:515, 3:515]
    assert (inside != 0).all()
    assert images.abs().sum() == pytest.approx(inside.abs().sum())


@item("Predictions of padded crops")
def test_the_padded_grid_is_stretched_onto_the_crop() -> None:
    """13 columns in patches of 8: padded by 1 and 2. A border between classes at 8 of 16 comes to 6.5 of 13."""
    logits = torch.zeros(1, 2, 2, 1, 2)
    logits[0, :, 1, 0, 1] = 9.0
    logits[0, :, 0, 0, 0] = 9.0
    merged = segmentation_module._merged(logits[:, :, :, 0], [(slice(0, 13), slice(0, 13))], (13, 13), (13, 13))
    np.testing.assert_array_equal(merged[0], [0] * 6 + [merged[0, 6]] + [1] * 6)


@item("Normalisation")
def test_images_are_normalised_as_their_own_backbone_was_trained() -> None:
    encoder = CropEncoder({"a": BACKBONE}, final_norm=True)
    seen: list[torch.Tensor] = []
    backbone = encoder.backbones["a"]
    backbone.mean, backbone.std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    backbone.model.patch_embed.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    encoder([np.full((32, 32, 3), 51, np.uint8)], (32, 32))
    expected = torch.tensor([(0.2 - 0.1) / 0.5, 0.0, (0.2 - 0.3) / 2.0])[:, None, None].expand(3, 32, 32)
    torch.testing.assert_close(seen[0][0], expected)


@item("Layer")
def test_the_layer_is_the_last_block_or_the_one_that_is_asked_for() -> None:
    last = CropEncoder({"a": BackboneConfig(name="test_vit", weights="random")}, final_norm=True).backbones["a"]
    assert last.layer == len(last.model.blocks) - 1
    assert CropEncoder({"a": replace(BACKBONE, layer=1)}, final_norm=True).backbones["a"].layer == 1
    assert replace(BackboneConfig(), weights="hub").layer is None
    assert DEFAULT_NAME == "vit_small_patch14_dinov2.lvd142m"


@item("Precision")
def test_arithmetic_is_fp32_unless_another_one_is_asked_for() -> None:
    crop = [np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)]
    full, again, half = (
        CropEncoder({"a": replace(BACKBONE, precision=precision)}, final_norm=True)(crop, (64, 64)).maps["a"]
        for precision in ("fp32", "fp32", "bf16")
    )
    assert BackboneConfig().precision == "fp32"
    assert full.dtype == half.dtype == torch.float32
    assert torch.equal(full, again)
    assert not torch.allclose(full, half, atol=1e-5)
    assert torch.allclose(full, half, atol=0.5)


@item("Label files")
def test_labels_are_taken_as_they_are_and_255_is_void(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 2, 255]], np.uint8)
    Image.fromarray(labels).save(tmp_path / "labels.png")
    Image.fromarray(np.zeros((1, 4, 3), np.uint8)).save(tmp_path / "image.png")
    image = LabelledImage("a", tmp_path / "image.png", label_path=tmp_path / "labels.png")
    np.testing.assert_array_equal(image.labels(3), labels)


@item("Which weights")
def test_the_heads_after_the_last_step_are_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    for train, key in ((segment, "segmentation_iterations"), (estimate, "depth_iterations")):
        kept = []

        class Watched(torch.optim.AdamW):
            def step(self, closure: Any = None, kept: Any = kept) -> Any:
                found = super().step(closure)
                kept.append([parameter.detach().clone() for parameter in self.param_groups[0]["params"]])
                return found

        monkeypatch.setattr(torch.optim, "AdamW", Watched)
        heads = train(**{key: 5})
        assert len(kept) == 5
        assert all(torch.equal(a, b) for a, b in zip(kept[-1], heads.parameters(), strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(kept[-2], heads.parameters(), strict=True))
        monkeypatch.undo()


# ---- segmentation


@item("Segmentation: size")
def test_images_fit_into_2048_by_512(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmentation_module, "_merged", lambda *_: None)
    assert PAPER.segmentation_sides == (2048, 512)
    for (height, width), expected in {
        (480, 640): (512, 683),
        (1200, 800): (768, 512),
        (300, 3000): (205, 2048),
    }.items():
        encoder = Recording()
        heads = BatchNormHeads(ARMS, encoder.channels, 3, (0,)).eval()
        protocol = replace(PAPER, segmentation_crop=4096, segmentation_stride=4096)
        arguments = (encoder, heads, [Picture(height=height, width=width)], protocol)
        next(predict_segmentation(*arguments))  # type: ignore[arg-type]
        assert encoder.crops[0][0].shape[:2] == expected
        resized = cv2.resize(Picture(height=height, width=width).image(), expected[::-1])
        np.testing.assert_array_equal(encoder.crops[0][0], resized)


@item("Segmentation: scale")
def test_training_images_are_scaled_between_half_and_double(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PAPER.segmentation_scales == (0.5, 2.0)
    sizes: list[tuple[int, int]] = []
    resize = batches_module.resize_labels
    monkeypatch.setattr(batches_module, "resize_labels", lambda a, size: (sizes.append(size), resize(a, size))[1])
    segmentation_draws(Picture(height=96, width=128))
    heights = np.array(sizes)[:, 0]
    assert 32 <= heights.min() < 34
    assert 126 < heights.max() <= 128
    assert np.median(heights) == pytest.approx(80, abs=9), "1.25 of 64"
    for height, width in sizes:
        assert width == pytest.approx(height * 4 / 3, abs=1)


@item("Segmentation: crop")
def test_crops_of_512_are_drawn_again_while_one_class_has_three_quarters() -> None:
    assert (PAPER.segmentation_crop, PAPER.category_share, PAPER.category_tries) == (512, 0.75, 10)
    wide = Picture(height=64, width=640, classes_of=(0, 0, 0, 0, 0, 0, 0, 0, 0, 1), stripes=10)
    scales = {"segmentation_scales": (1.0, 1.0), "segmentation_sides": (640, 64)}

    def mixed(samples: list[Any]) -> float:
        shares = [np.bincount(sample.truth.ravel(), minlength=2)[:2] / sample.truth.size for sample in samples]
        return float(np.mean([max(share) < 0.75 for share in shares]))

    # Of 577 places 32 show a quarter to three quarters of the class at the right-hand end, and 16 more of it.
    once, again = (mixed(segmentation_draws(wide, category_tries=tries, **scales)) for tries in (0, 10))
    assert once < 0.2
    assert again > 2.5 * once
    assert again < 1, "after ten more the last is taken"
    assert all(sample.truth.shape == (64, 64) for sample in segmentation_draws(wide, **scales))


@item("Segmentation: mirroring")
def test_half_of_the_segmentation_crops_are_mirrored() -> None:
    image = Picture(stripes=2, classes_of=(0, 1))
    image.classes[:, :64] = 0
    scales = {"segmentation_scales": (1.0, 1.0), "segmentation_sides": (128, 96), "segmentation_crop": 128}
    right = [sample.truth[0, 127] == 0 for sample in segmentation_draws(image, **scales)]
    assert np.mean(right) == pytest.approx(0.5, abs=0.1)


@item("Segmentation: colours")
def test_colours_change_within_the_published_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    from fit3d_finetune.probing import augmentation

    assert (augmentation.BRIGHTNESS, augmentation.HUE) == (32, 18), "18 steps of two degrees"
    assert augmentation.CONTRAST == augmentation.SATURATION == (0.5, 1.5)
    grey = np.full((1, 1, 3), 100, np.uint8)
    found = np.array(
        [augmentation.photometric_distortion(grey, np.random.default_rng(seed))[0, 0, 0] for seed in range(4000)]
    )
    # A grey pixel has no hue or saturation: brightness and contrast are left, each in half of the images.
    assert (found == 100).mean() == pytest.approx(0.25, abs=0.03)
    assert found.min() >= 68 * 0.5 - 1
    assert found.max() <= 132 * 1.5
    assert found.min() < 40
    assert found.max() > 185
    colour = np.array([[[100, 40, 40]]], np.uint8)  # never cut to 0 or 255, which would turn the hue
    hues = []
    for seed in range(2000):
        changed = augmentation.photometric_distortion(colour, np.random.default_rng(seed))
        hues.append(int(cv2.cvtColor(changed, cv2.COLOR_RGB2HSV)[0, 0, 0]))
    turned = (np.array(hues) + 90) % 180 - 90
    assert np.abs(turned).max() <= 18 + 3, "and what uint8 rounds away"
    assert np.abs(turned).max() >= 15
    assert (np.abs(turned) > 3).mean() == pytest.approx(0.5 * 29 / 36, abs=0.06)
    calls = []
    monkeypatch.setattr(batches_module, "photometric_distortion", lambda image, _: (calls.append(1), image)[1])
    segmentation_draws(PICTURES[0])
    assert len(calls) == DRAWS


@item("Segmentation: small images")
def test_small_images_are_continued_by_zeros_and_void() -> None:
    small = [s for s in segmentation_draws(Picture()) if s.image.shape[0] < 40]
    assert small
    for sample in small:
        assert sample.truth.shape == (64, 64)
        assert (sample.truth[sample.image.shape[0] :] == 255).all()
    encoder = CropEncoder({"a": BACKBONE}, final_norm=True)
    seen: list[torch.Tensor] = []
    encoder.backbones["a"].model.patch_embed.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    encoder([small[0].image], (64, 64))
    height = small[0].image.shape[0]
    assert not seen[0][:, :, height:].any()
    assert seen[0][:, :, :height].any()


def norms_of(monkeypatch: pytest.MonkeyPatch, task: str) -> bool:
    """Whether `probe` encodes a task's crops with the final norm."""
    import fit3d_finetune.probing.predictions as predictions

    found = []

    def encoder(_: Any, __: Any, *, final_norm: bool) -> None:
        found.append(final_norm)
        raise StopIteration

    monkeypatch.setattr(predictions, "CropEncoder", encoder)
    probing = Probing({}, ARMS, [], [], (task,), PAPER, (0,))  # type: ignore[arg-type]
    tasks = {"segmentation": predictions.segment, "depth": predictions.estimate_depth}
    arguments = (probing, None, None, 3) if task == "segmentation" else (probing, None, None)
    with pytest.raises(StopIteration):
        tasks[task](*arguments)  # type: ignore[operator]
    return found[0]


def tokens(final_norm: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Patch tokens and class token of the encoder, and all tokens of the last block as they leave it."""
    encoder = CropEncoder({"a": BACKBONE}, final_norm=final_norm)
    model, raw = encoder.backbones["a"].model, []
    model.blocks[3].register_forward_hook(lambda _, __, output: raw.append(output))
    model.norm.weight.data.fill_(1.7)
    model.norm.bias.data.fill_(0.3)
    found = encoder([np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)], (32, 48))
    return found.maps["a"].flatten(1, 2), found.class_tokens["a"], model.norm(raw[0]) if final_norm else raw[0]


@item("Segmentation: features")
def test_segmentation_sees_patch_tokens_after_the_final_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    assert norms_of(monkeypatch, "segmentation")
    patches, _, expected = tokens(final_norm=True)
    torch.testing.assert_close(patches, expected[:, -patches.shape[1] :], atol=1e-5, rtol=1e-4)


@item("Segmentation: head")
def test_the_head_is_a_batch_norm_and_a_convolution() -> None:
    heads = BatchNormHeads(ARMS, {"colour": 40, "noise": 50}, 30, (0,)).train()
    norm, layer = nn.BatchNorm2d(90), nn.Conv2d(90, 30, 1)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        weights = torch.cat([heads.weights["colour"][0][:, 1], heads.weights["noise"][0][:, 1]])
        assert weights.std().item() == pytest.approx(0.01, rel=0.05)
        layer.weight.copy_(weights.T[..., None, None])
        layer.bias.zero_()
        for value in (*heads.scales.parameters(), *heads.shifts.parameters()):
            value.copy_(torch.randn(value.shape, generator=random))
        norm.weight.copy_(torch.cat([heads.scales[name][0][:, 1, 0] for name in ("colour", "noise")]))
        norm.bias.copy_(torch.cat([heads.shifts[name][0][:, 1, 0] for name in ("colour", "noise")]))
    for training in (True, True, True, False):
        heads.train(training)
        norm.train(training)
        maps = {name: 2 + torch.randn(16, 3, 4, count) for name, count in {"colour": 40, "noise": 50}.items()}
        blocks = heads.normalize({name: map.flatten(1, 2) for name, map in maps.items()})
        found = heads(blocks, 0)[:, :, 2].unflatten(1, (3, 4)).permute(0, 3, 1, 2)
        expected = layer(norm(torch.cat([*maps.values()], -1).permute(0, 3, 1, 2)))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert norm.momentum == heads.norms["colour"].momentum
    assert norm.eps == heads.norms["colour"].eps


@item("Segmentation: loss")
def test_void_pixels_count_as_zero_in_the_mean_cross_entropy() -> None:
    logits = torch.randn(2, 4, 4, 1, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(3, (2, 16, 20), generator=torch.Generator().manual_seed(0))
    labels[:, :, 5:] = 255
    found = backward(logits.clone().requires_grad_(), labels)
    upsampled = F.interpolate(logits[:, :, :, 0].permute(0, 3, 1, 2), (16, 20), mode="bilinear")
    over_labelled = F.cross_entropy(upsampled, labels, ignore_index=255).item()
    assert found == pytest.approx(over_labelled * 5 / 20, rel=1e-5)


@item("Segmentation: optimiser")
def test_segmentation_is_trained_by_adamw_without_clipping(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = optimizers(monkeypatch)
    segment()
    assert {(step["weight_decay"], step["betas"], step["eps"]) for step in steps} == {(1e-4, (0.9, 0.999), 1e-8)}
    assert PAPER.segmentation_lr == 1e-3
    assert not hasattr(segmentation_module, "clip_gradients")


@item("Segmentation: schedule")
def test_segmentation_falls_straight_to_zero_after_its_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (PAPER.segmentation_iterations, PAPER.segmentation_warmup) == (40_000, 1_500)
    steps = optimizers(monkeypatch)
    segment(segmentation_iterations=10, segmentation_warmup=4, batch=1)
    expected = [1e-3 * (1 - i / 10) * (1 if i >= 4 else 1 - (1 - i / 4) * (1 - 1e-6)) for i in range(10)]
    assert [step["lr"] for step in steps] == pytest.approx(expected)


@item("Segmentation: test")
def test_windows_of_512_with_stride_341_are_averaged_and_brought_to_the_images_size() -> None:
    encoder = Recording()
    heads = BatchNormHeads(ARMS, encoder.channels, 3, (0,)).eval()
    image = Picture(height=480, width=1000)
    [(_, predicted)] = predict_segmentation(encoder, heads, [image], PAPER)  # type: ignore[arg-type]
    whole = cv2.resize(image.image(), (1067, 512))
    lefts = (0, 341, 555)
    assert [crop.shape for crop in encoder.crops[0]] == [(512, 512, 3)] * 3
    total, count = torch.zeros(3, 512, 1067), torch.zeros(1067)
    for left, crop in zip(lefts, encoder.crops[0], strict=True):
        np.testing.assert_array_equal(crop, whole[:, left : left + 512])
        map = ColourEncoder()([crop], (512, 512)).maps["colour"].flatten(1, 2)
        logits = heads(heads.normalize({"colour": map, "noise": map}), 0)[0, :, 0].detach().T.reshape(1, 3, 64, 64)
        total[:, :, left : left + 512] += F.interpolate(logits, (512, 512), mode="bilinear")[0]
        count[left : left + 512] += 1
    mean = F.interpolate((total / count)[None], (480, 1000), mode="bilinear")[0].topk(2, dim=0)
    clear = (mean.values[0] - mean.values[1] > 1e-5).numpy()
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(predicted[0][0][clear], mean.indices[0].numpy()[clear])


@item("Segmentation: mIoU")
def test_the_published_miou_goes_over_the_pixels_of_all_images_and_over_all_classes() -> None:
    labels = [np.array([[0, 0, 0, 1]]), np.array([[0, 1, 1, 1]])]
    predicted = [np.array([[0, 0, 2, 1]]), np.array([[0, 0, 1, 1]])]
    counts = np.array([np.bincount(values.ravel(), minlength=4) for values in labels])
    scores = SegmentationScores(ARMS[:1], (0,), counts)
    for index in range(2):
        scores.add(index, labels[index], [[predicted[index]]])
    result = scores.results([0, 1], 2, counted=range(4))["original"]
    assert result.pooled_miou == pytest.approx([(3 / 5 + 3 / 4 + 0 / 1) / 3]), "class 3 is nowhere, class 2 wrong"
    assert result.miou == pytest.approx([((2 / 3 + 1 / 1) / 2 + (1 / 2 + 2 / 3) / 2) / 2])


# ---- depth


@item("Depth: regions")
def test_borders_are_cut_where_the_benchmark_cuts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    region = batches_module.random_region
    monkeypatch.setattr(batches_module, "random_region", lambda size, *a: (seen.append(size), region(size, *a))[1])
    for benchmark, size in ((NYU, (480, 640)), (KITTI, (375, 1242)), (NONE, (480, 640))):
        depth_sample(Picture(height=size[0], width=size[1]), benchmark, PAPER, np.random.default_rng(0))  # type: ignore[arg-type]
    assert seen == [(472 - 45, 608 - 43), (352, 1216), (480, 640)]
    assert KITTI.test_region(375, 1242) == (slice(23, 375), slice(13, 1229))


@item("Depth: rotation")
def test_half_of_the_images_are_turned_by_up_to_two_and_a_half_degrees(monkeypatch: pytest.MonkeyPatch) -> None:
    turned = []
    rotated = batches_module.rotated

    def watched(image: np.ndarray, depth: np.ndarray, degrees: float) -> Any:
        turned.append(degrees)
        found = rotated(image, depth, degrees)
        assert set(np.unique(found[1])) <= {*np.unique(depth), 0}
        return found

    monkeypatch.setattr(batches_module, "rotated", watched)
    depth_draws(Picture(), NONE)
    assert len(turned) / DRAWS == pytest.approx(0.5, abs=0.1)
    assert -2.5 <= min(turned) < -2.2
    assert 2.2 < max(turned) <= 2.5


@item("Depth: mirroring")
def test_half_of_the_depth_images_are_mirrored() -> None:
    samples = depth_draws(Picture(height=200, width=300), NONE)
    left = [sample.truth[100, 75] > sample.truth[100, 225] for sample in samples]
    assert np.mean(left) == pytest.approx(0.5, abs=0.1)


@item("Depth: crop")
def test_depth_crops_have_the_benchmarks_size() -> None:
    image, street, small = Picture(height=480, width=640), Picture(height=375, width=1242), Picture()
    random = np.random.default_rng(0)
    assert depth_sample(image, NYU, PAPER, random).truth.shape == (416, 544)  # type: ignore[arg-type]
    assert depth_sample(image, NONE, PAPER, random).truth.shape == (416, 544)  # type: ignore[arg-type]
    assert depth_sample(street, KITTI, PAPER, random).truth.shape == (352, 704)  # type: ignore[arg-type]
    assert depth_sample(small, NONE, PAPER, random).truth.shape == (96, 128)  # type: ignore[arg-type]


@item("Depth: colours")
def test_half_of_the_depth_crops_change_their_colours() -> None:
    class Flat(Picture):
        def image(self) -> np.ndarray:
            return np.full((self.height, self.width, 3), 100, np.uint8)

    for benchmark, brightness, size in ((NONE, (0.75, 1.25), (96, 128)), (KITTI, (0.9, 1.1), (352, 1216))):
        samples = [
            sample.image[10:-10, 10:-10] for sample in depth_draws(Flat(height=size[0], width=size[1]), benchmark)
        ]
        changed = [
            image.reshape(-1, 3)[len(image) * image.shape[1] // 2] for image in samples if image.dtype != np.uint8
        ]
        assert len(changed) / DRAWS == pytest.approx(0.5, abs=0.1)
        values = np.array(changed)
        assert values.min() >= 100**0.9 * brightness[0] * 0.9 - 1e-3
        assert values.max() <= min(255, 100**1.1 * brightness[1] * 1.1) + 1e-3
        # Of the logarithm's spread, the power gives log(100) 0.2 / sqrt(12), the rest the factors.
        spread = [math.log(100) * 0.2, brightness[1] - brightness[0], 0.2]
        expected = math.sqrt(sum(width**2 / 12 for width in spread))
        assert np.log(values).std() == pytest.approx(expected, rel=0.2)
        assert np.std(np.log(values), axis=1).min() > 0, "each channel its own"


@item("Depth: features")
def test_depth_sees_patch_tokens_before_the_final_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not norms_of(monkeypatch, "depth")
    patches, _, expected = tokens(final_norm=False)
    torch.testing.assert_close(patches, expected[:, -patches.shape[1] :], atol=1e-5, rtol=1e-4)


@item("Depth: class token")
def test_the_assembly_has_the_originals_class_token_alone() -> None:
    arms = with_first_class_token(default_arms(["original", "fine-tuned"]))
    assert {arm.name: arm.backbones for arm in arms} == {
        "original": ("original", "original/class"),
        "fine-tuned": ("fine-tuned", "fine-tuned/class"),
        "original + original": ("original", "original", "original/class"),
        "original + fine-tuned": ("original", "fine-tuned", "original/class"),
    }
    small = dict.fromkeys(("original", "fine-tuned", "original/class", "fine-tuned/class"), 384)
    assert sum(small[block] for block in arms[-1].backbones) == 1152
    _, token, expected = tokens(final_norm=False)
    torch.testing.assert_close(token, expected[:, 0], atol=1e-5, rtol=1e-4)


@item("Depth: head")
def test_the_depth_head_is_a_convolution_of_upsampled_features_to_bins() -> None:
    assert (PAPER.depth_bins, PAPER.depth_upsampling) == (256, 4)
    arms = with_first_class_token(ARMS)
    channels = {"colour": 6, "noise": 6, "colour/class": 6, "noise/class": 6}
    heads = convolution_heads(arms, channels, 256, (0,))
    layer = nn.Conv2d(18, 256, 1)
    with torch.no_grad():
        for block, users in heads.users.items():
            for slot, arm in enumerate(users):
                bound = 1 / math.sqrt(sum(channels[name] for name in arms[arm].backbones))
                assert heads.weights[block][0][:, slot].abs().max() <= bound
        weight = [heads.weights[block][0][:, heads.users[block].index(2)] for block in arms[2].backbones]
        layer.weight.copy_(torch.cat(weight).T[..., None, None])
        layer.bias.copy_(heads.biases[0][2])
        assert 0.95 < torch.cat(weight).abs().max() * math.sqrt(18) <= 1, "torch's own start"
        encoded = ColourEncoder()([PICTURES[0].image()], (96, 128))
        found = depth_module._predict(heads, encoded, 0, PAPER, 10.0)[:, :, 0, 2]
        maps = torch.cat([*encoded.maps.values()], -1).permute(0, 3, 1, 2)
        token = encoded.class_tokens["colour"][..., None, None].expand(-1, -1, *maps.shape[-2:])
        wide = F.interpolate(torch.cat([maps, token], 1), scale_factor=4, mode="bilinear")
        weights = layer(wide)[0].relu() + 0.1
        expected = (weights * torch.linspace(1e-3, 10, 256)[:, None, None]).sum(0) / weights.sum(0)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@item("Depth: range")
def test_bins_end_at_the_largest_depth() -> None:
    assert ProbeArguments(test_data=()).max_depth is None
    assert depth_limit([LabelledImages("rooms", ())], None) == 10
    for max_depth in (10.0, 20.0, 80.0):
        outputs = torch.full((1, 1, 1, 1, 256), -1.0)
        assert binned_depth(outputs, max_depth, 4).max() == pytest.approx((1e-3 + max_depth) / 2, rel=1e-4)
        outputs[..., -1] = 1e9
        assert binned_depth(outputs, max_depth, 4).max() == pytest.approx(max_depth, rel=1e-4)


@item("Depth: far pixels")
def test_depth_beyond_the_last_bin_counts_in_training() -> None:
    def bias(metres: float) -> torch.Tensor:
        image = Picture()
        image.metres[:, 40:] = metres
        return estimate(images=[image]).biases[0]

    assert not torch.equal(bias(50.0), bias(0.0))


@item("Depth: scale-invariant loss")
def test_the_scale_invariant_loss_is_of_two_images_together() -> None:
    assert PAPER.depth_images_per_loss == 2
    random = np.random.default_rng(0)
    predicted, depth = random.uniform(1, 9, (2, 1, 7, 9)), random.uniform(1, 9, (2, 7, 9))
    depth[0, :3] = 0
    g = (np.log(predicted[:, 0] + 1e-3) - np.log(depth + 1e-3))[depth > 0]
    found = scale_invariant_loss(torch.from_numpy(predicted), torch.from_numpy(depth), warming=False)
    assert found.item() == pytest.approx(math.sqrt(g.var(ddof=1) + 0.15 * g.mean() ** 2))


@item("Depth: first iterations")
def test_the_first_hundred_iterations_have_the_mean_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PAPER.depth_loss_warmup == 100
    assert PAPER.shortened(200).depth_loss_warmup == 20
    warm = []

    def watched(predicted: torch.Tensor, depth: torch.Tensor, warming: bool) -> torch.Tensor:
        warm.append((warming, len(depth)))
        return depth_loss(predicted, depth, warming)

    monkeypatch.setattr(depth_module, "depth_loss", watched)
    estimate(depth_iterations=3, depth_loss_warmup=2)
    assert warm == [(True, 2)] * 4 + [(False, 2)] * 2, "two groups of two images per iteration"
    predicted, depth = torch.tensor([[[[2.0, 8.0]]]]), torch.tensor([[[1.0, 3.0]]])
    g = ((predicted + 1e-3).log() - (depth + 1e-3).log()).mean()
    assert scale_invariant_loss(predicted, depth, True).item() == pytest.approx(math.sqrt(0.15) * abs(g.item()))


@item("Depth: gradient loss")
def test_the_gradient_loss_is_not_zero_and_sees_rows_and_columns() -> None:
    depth = torch.full((2, 8, 8), 2.0)
    assert gradient_loss(depth[:, None] * 3, depth).item() == pytest.approx(0, abs=1e-6)
    for ramp in (torch.linspace(1, 3, 8)[:, None], torch.linspace(1, 3, 8)[None, :]):
        predicted = (ramp * torch.ones(2, 1, 8, 8)).requires_grad_()
        loss = gradient_loss(predicted, depth)
        loss.sum().backward()
        assert loss.item() > 0.1
        assert predicted.grad is not None
        assert predicted.grad.abs().sum() > 0
        whole = depth_loss(predicted, depth, warming=False) - scale_invariant_loss(predicted, depth, warming=False)
        assert whole.item() == pytest.approx(0.5 * loss.item(), rel=1e-4)


@item("Depth: nothing known")
def test_a_batch_without_depth_moves_nothing_but_decay() -> None:
    blank = Picture()
    blank.metres = np.zeros_like(blank.metres)
    heads = estimate(images=[blank], depth_weight_decay=0.0)
    start = convolution_heads(with_first_class_token(ARMS), dict.fromkeys(heads.users, 6), 16, (0,))
    assert all(torch.equal(a, b) for a, b in zip(heads.parameters(), start.parameters(), strict=True))


@item("Depth: optimiser")
def test_depth_is_trained_by_adamw_with_a_larger_decay(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = optimizers(monkeypatch)
    estimate()
    assert {step["weight_decay"] for step in steps} == {0.01}
    assert {(step["betas"][1], step["eps"]) for step in steps} == {(0.999, 1e-8)}
    assert PAPER.depth_lr == 1e-4


@item("Depth: momentum")
def test_momentum_falls_until_a_third_of_training_and_rises_again(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = optimizers(monkeypatch)
    estimate(depth_iterations=21, batch=2)
    momenta = [step["betas"][0] for step in steps]
    low = 0.3 * 21 - 1
    expected = [
        0.85 + 0.05 * (1 + math.cos(math.pi * i / low))
        if i <= low
        else 0.85 + 0.05 * (1 - math.cos(math.pi * (i - low) / (20 - low)))
        for i in range(21)
    ]
    assert momenta == pytest.approx(expected)
    assert (momenta[0], momenta[-1]) == pytest.approx((0.95, 0.95))


@item("Depth: clipping")
def test_a_heads_gradient_is_clipped_at_35_whatever_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []
    monkeypatch.setattr(depth_module, "clip_gradients", lambda _, limit: limits.append(limit))
    estimate()
    assert limits == [35.0] * 4
    heads = convolution_heads(ARMS[:2], {"colour": 6, "noise": 6}, 5, (0,))
    for parameter in heads.parameters():
        parameter.grad = torch.ones_like(parameter)
    heads.weights["colour"][0].grad *= 100
    clip_gradients(heads, 35.0)
    found = [
        torch.cat([heads.weights[block][0].grad.flatten(), heads.biases[0].grad[arm]]).norm().item()
        for arm, block in enumerate(("colour", "noise"))
    ]
    assert found == pytest.approx([35.0, math.sqrt(35)])


@item("Depth: schedule")
def test_depth_follows_half_a_cosine_with_a_long_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (PAPER.depth_iterations, PAPER.depth_warmup) == (38_400, 12_800)
    steps = optimizers(monkeypatch)
    estimate(depth_iterations=9, depth_warmup=3, batch=2)
    expected = [
        1e-4 * (1 + math.cos(math.pi * i / 9)) / 2 * (1 if i >= 3 else 1 - (1 - i / 3) * (1 - 1e-3)) for i in range(9)
    ]
    assert [step["lr"] for step in steps] == pytest.approx(expected, rel=1e-5)


@item("Depth: test")
def test_whole_images_and_their_mirror_images_are_averaged() -> None:
    heads, encoder = estimate(), Recording()
    image = Picture(height=90, width=130)
    arguments = (encoder, heads, [image], DEPTH, NONE, 8.0)
    [(_, depth)] = predict_depth(*arguments)  # type: ignore[arg-type]
    plain, mirrored = encoder.crops[0]
    np.testing.assert_array_equal(plain, image.image())
    np.testing.assert_array_equal(mirrored, image.image()[:, ::-1])
    each = []
    for crop in (plain, mirrored):
        with torch.no_grad():
            found = depth_module._predict(heads, ColourEncoder()([crop], (90, 130)), 0, DEPTH, 8.0)[:, :, 0, 0]
        each.append(F.interpolate(found[None, None], (90, 130), mode="bilinear")[0, 0].numpy())
    np.testing.assert_allclose(depth[0, 0], (each[0] + each[1][:, ::-1]) / 2, rtol=1e-4)


@item("Depth: scored pixels")
def test_each_benchmark_is_scored_in_its_crop() -> None:
    indoor, street = np.ones((480, 640), np.float32), np.ones((352, 1216), np.float32)
    for name in ("nyu", "scannet"):
        found = DEPTH_BENCHMARKS[name].scored(indoor)
        assert found[45:471, 41:601].all()
        assert found.sum() == (471 - 45) * (601 - 41)
    garg = np.zeros((352, 1216), bool)
    garg[int(0.40810811 * 352) : int(0.99189189 * 352), int(0.03594771 * 1216) : int(0.96405229 * 1216)] = True
    np.testing.assert_array_equal(KITTI.scored(street) > 0, garg)
    assert NONE.scored(indoor).all()


def scored(depth: list[list[float]], predicted: list[list[float]], scenes: list[int]) -> Any:
    scores = DepthScores(ARMS[:1], (0,), len(depth), 10.0)
    for index, (truth, guess) in enumerate(zip(depth, predicted, strict=True)):
        scores.add(index, np.array([truth], np.float32), np.array([[[guess]]], np.float32))
    return scores.results(scenes, max(scenes) + 1)["original"]


@item("Depth: limits")
def test_unknown_depth_and_what_lies_beyond_the_last_bin_are_not_scored() -> None:
    assert scored([[0.0, 2.0, 11.0]], [[5.0, 3.0, 1.0]], [0]).rmse == pytest.approx([1.0])
    assert scored([[10.0]], [[9.0]], [0]).rmse == pytest.approx([1.0])


@item("Depth: figures")
def test_figures_are_means_over_images_within_scenes() -> None:
    truth, guess = [[1.0, 1.0]] * 3, [[2.0, 2.0], [3.0, 1.0], [4.0, 4.0]]
    by_image = [1.0, 1.0, 3.0]
    assert scored(truth, guess, [0, 0, 0]).abs_rel == pytest.approx([np.mean(by_image)])
    assert scored(truth, guess, [0, 0, 1]).abs_rel == pytest.approx([(1.0 + 3.0) / 2])
