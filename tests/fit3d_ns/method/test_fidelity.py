"""What docs/fidelity/stage1.md says of the paper preset, row by row, seen in what the preset does."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gsplat.strategy import default as gsplat_default
from torch import Tensor

from fit3d_ns.features.backbone import BackboneConfig, backbone_fingerprint, load_backbone
from fit3d_ns.features.loss import FeatureComparison
from fit3d_ns.method import config as presets
from fit3d_ns.method.activation import activated
from fit3d_ns.method.cameras import pixel_grid
from fit3d_ns.method.datamanager import _OpaqueImages
from fit3d_ns.method.densification import CappedStrategy
from fit3d_ns.method.optimizers import Fit3DOptimizers
from fit3d_ns.method.trainer import Fit3DTrainer, Fit3DTrainerConfig
from fit3d_ns.scene.render import rasterize
from fit3d_ns.scene.views import PinholeView
from tests.fidelity import FidelityTable
from tests.fit3d_ns.method.runs import make_trainer, training_view
from tests.fit3d_ns.photometric.test_photometric import ssim_at_every_pixel
from tests.scenes import write_capture

TABLE = FidelityTable("stage1.md")
row = TABLE.item
WIDTH, HEIGHT, PATCH = 124, 90, 16
"""No whole patches: the grid is 7 x 5 by the floor rule and would be 8 x 6 by the nearest."""
GEOMETRY = ("means", "scales", "quats", "opacities")
COLOUR = ("features_dc", "features_rest")


def test_every_row_has_its_test_and_every_test_its_row() -> None:
    TABLE.check(globals())


def test_what_is_the_same_begins_so_and_every_other_row_says_why() -> None:
    for name, published, here, why in TABLE.rows():
        assert published, name
        assert why, name
        assert why != "same" or here.startswith("the same"), name


# ---- what the tests look at


def paper_trainer(
    capture: Path, output: Path, change: Callable[[Fit3DTrainerConfig], object] = lambda _: None
) -> Fit3DTrainer:
    """The preset as it is, with a tiny random backbone; only the data are given."""
    config = copy.deepcopy(presets.fit3d_features_paper.config)
    assert isinstance(config, Fit3DTrainerConfig)
    config.data = config.pipeline.datamanager.data = capture
    config.pipeline.datamanager.backbone = dataclasses.replace(
        config.pipeline.datamanager.backbone, name="vit_tiny_patch16_224", weights="random"
    )
    config.output_dir, config.experiment_name, config.timestamp = output, "tiny", "run"
    config.vis, config.viewer.quit_on_train_completion = "tensorboard", True
    change(config)
    return make_trainer(config)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_capture(tmp_path_factory.mktemp("capture") / "scene", size=(WIDTH, HEIGHT), masks=True)


@pytest.fixture(scope="module")
def trainer(capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Fit3DTrainer:
    """Before the first step."""
    made = paper_trainer(capture, tmp_path_factory.mktemp("run"))
    made.pipeline.train()
    made.pipeline.model.step_cb(made.optimizers, step=0)
    return made


class View:
    """One training view, rendered, with features that are not zero; `masked` or with its mask left out."""

    def __init__(self, trainer: Fit3DTrainer, masked: bool = False) -> None:
        self.model = trainer.pipeline.model
        self.model.zero_grad()
        with torch.no_grad():
            self.model.gauss_params["features"].normal_(generator=torch.Generator().manual_seed(0))
        camera, batch = training_view(trainer.pipeline.datamanager, 0)
        self.batch = {name: value for name, value in batch.items() if masked or name != "mask"}
        self.outputs = self.model(camera)
        self.losses = self.model.get_loss_dict(self.outputs, self.batch)
        self.photo = self.batch["image"][..., :3].float() / 255

    def compared(self) -> FeatureComparison:
        compared = self.model.compare_features(self.outputs, self.batch, self.model.config.feature_supervision)
        assert compared is not None
        return compared

    def ssim(self) -> Tensor:
        return self.model.compare_with_photo(self.outputs, self.batch).difference.ssim

    def reached(self) -> set[str]:
        """Parameters with a gradient."""
        named = self.model.named_parameters()
        return {name.split(".", 1)[-1] for name, p in named if p.grad is not None and bool(p.grad.any())}


@pytest.fixture
def view(trainer: Fit3DTrainer) -> View:
    return View(trainer)


# ---- the feature head


@row("Gradient of features")
def test_features_move_no_gaussian(view: View) -> None:
    view.losses["feature_loss"].backward()
    assert view.reached() == {"features", "weight"}  # the decoder's


@row("Learned error")
def test_the_learned_error_reaches_nothing_else(view: View) -> None:
    view.losses["feature_error_loss"].backward()
    assert view.reached() == {"feature_errors"}


@row("Decoder")
def test_the_decoder_is_one_convolution_with_torchs_start(trainer: Fit3DTrainer) -> None:
    decoder = trainer.pipeline.model.decoder
    assert [name for name, _ in decoder.named_parameters()] == ["weight"]
    reference = torch.nn.Conv2d(64, 192, 3, padding=1, bias=False)
    assert decoder.weight.shape == reference.weight.shape
    bound = float(reference.weight.detach().abs().max())
    assert float(decoder.weight.abs().max()) == pytest.approx(bound, rel=1e-3)
    assert float(decoder.weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)  # uniform
    with torch.no_grad():
        reference.weight.copy_(decoder.weight)
        map = torch.randn(5, 7, 64)
        expected = reference(map.permute(2, 0, 1)[None])[0].permute(1, 2, 0)
        torch.testing.assert_close(decoder(map), expected, rtol=1e-4, atol=1e-4)


@row("Features at the start")
def test_features_are_trained_from_zeros_and_from_the_first_step(trainer: Fit3DTrainer) -> None:
    model = trainer.pipeline.model
    with torch.no_grad():
        model.gauss_params["features"].zero_()
    model._start_features(trainer.pipeline.datamanager)
    assert not bool(model.gauss_params["features"].any())
    assert model.step == 0
    assert model.features_active


@row("Feature target")
def test_the_target_is_the_last_blocks_tokens_enlarged_bilinearly(trainer: Fit3DTrainer, view: View) -> None:
    backbone = load_backbone(trainer.pipeline.datamanager.config.backbone)
    assert backbone.layer == 11
    seen = view.photo.permute(2, 0, 1)[None]
    seen = F.interpolate(seen, (HEIGHT // PATCH * PATCH, WIDTH // PATCH * PATCH), mode="bilinear")
    with torch.inference_mode():
        tokens = backbone.model.forward_features((seen - 0.5) / 0.5)[:, 1:]  # type: ignore[operator]
    assert backbone.mean == backbone.std == (0.5, 0.5, 0.5)
    map = tokens.reshape(1, HEIGHT // PATCH, WIDTH // PATCH, -1).permute(0, 3, 1, 2)
    expected = F.interpolate(map, (HEIGHT, WIDTH), mode="bilinear")[0].permute(1, 2, 0)
    torch.testing.assert_close(view.compared().target, expected, rtol=1e-2, atol=1e-2)


@row("Feature loss")
def test_the_feature_loss_is_the_mean_over_all_pixels_and_channels(view: View) -> None:
    compared = view.compared()
    assert compared.decoded.shape == (HEIGHT, WIDTH, 192)
    torch.testing.assert_close(view.losses["feature_loss"], (compared.decoded - compared.target).abs().mean())


# ---- the colour loss


@row("Colour loss")
def test_a_fifth_of_the_colour_loss_is_ssim(view: View) -> None:
    expected = 0.8 * (view.outputs["rgb"] - view.photo).abs().mean() + 0.2 * (1 - view.ssim())
    torch.testing.assert_close(view.losses["main_loss"], expected)


@row("SSIM's border")
def test_ssim_is_the_mean_over_every_pixel_with_zeros_outside(view: View) -> None:
    expected = ssim_at_every_pixel(view.outputs["rgb"], view.photo)
    torch.testing.assert_close(view.ssim().double(), expected, rtol=1e-5, atol=1e-6)


@row("Masked pixels")
def test_masked_pixels_count_as_what_is_rendered_there(trainer: Fit3DTrainer) -> None:
    masked = View(trainer, masked=True)
    keep = masked.batch["mask"]
    assert 0.5 < float(keep.float().mean()) < 0.9
    rgb = masked.outputs["rgb"]
    photo = torch.where(keep, masked.photo, rgb.detach())
    colour = 0.8 * (rgb - photo).abs().mean() + 0.2 * (1 - ssim_at_every_pixel(rgb, photo).float())
    torch.testing.assert_close(masked.losses["main_loss"], colour, rtol=1e-5, atol=1e-6)
    compared = masked.compared()
    target = torch.where(keep, compared.target, compared.decoded.detach())
    features = (compared.decoded - target).abs().mean()
    torch.testing.assert_close(masked.losses["feature_loss"], features)
    wanted = [rgb, masked.outputs["features"], masked.model.decoder.weight]
    for found, expected in ((masked.losses["main_loss"], colour), (masked.losses["feature_loss"], features)):
        pairs = [torch.autograd.grad(x, wanted, retain_graph=True, allow_unused=True) for x in (found, expected)]
        for ours, theirs in zip(*pairs, strict=True):
            assert (ours is None) == (theirs is None)
            if ours is not None:
                torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-7)


# ---- what the backbone sees


@row("Input size")
def test_images_are_brought_to_whole_patches_downwards_and_bilinearly(trainer: Fit3DTrainer) -> None:
    datamanager = trainer.pipeline.datamanager
    assert set(datamanager.train_features.grid_sizes) == {(HEIGHT // PATCH, WIDTH // PATCH)}
    backbone = load_backbone(datamanager.config.backbone)
    seen: list[Tensor] = []
    backbone._intermediates = lambda x: seen.append(x) or [(x, x.flatten(2))]  # type: ignore[method-assign, func-returns-value]
    image = datamanager.cached_train[0]["image"][..., :3]
    backbone(image.permute(2, 0, 1)[None] / 255)
    size = WIDTH // PATCH * PATCH, HEIGHT // PATCH * PATCH
    expected = torch.from_numpy(cv2.resize(image.numpy(), size, interpolation=cv2.INTER_LINEAR)).float()
    grey_levels = (seen[0][0].permute(1, 2, 0) * 0.5 + 0.5) * 255
    assert float((grey_levels - expected).abs().max()) < 1.0


@row("Largest image")
def test_images_are_shrunk_to_1600_pixels_and_no_further(tmp_path: Path) -> None:
    large = write_capture(tmp_path / "scene", views=3, size=(1800, 100), points=50)
    datamanager = paper_trainer(large, tmp_path).pipeline.datamanager
    width = datamanager.cached_train[0]["image"].shape[1]
    assert 1550 < width <= 1600
    assert datamanager.train_features.grid_sizes[0][1] == width // PATCH > 1036 // PATCH


@row("Normalisation")
@pytest.mark.parametrize(
    ("name", "imagenet"),
    [
        ("vit_small_patch14_dinov2.lvd142m", True),
        ("vit_base_patch16_224.mae", True),
        ("deit3_base_patch16_224.fb_in1k", True),
        ("vit_base_patch16_clip_384.laion2b_ft_in12k_in1k", False),
    ],
)
def test_every_backbone_has_its_own_normalisation(name: str, imagenet: bool) -> None:
    identity = backbone_fingerprint(BackboneConfig(name=name, weights="random"))
    published = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]
    assert ([identity["mean"], identity["std"]] == published) is imagenet


@row("Precision")
def test_maps_are_computed_in_fp32_and_kept_in_fp16(trainer: Fit3DTrainer) -> None:
    datamanager = trainer.pipeline.datamanager
    kept = datamanager.train_features[0]
    image = torch.from_numpy(_OpaqueImages(datamanager.cached_train)[0])
    with torch.inference_mode():
        computed = load_backbone(datamanager.config.backbone)(image.permute(2, 0, 1)[None] / 255)
    assert (kept.dtype, computed.dtype) == (torch.float16, torch.float32)
    torch.testing.assert_close(kept.float(), computed[0].permute(1, 2, 0), rtol=2**-11, atol=1e-5)


@row("Transparent images")
def test_transparent_pixels_are_black_in_the_loss_and_white_for_the_backbone(trainer: Fit3DTrainer) -> None:
    clear = torch.zeros(4, 4, 4, dtype=torch.uint8)
    clear[..., :3] = 100
    assert bool((_OpaqueImages([{"image": clear}])[0] == 255).all())
    model = trainer.pipeline.model
    background = model._get_background_color()
    assert not bool(model.composite_with_background(clear.float() / 255, background).any())


# ---- views


@row("Views")
def test_the_training_split_is_lifted_unless_all_views_are_asked_for(
    trainer: Fit3DTrainer, capture: Path, tmp_path: Path
) -> None:
    def everything(config: Fit3DTrainerConfig) -> None:
        config.pipeline.datamanager.dataparser.eval_mode = "all"

    frames = len(json.loads((capture / "transforms.json").read_text())["frames"])
    held_out = len(trainer.pipeline.datamanager.eval_dataset)
    assert held_out > 0
    assert len(trainer.pipeline.datamanager.train_features) == frames - held_out
    assert len(paper_trainer(capture, tmp_path, everything).pipeline.datamanager.train_features) == frames


@row("Order of views")
def test_every_view_comes_once_before_any_comes_again(trainer: Fit3DTrainer) -> None:
    datamanager = trainer.pipeline.datamanager
    count = len(datamanager.train_features)
    while len(datamanager.train_unseen_cameras) < count:
        datamanager.next_train(0)
    orders = [[datamanager.next_train(0)[0].metadata["cam_idx"] for _ in range(count)] for _ in range(4)]
    assert all(sorted(order) == list(range(count)) for order in orders)
    assert len({tuple(order) for order in orders}) > 1


@row("Camera")
def test_cameras_keep_their_principal_point(tmp_path: Path) -> None:
    shifted = write_capture(tmp_path / "scene", views=3, points=50)
    meta = json.loads((shifted / "transforms.json").read_text())
    (shifted / "transforms.json").write_text(json.dumps({**meta, "cx": 50.0, "cy": 40.0}))
    cameras = paper_trainer(shifted, tmp_path).pipeline.datamanager.train_cameras
    K, width, height = pixel_grid(cameras[0:1], 1)
    assert (width, height) == (112, 84)
    expected = torch.tensor([[meta["fl_x"], 0, 50], [0, meta["fl_y"], 40], [0, 0, 1]])
    torch.testing.assert_close(K[0], expected)


@row("Resolution")
def test_the_first_step_renders_every_pixel(view: View) -> None:
    assert view.outputs["rgb"].shape == (HEIGHT, WIDTH, 3)
    assert view.outputs["features"].shape[:2] == (HEIGHT, WIDTH)


@row("Background")
def test_behind_the_gaussians_is_black_and_a_feature_of_zeros(trainer: Fit3DTrainer) -> None:
    model = trainer.pipeline.model
    opacities = model.gauss_params["opacities"]
    before = opacities.detach().clone()
    with torch.no_grad():
        opacities.fill_(-20.0)
    try:
        outputs = View(trainer).outputs
    finally:
        with torch.no_grad():
            opacities.copy_(before)
    assert not bool(outputs["rgb"].any())
    assert not bool(outputs["features"].any())


@row("Rasteriser")
def test_the_rasteriser_is_gsplats(trainer: Fit3DTrainer) -> None:
    model = trainer.pipeline.model

    def alpha_at(depth: float) -> float:
        one = {
            "means": torch.tensor([[0.0, 0.0, depth]]),
            "quats": torch.tensor([[1.0, 0, 0, 0]]),
            "scales": torch.full((1, 3), math.log(depth)),
            "opacities": torch.full((1, 1), 20.0),
            "features_dc": torch.zeros(1, 3),
            "features_rest": torch.zeros(1, 15, 3),
        }
        view = PinholeView(torch.eye(4), torch.tensor([[10.0, 0, 0.5], [0, 10, 0.5], [0, 0, 1]]), 1, 1, (1, 1))
        return float(rasterize(activated(one, model.config), torch.ones(1, 1), view)[1])

    assert alpha_at(0.1) == alpha_at(1.0) == pytest.approx(0.999, abs=1e-5)
    assert alpha_at(0.005) == 0.0


# ---- optimisers


def rates_after(trainer: Fit3DTrainer, steps: int) -> dict[str, float]:
    optimizers = trainer.setup_optimizers()
    for optimizer in optimizers.optimizers.values():
        optimizer.step()
    for scheduler in optimizers.schedulers.values():
        for _ in range(steps):
            scheduler.step()
    return {name: optimizer.param_groups[0]["lr"] for name, optimizer in optimizers.optimizers.items()}


@row("Optimiser")
def test_every_parameter_has_plain_adam(trainer: Fit3DTrainer) -> None:
    for optimizer in trainer.optimizers.optimizers.values():
        assert type(optimizer) is torch.optim.Adam
        options = optimizer.defaults
        assert (options["eps"], options["betas"], options["weight_decay"]) == (1e-15, (0.9, 0.999), 0)


@row("Learning rates")
def test_all_rates_but_that_of_positions_are_constant(trainer: Fit3DTrainer) -> None:
    published = {"features_dc": 0.0025, "features_rest": 0.0025 / 20, "opacities": 0.05, "scales": 0.005}
    published |= {"quats": 0.001, "features": 6.25e-5, "decoder": 6.25e-5}
    for steps in (0, 1000):
        rates = rates_after(trainer, steps)
        assert {name: rates[name] for name in published} == pytest.approx(published)


@row("Learning rate of positions")
def test_the_rate_of_positions_falls_exponentially_with_the_extent_as_its_unit(trainer: Fit3DTrainer) -> None:
    extent = trainer.pipeline.model.extent
    assert extent != 1
    for steps in (0, 500, 1500):
        share = steps / 30_000
        expected = math.exp((1 - share) * math.log(1.6e-4 * extent) + share * math.log(1.6e-6 * extent))
        assert rates_after(trainer, steps)["means"] == pytest.approx(expected, rel=1e-6)


# ---- the scene


@row("Scene's extent")
def test_the_extent_is_a_tenth_more_than_the_farthest_camera(trainer: Fit3DTrainer) -> None:
    model = trainer.pipeline.model
    places = trainer.pipeline.datamanager.train_cameras.camera_to_worlds[:, :, 3].double().numpy()
    farthest = np.linalg.norm(places - places.mean(axis=0), axis=1).max()
    assert model.extent == model.strategy_state["scene_scale"] == pytest.approx(1.1 * farthest)


@row("Scene's units")
def test_cameras_lie_in_a_cube_of_half_side_one(capture: Path, trainer: Fit3DTrainer) -> None:
    frames = json.loads((capture / "transforms.json").read_text())["frames"]
    given = np.array([frame["transform_matrix"] for frame in frames])[:, :3, 3]
    outputs = trainer.pipeline.datamanager.train_dataset._dataparser_outputs
    transform, scale = outputs.dataparser_transform.numpy(), outputs.dataparser_scale
    places = scale * (given @ transform[:, :3].T + transform[:, 3])
    assert np.abs(places).max() == pytest.approx(1.0, abs=1e-5)
    assert scale != 1


@row("Gaussians at the start")
def test_gaussians_start_round_at_the_points_as_splatfactos_do(trainer: Fit3DTrainer) -> None:
    model = trainer.pipeline.model
    assert model.seed_points is not None
    points = model.seed_points[0]
    assert torch.equal(model.means.detach().cpu(), points)
    torch.testing.assert_close(torch.sigmoid(model.opacities), torch.full((len(points), 1), 0.1))
    neighbours = torch.cdist(points.double(), points.double()).topk(4, largest=False).values[:, 1:]
    scales = torch.exp(model.scales.detach()).double()
    torch.testing.assert_close(scales, neighbours.mean(1, keepdim=True).expand(-1, 3), rtol=1e-4, atol=1e-6)
    published = neighbours.square().mean(1).sqrt()
    assert bool((scales[:, 0] <= published * (1 + 1e-4)).all())
    assert bool((scales[:, 0] * math.sqrt(3) >= published * (1 - 1e-4)).all())


@row("Spherical harmonics")
def test_every_thousand_steps_add_a_degree_up_to_three(trainer: Fit3DTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    degrees = []
    for step in (0, 999, 1000, 2000, 3000, 29_999):
        monkeypatch.setattr(trainer.pipeline.model, "step", step)
        view = View(trainer)
        view.losses["main_loss"].backward()
        reached = view.model.gauss_params["features_rest"].grad.abs().amax(dim=(0, 2)) > 0
        degrees.append(math.isqrt(1 + int(reached.sum())) - 1)
    assert degrees == [0, 0, 1, 2, 3, 3]


# ---- densification


def gaussians(scales: list[float], opacities: list[float]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters of round Gaussians, with an optimiser for each."""
    count = len(scales)
    values = {
        "means": torch.randn(count, 3),
        "quats": torch.randn(count, 4),
        "scales": torch.tensor(scales).log()[:, None].expand(-1, 3).clone(),
        "opacities": torch.logit(torch.tensor(opacities))[:, None],
    }
    params = {name: torch.nn.Parameter(value) for name, value in values.items()}
    return params, {name: torch.optim.Adam([value], lr=0.0) for name, value in params.items()}


def events(trainer: Fit3DTrainer, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """At which of all steps the preset's strategy grows, prunes and resets."""
    strategy = copy.deepcopy(trainer.pipeline.model.strategy)
    found: dict[str, list[int]] = {"grow": [], "prune": [], "reset": []}
    step = 0

    def note(name: str) -> Callable[..., Any]:
        return lambda *_, **__: found[name].append(step) or (0, 0)  # type: ignore[func-returns-value]

    monkeypatch.setattr(strategy, "_update_state", lambda *_, **__: None)
    monkeypatch.setattr(strategy, "_grow_gs", note("grow"))
    monkeypatch.setattr(strategy, "_prune_gs", note("prune"))
    monkeypatch.setattr(gsplat_default, "reset_opa", note("reset"))
    state = {"grad2d": torch.zeros(1), "count": torch.zeros(1)}
    for step in range(presets.fit3d_features_paper.config.max_num_iterations):
        strategy.step_post_backward({}, {}, state, step, {})
    return found


@row("Densification")
def test_gaussians_are_cloned_and_split_when_and_where_3dgs_does(
    trainer: Fit3DTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert events(trainer, monkeypatch)["grow"] == list(range(600, 15_000, 100))
    strategy, extent = copy.deepcopy(trainer.pipeline.model.strategy), trainer.pipeline.model.extent
    assert not strategy.absgrad
    params, optimizers = gaussians([0.009 * extent, 0.011 * extent, 0.009 * extent, 0.011 * extent], [0.5] * 4)
    state = trainer.pipeline.model.strategy.initialize_state(scene_scale=extent)
    count = torch.full((4,), 10.0)
    state |= {"grad2d": count * torch.tensor([2.1e-4, 2.1e-4, 1.9e-4, 1.9e-4]), "count": count}
    assert strategy._grow_gs(params, optimizers, state, step=600) == (1, 1)  # one cloned, one split
    sizes = torch.exp(params["scales"].detach()).amax(1) / extent
    expected = [0.009, 0.009, 0.009, 0.011, 0.011 / 1.6, 0.011 / 1.6]
    assert sorted(sizes.tolist()) == pytest.approx(sorted(expected), rel=1e-4)


@row("Number of Gaussians")
def test_no_bound_is_in_the_way(trainer: Fit3DTrainer) -> None:
    strategy = trainer.pipeline.model.strategy
    assert isinstance(strategy, CappedStrategy)
    bytes_of_one = sum(values[0].numel() for values in trainer.pipeline.model.gauss_params.values()) * 4 * 3
    assert strategy.cap_max * bytes_of_one > 1e11  # with Adam's two moments: 100 GB


@row("Pruning")
def test_the_faint_and_the_huge_are_pruned_whatever_their_size_on_screen(trainer: Fit3DTrainer) -> None:
    strategy, extent = trainer.pipeline.model.strategy, trainer.pipeline.model.extent
    for step, kept in ((2900, [0.5, 0.006, 0.7]), (3000, [0.5, 0.006, 0.7]), (3100, [0.5, 0.006])):
        scales = [0.09 * extent, 0.01 * extent, 0.11 * extent, 0.01 * extent]
        params, optimizers = gaussians(scales, [0.5, 0.006, 0.7, 0.004])
        state = strategy.initialize_state(scene_scale=extent)
        assert "radii" not in state
        strategy._prune_gs(params, optimizers, state, step)
        assert torch.sigmoid(params["opacities"]).flatten().tolist() == pytest.approx(kept, rel=1e-4)


@row("Opacity reset")
def test_opacities_are_reset_every_3000_steps_and_densification_goes_on(
    trainer: Fit3DTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = events(trainer, monkeypatch)
    assert found["reset"] == [3000, 6000, 9000, 12_000]
    assert {3000, 3100, 6000, 6100} <= set(found["grow"])
    monkeypatch.undo()
    params, optimizers = gaussians([0.01, 0.01], [0.8, 0.005])
    strategy = copy.deepcopy(trainer.pipeline.model.strategy)
    monkeypatch.setattr(strategy, "_update_state", lambda *_, **__: None)
    monkeypatch.setattr(strategy, "refine_start_iter", 10_000)
    strategy.step_post_backward(params, optimizers, strategy.initialize_state(), 3000, {})
    assert torch.sigmoid(params["opacities"]).flatten().tolist() == pytest.approx([0.01, 0.005], rel=1e-4)


@row("Order within a step")
def test_the_optimiser_steps_before_densification_also_in_the_last_step(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def two_steps(config: Fit3DTrainerConfig) -> None:
        config.max_num_iterations = 2

    called: list[str] = []
    for owner, name in ((Fit3DOptimizers, "optimizer_scaler_step_some"), (CappedStrategy, "step_post_backward")):
        original = getattr(owner, name)

        def noted(*args: Any, _name: str = name, _original: Any = original, **kwargs: Any) -> Any:
            called.append(_name)
            return _original(*args, **kwargs)

        monkeypatch.setattr(owner, name, noted)
    paper_trainer(capture, tmp_path, two_steps).train()
    assert [name for name, _ in itertools.groupby(called)] == ["optimizer_scaler_step_some", "step_post_backward"] * 2


@row("Steps")
def test_training_ends_after_30000_steps() -> None:
    config = presets.fit3d_features_paper.config
    assert config.max_num_iterations == 30_000
    assert config.optimizers["means"]["scheduler"].max_steps == 30_000
