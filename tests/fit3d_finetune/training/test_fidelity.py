"""`--preset paper` does what docs/fidelity/finetuning.md says, row by row; the references here are written anew."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

import fit3d_finetune.backbone.precision as precision
from fit3d_finetune.backbone.hub import read_finetuned
from fit3d_finetune.commands.finetune import main
from fit3d_finetune.targets.files import TargetFolder
from fit3d_finetune.targets.finding import find_scenes
from fit3d_finetune.targets.rule import TargetRule
from fit3d_finetune.targets.scenes import Scene, split_scenes, view_refs
from fit3d_finetune.targets.store import TargetStore
from fit3d_finetune.training import train as training
from fit3d_finetune.training.learner import make_learner
from fit3d_finetune.training.loss import batch_loss
from fit3d_finetune.training.optimizer import build_optimizer, tuned_parameters
from fit3d_finetune.training.order import Order
from fit3d_finetune.training.recipe import PRESETS, lr_factor
from fit3d_finetune.training.samples import Augmentation, Loader, Sample, Samples
from fit3d_finetune.training.step import Diverged, training_step
from fit3d_finetune.training.train import finetune
from fit3d_ns.features.backbone import BackboneConfig, input_size, load_backbone
from fit3d_ns.scene.gaussians import FeatureGaussians
from fit3d_ns.scene.render import render_features
from tests.fidelity import FidelityTable
from tests.fit3d_finetune.scenes import BACKBONE, PATCH, make_gaussians, run_of

TABLE = FidelityTable("finetuning.md")
item = TABLE.item
PAPER = PRESETS["paper"]
PUBLISHED = (
    *("vit_small_patch14_dinov2.lvd142m", "vit_base_patch14_dinov2.lvd142m", "vit_small_patch14_reg4_dinov2.lvd142m"),
    *("vit_base_patch16_clip_384.laion2b_ft_in12k_in1k", "vit_base_patch16_224.mae", "deit3_base_patch16_224.fb_in1k"),
)
WIDTH, HEIGHT = 4 * PATCH + 5, 3 * PATCH + 9
"""Neither is a multiple of the patch size; rounding gives 4 x 4 patches, rounding down 3 x 4."""
FLOOR = (3, 4)


def test_every_row_of_the_table_has_a_test_and_every_test_a_row() -> None:
    TABLE.check(globals())


def test_a_deviation_has_its_reason() -> None:
    for name, published, here, why in TABLE.rows():
        assert published, name
        if here != "the same":
            assert why or name == "Divergence", f"{name} differs without a reason"


def write_scene(folder: Path, views: int = 6, mask: np.ndarray | None = None, **options: object) -> Scene:
    """An export as the published first stage makes them (3x3 convolution at full size), of images of odd sizes."""
    root = folder.parent.parent / "captures" / folder.name
    gaussians = make_gaussians(root, views=views, decoder="conv3x3", resolution="pixel", **options)  # type: ignore[arg-type]
    changed = []
    for index, view in enumerate(gaussians.scene.views):
        image = root / view.path
        pixels = np.random.default_rng(index).integers(0, 256, (8, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(image)
        if mask is not None:
            (root / "masks").mkdir(exist_ok=True)
            Image.fromarray(mask.astype(np.uint8) * 255).save(root / f"masks/{index}.png")
        K = view.K.copy()
        K[0, 2], K[1, 2] = WIDTH / 2, HEIGHT / 2
        sides = input_size(HEIGHT, WIDTH, PATCH, None)
        changed.append(
            dataclasses.replace(
                view,
                width=WIDTH,
                height=HEIGHT,
                K=K,
                mask_path=None if mask is None else f"masks/{index}.png",
                sha256=hashlib.sha256(image.read_bytes()).hexdigest(),
                grid=(sides[0] // PATCH, sides[1] // PATCH),
            )
        )
    info = dataclasses.replace(gaussians.scene, views=tuple(changed))
    dataclasses.replace(gaussians, scene=info).save(folder)
    [scene] = find_scenes(folder)
    return scene


def paper_store(folder: Path, *scenes: Scene) -> TargetStore:
    targets = TargetFolder(folder / "targets", 1 << 30)
    store = TargetStore(scenes, targets, "cpu", "gaussians", BACKBONE, PAPER.target_rule)
    store.prepare()
    return store


def photo(scene: Scene, view: int) -> Tensor:
    """[3, H, W] in 0..1 of the file."""
    pixels = np.asarray(Image.open(scene.files.image(scene.views[view])))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


def full_size_target(gaussians: FeatureGaussians, view: int) -> Tensor:
    """The decoded rendering [C, H, W], before it is brought to any grid."""
    features, _ = render_features(gaussians, gaussians.scene.views[view].pinhole())
    return F.conv2d(features.permute(2, 0, 1)[None], gaussians.decoder["weight"], padding=1)[0]


def shrunk(map: Tensor, size: tuple[int, int]) -> Tensor:
    """[C, H, W] to [C, *size] as torch.nn.functional.interpolate(mode="bilinear") does by definition."""
    for axis, count in ((1, size[0]), (2, size[1])):
        length = map.shape[axis]
        places = ((torch.arange(count, dtype=torch.float64) + 0.5) * length / count - 0.5).clamp(0, length - 1)
        low = places.floor().long()
        share = (places - low).to(map.dtype).view([-1 if a == axis else 1 for a in range(3)])
        high = (low + 1).clamp_max(length - 1)
        map = map.index_select(axis, low) * (1 - share) + map.index_select(axis, high) * share
    return map


@dataclasses.dataclass
class Step:
    """What one optimiser step of a run was given and did."""

    lr: float
    samples: list[Sample]
    figures: dict[str, Tensor]
    before: list[Tensor]
    gradients: list[Tensor]
    after: list[Tensor]


@dataclasses.dataclass
class Recording:
    scenes: list[Scene]
    seen: list[tuple[int, int]]
    """(scene, view) of every training sample, in order."""
    steps: list[Step]
    folder: Path
    names: list[str]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """A run of the preset on two scenes of five and four training views, with one held-out view each."""
    folder = tmp_path_factory.mktemp("paper")
    scenes = [write_scene(folder / "runs" / "attic", views=6), write_scene(folder / "runs" / "barn", views=5, seed=1)]
    validation = [write_scene(folder / "runs" / "cellar", views=3, seed=2)]
    steps: list[Step] = []
    seen: list[tuple[int, int]] = []
    step, load, get = training.training_step, Loader.load, Samples.__getitem__
    loading = False

    def recorded_step(learner, samples, recipe, lr, *together):  # type: ignore[no-untyped-def]
        parameters = list(learner.parameters.values())
        before = [parameter.detach().clone() for parameter in parameters]
        figures = step(learner, samples, recipe, lr, *together)
        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
            for parameter in parameters
        ]
        after = [parameter.detach().clone() for parameter in parameters]
        steps.append(Step(lr, list(samples), figures, before, gradients, after))
        return figures

    def recorded_load(self: Loader, number: int) -> list[Sample]:
        nonlocal loading
        loading = True
        try:
            return load(self, number)
        finally:
            loading = False

    def recorded_get(self: Samples, index: int) -> Sample:
        if loading:
            seen.append((self.refs[index].scene, self.refs[index].view))
        return get(self, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIT3D_CACHE_DIR", str(folder / "cache"))
        patch.setattr(training, "training_step", recorded_step)
        patch.setattr(Loader, "load", recorded_load)
        patch.setattr(Samples, "__getitem__", recorded_get)
        out = finetune(run_of(folder / "out", scenes, PAPER, val_scenes=validation))
    names = list(tuned_parameters(load_backbone(BACKBONE)))
    return Recording(scenes, seen, steps, out, names)


@item("Training views")
def test_the_training_views_of_all_scenes_are_trained_on(recording: Recording) -> None:
    train = {(ref.scene, ref.view) for ref in view_refs(recording.scenes, "train")}
    assert len(train) == 9
    assert set(recording.seen) < train, "all but the one that the last batch lacks"
    assert {scene for scene, _ in recording.seen} == {0, 1}


@item("Batches")
def test_a_batch_is_two_views_of_any_scenes(recording: Recording) -> None:
    assert [len(step.samples) for step in recording.steps] == [2] * 4
    assert len(recording.seen) == len(set(recording.seen)), "none is drawn twice"
    pairs = {frozenset(Order(9, PAPER, seed).of(0)) for seed in range(300)}
    assert len(pairs) == 36, "every pair of nine may come first"


@item("Last batch")
def test_the_ninth_view_is_left_out_of_batches_of_two(recording: Recording) -> None:
    assert len(recording.seen) == 8
    assert len(Order(1, PAPER, 0).of(0)) == 1


@item("Epochs")
def test_there_is_one_epoch(recording: Recording) -> None:
    assert len(recording.steps) == 9 // 2
    assert read_finetuned(recording.folder).summary["steps"] == 4


@item("Seed")
def test_seed_and_step_alone_decide_what_a_step_sees(recording: Recording, tmp_path: Path) -> None:
    samples = Samples(view_refs(recording.scenes, "train"), paper_store(tmp_path, *recording.scenes))
    torch.manual_seed(42)
    for number, step in enumerate(recording.steps):
        again = Loader(samples, PAPER, 0, number, number + 1).load(number)
        assert all(torch.equal(one.image, other.image) for one, other in zip(again, step.samples, strict=True))
    orders = {tuple(index for n in range(4) for index in Order(9, PAPER, seed).of(n)) for seed in range(20)}
    assert len(orders) == 20


@item("Input size")
@settings(max_examples=40, deadline=None)
@given(height=st.integers(16, 400), width=st.integers(16, 400), limit=st.sampled_from([None, 64, 128]))
def test_sides_are_rounded_down_to_whole_patches(
    recording: Recording, height: int, width: int, limit: int | None
) -> None:
    scene = recording.scenes[0]
    sides = input_size(height, width, PATCH, limit)
    grid = (sides[0] // PATCH, sides[1] // PATCH)
    view = dataclasses.replace(scene.views[0], width=width, height=height, grid=grid)
    [changed] = PAPER.target_rule.on_grid(dataclasses.replace(scene, views=(view,))).views
    whole = height // PATCH, width // PATCH
    if limit is None or max(height, width) <= limit:
        assert changed.grid == whole
    else:
        assert changed.grid == (min(grid[0], whole[0]), min(grid[1], whole[1])), "never enlarged again"


@item("Image resizing")
def test_images_are_resized_bilinearly_without_smoothing(recording: Recording, tmp_path: Path) -> None:
    scene = recording.scenes[0]
    image = paper_store(tmp_path, scene).image(0, 2)
    size = FLOOR[0] * PATCH, FLOOR[1] * PATCH
    torch.testing.assert_close(image, shrunk(photo(scene, 2), size), atol=1e-5, rtol=0)
    smooth = F.interpolate(photo(scene, 2)[None], size, mode="bicubic", antialias=True)[0]
    assert (image - smooth).abs().mean() > 1e-3, "the difference can be seen"


@item("Normalisation")
def test_the_backbone_gets_what_it_was_trained_with() -> None:
    backbone, image = load_backbone(BACKBONE), torch.rand(1, 3, 48, 64)
    inputs: list[Tensor] = []
    backbone.model.patch_embed.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    backbone(image)
    own = timm.models.get_pretrained_cfg(BACKBONE.name)
    mean, std = torch.tensor(own.mean)[:, None, None], torch.tensor(own.std)[:, None, None]
    torch.testing.assert_close(inputs[0], (image - mean) / std)
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    configs = [timm.models.get_pretrained_cfg(name) for name in PUBLISHED]
    different = [name for name, config in zip(PUBLISHED, configs, strict=True) if (config.mean, config.std) != imagenet]
    assert different == ["vit_base_patch16_clip_384.laion2b_ft_in12k_in1k"]


@item("Mirroring")
def test_half_of_the_views_are_mirrored_with_target_and_mask(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.6
    scene = write_scene(tmp_path / "runs" / "attic", mask=mask)
    sample = Samples(view_refs([scene], "train"), paper_store(tmp_path, scene))[0]
    random, mirrored = torch.Generator().manual_seed(0), 0
    for _ in range(200):
        seen = Augmentation.draw(PAPER, random).of(sample)
        if not torch.equal(seen.image, sample.image):
            mirrored += 1
            # Published: mirrored at full size and brought to the grid afterwards.
            size = FLOOR[0] * PATCH, FLOOR[1] * PATCH
            torch.testing.assert_close(seen.image, shrunk(photo(scene, 1).flip(-1), size), atol=1e-5, rtol=0)
            target = shrunk(full_size_target(scene.load(), 1).flip(-1), FLOOR)
            torch.testing.assert_close(seen.features, target.permute(1, 2, 0), atol=5e-3, rtol=2e-3)
            share = shrunk(torch.from_numpy(mask).float()[None].flip(-1), FLOOR)[0]
            torch.testing.assert_close(seen.weights, share, atol=1e-3, rtol=0)
    assert 70 < mirrored < 130


@item("Target")
def test_a_target_is_decoded_at_full_size_and_taken_at_the_patches_centres(
    recording: Recording, tmp_path: Path
) -> None:
    store = paper_store(tmp_path, *recording.scenes)
    for index, scene in enumerate(recording.scenes):
        target = shrunk(full_size_target(scene.load(), 3), FLOOR).permute(1, 2, 0)
        torch.testing.assert_close(store.get(index, 3).features, target, atol=5e-3, rtol=2e-3)  # kept as fp16


@item("Target precision")
def test_keeping_targets_as_fp16_moves_them_by_less_than_a_thousandth(recording: Recording, tmp_path: Path) -> None:
    exact = shrunk(full_size_target(recording.scenes[0].load(), 2), FLOOR).permute(1, 2, 0)
    kept = paper_store(tmp_path, recording.scenes[0]).get(0, 2).features
    error = (kept - exact).abs().mean()
    assert 0 < error < 1e-3 * exact.std()


@item("Near plane")
def test_gaussians_are_drawn_from_a_hundredth_of_the_unit_on(recording: Recording) -> None:
    gaussians = recording.scenes[0].load()
    view = gaussians.scene.views[0].pinhole()
    pose = view.world_to_camera.float()

    def drawn(depth: float) -> bool:
        place = torch.linalg.inv(pose) @ torch.tensor([0.0, 0.0, depth, 1.0])
        one = {name: getattr(gaussians, name)[:1].clone() for name in ("quats", "opacities", "sh", "features")}
        alone = dataclasses.replace(
            gaussians,
            means=place[None, :3],
            scales=torch.full((1, 3), 1e-3),
            scene=dataclasses.replace(gaussians.scene, num_gaussians=1),
            **one,
        )
        return bool(render_features(alone, view)[1].max() > 0.1)

    assert [drawn(depth) for depth in (0.005, 0.05, 0.19, 0.3)] == [False, True, True, True]


@item("Uncovered patches")
def test_patches_without_gaussians_count_towards_nothing(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "runs" / "attic", across=(0.0, 4.0))
    store = paper_store(tmp_path, scene)
    target = store.get(0, 1)
    empty = (target.features == 0).all(-1)
    assert 0 < empty.sum() < empty.numel()
    assert (target.weights == 1).all()
    sample, backbone = Samples(view_refs([scene], "train"), store)[0], load_backbone(BACKBONE)
    maps: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: Tensor) -> None:
        output.retain_grad()
        maps.append(output)

    backbone.register_forward_hook(keep)
    batch_loss(backbone, [sample], PAPER.loss, PAPER.loss_mean)[0].backward()
    gradient = maps[0].grad
    assert gradient is not None
    assert (gradient[0].abs().sum(0)[empty] > 0).all(), "they draw the features towards zero"


@item("Mask")
def test_a_mask_is_taken_at_the_patches_centres_with_its_fractions(tmp_path: Path) -> None:
    mask = np.random.default_rng(1).random((HEIGHT, WIDTH)) < 0.5
    scene = write_scene(tmp_path / "runs" / "attic", mask=mask)
    weights = paper_store(tmp_path, scene).get(0, 1).weights
    torch.testing.assert_close(weights, shrunk(torch.from_numpy(mask).float()[None], FLOOR)[0], atol=1e-3, rtol=0)
    assert ((weights > 0) & (weights < 0.5)).any()


@item("Loss")
def test_the_loss_is_the_mean_over_all_unmasked_elements_of_the_batch(recording: Recording) -> None:
    backbone = load_backbone(BACKBONE)
    first, second = recording.steps[0].samples
    masked = dataclasses.replace(second, weights=torch.rand(FLOOR, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        for pair in ([first, second], [first, masked]):
            outputs = backbone(torch.stack([sample.image for sample in pair]))
            error, count = 0.0, 0.0
            for output, sample in zip(outputs.double(), pair, strict=True):
                for channel, target in zip(output, sample.features.double().permute(2, 0, 1), strict=True):
                    error += float(((channel - target).abs() * sample.weights).sum())
                    count += float(sample.weights.sum())
            loss = batch_loss(backbone, pair, PAPER.loss, PAPER.loss_mean)[0]
            assert float(loss) == pytest.approx(error / count, rel=1e-5)
            if pair[1] is second:
                assert float(recording.steps[0].figures["loss"]) == pytest.approx(error / count, rel=1e-5)
        single = [float(batch_loss(backbone, [sample], "l1")[0]) for sample in (first, masked)]
        assert abs(sum(single) / 2 - error / count) > 1e-4, "per image it would be another"


@item("Nothing counts")
def test_a_batch_in_which_nothing_counts_does_no_harm(recording: Recording) -> None:
    backbone = load_backbone(BACKBONE)
    samples = [
        dataclasses.replace(sample, weights=torch.zeros_like(sample.weights)) for sample in recording.steps[0].samples
    ]
    parameters = list(tuned_parameters(backbone).values())
    figures = training_step(make_learner(backbone, PAPER), samples, PAPER, PAPER.lr)
    assert float(figures["loss"]) == float(figures["grad_norm"]) == 0
    assert all(bool(parameter.isfinite().all()) for parameter in parameters)


@item("Features")
def test_features_are_patch_tokens_after_the_final_norm(recording: Recording) -> None:
    image = recording.steps[0].samples[0].image[None]
    last = load_backbone(BackboneConfig(name=BACKBONE.name, weights="random", max_size=None))
    mean, std = (torch.tensor(value)[:, None, None] for value in (last.mean, last.std))
    tokens = last.model.forward_features((image - mean) / std)  # type: ignore[operator]
    patches = tokens[:, last.model.num_prefix_tokens :].transpose(1, 2).unflatten(2, FLOOR)
    torch.testing.assert_close(last(image), patches)
    chosen = load_backbone(BACKBONE)
    assert chosen.layer == recording.scenes[0].backbone.layer < last.layer
    assert (chosen(image) - last(image)).abs().mean() > 1e-3


@item("Trained weights")
def test_all_weights_that_the_features_depend_on_are_trained(recording: Recording) -> None:
    for layer in (None, BACKBONE.layer):
        backbone = load_backbone(dataclasses.replace(BACKBONE, layer=layer))
        backbone(torch.rand(1, 3, 48, 64)).sum().backward()
        named = dict(backbone.model.named_parameters())
        assert set(tuned_parameters(backbone)) == {name for name, weight in named.items() if weight.grad is not None}
        if layer is None:
            assert set(tuned_parameters(backbone)) == set(named)
    first, last = recording.steps[0].before, recording.steps[-1].after
    changed = {name for name, a, b in zip(recording.names, first, last, strict=True) if not torch.equal(a, b)}
    assert changed == set(recording.names)


@item("Mode")
@pytest.mark.parametrize("name", PUBLISHED)
def test_no_published_backbone_differs_between_training_and_evaluation(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    random = [
        module
        for module in model.modules()
        if (isinstance(module, nn.Dropout) and module.p > 0)
        or getattr(module, "drop_prob", 0)
        or "BatchNorm" in repr(module)
    ]
    assert random == []


@item("Precision")
@pytest.mark.parametrize(("preset", "expected"), [("paper", "fp32"), ("recommended", "bf16")])
def test_fp32_is_kept_also_where_bf16_is_faster(
    recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preset: str, expected: str
) -> None:
    monkeypatch.setattr(precision, "product_seconds", {torch.float32: 2.0, torch.bfloat16: 1.0}.__getitem__)
    options = [
        "--exports",
        str(recording.scenes[0].files),
        "--output-dir",
        str(tmp_path / "out"),
        "--max-steps",
        "1",
    ]
    options += ["--tracker", "none", "--device", "cpu", "--preset", preset]
    monkeypatch.setattr(sys, "argv", ["fit3d-finetune", *options])
    main()
    assert read_finetuned(tmp_path / "out").summary["run"]["backbone"]["precision"] == expected


@item("Optimiser")
def test_the_steps_are_those_of_adamw_with_decay_on_every_weight(recording: Recording) -> None:
    lr, decay, beta1, beta2, epsilon = 1e-5, 1e-4, 0.9, 0.999, 1e-8
    for index, name in enumerate(recording.names):
        weight = recording.steps[0].before[index].double()
        moment, square = torch.zeros_like(weight), torch.zeros_like(weight)
        for number, step in enumerate(recording.steps, start=1):
            gradient = step.gradients[index].double()
            moment = beta1 * moment + (1 - beta1) * gradient
            square = beta2 * square + (1 - beta2) * gradient**2
            size = (square / (1 - beta2**number)).sqrt() + epsilon
            weight = weight * (1 - lr * decay) - lr * (moment / (1 - beta1**number)) / size
        moved = recording.steps[-1].after[index].double() - recording.steps[0].before[index]
        expected = weight - recording.steps[0].before[index]
        assert moved.abs().max() > 0, name
        # fp32 keeps weights of about one to 1e-7 at every step, of moves of 1e-5.
        torch.testing.assert_close(moved, expected, atol=6e-7, rtol=0, msg=name)


def test_biases_and_norms_decay_too() -> None:
    backbone = load_backbone(BACKBONE)
    optimizer = build_optimizer(backbone, PAPER)
    parameters = tuned_parameters(backbone)
    for parameter in parameters.values():
        torch.nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = 1.0
    optimizer.step()
    assert all(bool((parameter == 1 - 1e-4).all()) for parameter in parameters.values())


@item("Learning rate")
def test_the_learning_rate_is_constant(recording: Recording) -> None:
    assert {step.lr for step in recording.steps} == {1e-5}
    assert {lr_factor(step, 1000, PAPER) for step in range(1000)} == {1.0}
    assert {group["lr_scale"] for group in build_optimizer(load_backbone(BACKBONE), PAPER).param_groups} == {1.0}


@item("Gradient clipping")
def test_all_gradients_together_are_clipped_at_a_tenth(recording: Recording) -> None:
    for step in recording.steps:
        norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in step.gradients))
        assert float(step.figures["grad_norm"]) > 0.1, "or nothing would be clipped"
        assert norm == pytest.approx(0.1, rel=1e-3)


@item("Divergence")
def test_a_training_that_diverges_stops(recording: Recording) -> None:
    backbone = load_backbone(BACKBONE)
    sample = recording.steps[0].samples[0]
    spoilt = dataclasses.replace(sample, features=torch.full_like(sample.features, math.nan))
    with pytest.raises(Diverged):
        training_step(make_learner(backbone, PAPER), [sample, spoilt], PAPER, PAPER.lr)


@item("Result")
def test_the_result_is_what_the_last_step_left(recording: Recording) -> None:
    weights = load_file(recording.folder / "model.safetensors")
    for name, value in zip(recording.names, recording.steps[-1].after, strict=True):
        assert torch.equal(weights[name], value), name


@item("Validation")
def test_a_tenth_of_the_scenes_is_validated_before_and_after(recording: Recording) -> None:
    history = read_finetuned(recording.folder).summary["history"]
    assert [entry["step"] for entry in history] == [0, 4]
    assert all({"held-out scenes/loss", "held-out views/loss"} < entry.keys() for entry in history)
    scenes = [dataclasses.replace(recording.scenes[0], name=f"{index:03d}") for index in range(280)]
    train, held_out = split_scenes(scenes, (), 0.1)
    assert (len(train), [scene.name for scene in held_out]) == (252, [f"{index:03d}" for index in range(252, 280)])


def test_the_rule_of_the_other_preset_is_that_of_release_0_1() -> None:
    assert PRESETS["recommended"].target_rule == TargetRule()
