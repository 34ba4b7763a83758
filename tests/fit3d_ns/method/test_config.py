"""The three registered methods: found by nerfstudio, complete, and the paper's one as published."""

from __future__ import annotations

import ast
import copy
import importlib
import importlib.abc
import inspect
import sys
import textwrap
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.engine.optimizers import Optimizers
from nerfstudio.plugins.registry import discover_methods

from fit3d_ns.features.backbone import BackboneConfig
from fit3d_ns.method import config as module
from fit3d_ns.method.datamanager import Fit3DDatamanagerConfig
from fit3d_ns.method.model import Fit3DModel, Fit3DModelConfig
from fit3d_ns.method.trainer import Fit3DTrainerConfig

PRESETS: dict[str, Fit3DTrainerConfig] = {
    "fit3d-features": module.fit3d_features.config,  # type: ignore[dict-item]
    "fit3d-features-fast": module.fit3d_features_fast.config,  # type: ignore[dict-item]
    "fit3d-features-paper": module.fit3d_features_paper.config,  # type: ignore[dict-item]
}
each_preset = pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS.keys())


def model_config(config: Fit3DTrainerConfig) -> Fit3DModelConfig:
    assert isinstance(config.pipeline.model, Fit3DModelConfig)
    return config.pipeline.model


def small_model(config: Fit3DTrainerConfig, **options: Any) -> Fit3DModel:
    """The preset's model on 20 random Gaussians."""
    changed = copy.deepcopy(model_config(config))
    changed.num_random, changed.random_init = 20, True
    for name, value in options.items():
        setattr(changed, name, value)
    box = SceneBox(aabb=torch.tensor([[-1.0, -1, -1], [1, 1, 1]]))
    return changed.setup(scene_box=box, num_train_data=3, seed_points=None)


# ---- registration


def test_nerfstudio_finds_the_three_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NERFSTUDIO_METHOD_CONFIGS", raising=False)
    methods, descriptions = discover_methods()
    assert {name for name in methods if name.startswith("fit3d")} == PRESETS.keys()
    for name, config in PRESETS.items():
        assert methods[name] is config
        assert config.method_name == name
        assert len(descriptions[name]) > 20


def test_the_entry_points_carry_the_methods_names() -> None:
    ours = [point for point in entry_points(group="nerfstudio.method_configs") if point.name.startswith("fit3d")]
    assert {point.name: point.load().config.method_name for point in ours} == {name: name for name in PRESETS}


@each_preset
def test_training_runs_on_cuda_if_and_only_if_there_is_cuda(config: Fit3DTrainerConfig) -> None:
    assert config.machine.device_type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(("available", "device"), [(True, "cuda"), (False, "cpu")])
def test_the_device_follows_what_torch_says(monkeypatch: pytest.MonkeyPatch, available: bool, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    method = module._method("name", "description", 300, Fit3DModelConfig(), {})
    assert method.config.machine.device_type == device


@each_preset
def test_a_preset_survives_its_config_file(config: Fit3DTrainerConfig) -> None:
    assert yaml.load(yaml.dump(config), Loader=yaml.Loader) == config


def test_presets_share_no_part_that_a_command_line_could_change() -> None:
    configs = list(PRESETS.values())
    parts = [c.pipeline for c in configs] + [c.pipeline.model for c in configs] + [c.optimizers for c in configs]
    parts += [c.pipeline.datamanager for c in configs] + [c.machine for c in configs] + [c.viewer for c in configs]
    assert len({id(part) for part in parts}) == len(parts)


# ---- optimisers


@each_preset
def test_every_parameter_group_that_a_model_can_have_has_an_optimiser(config: Fit3DTrainerConfig) -> None:
    camera = CameraOptimizerConfig(mode="SO3xR3")
    everything = small_model(config, camera_optimizer=camera, use_bilateral_grid=True)
    assert everything.get_param_groups().keys() == config.optimizers.keys()
    for options in (
        {},
        {"strategy": "mcmc"},
        {"sh_degree": 0},
        {"decoder": "conv3x3", "feature_lift": "train"},
        {"decoder": "linear"},
    ):
        assert small_model(config, **options).get_param_groups().keys() <= config.optimizers.keys()


@each_preset
def test_the_groups_hold_every_parameter_of_the_model_once(config: Fit3DTrainerConfig) -> None:
    model = small_model(config, camera_optimizer=CameraOptimizerConfig(mode="SO3xR3"), use_bilateral_grid=True)
    grouped = [id(p) for group in model.get_param_groups().values() for p in group]
    trained = [id(p) for name, p in model.named_parameters() if p.requires_grad and name != "device_indicator_param"]
    assert sorted(grouped) == sorted(trained)


@each_preset
def test_optimisers_step_and_schedules_end_with_the_training(config: Fit3DTrainerConfig) -> None:
    groups = small_model(config).get_param_groups()
    optimizers = Optimizers(copy.deepcopy(config.optimizers), groups)
    for parameters in groups.values():
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
    optimizers.optimizer_step_all()
    for name, parts in config.optimizers.items():
        schedule = parts["scheduler"]
        if schedule is None:
            continue
        assert schedule.max_steps == config.max_num_iterations, name
        assert schedule.lr_final <= parts["optimizer"].lr, name
        assert schedule.warmup_steps < config.max_num_iterations / 2, name


@each_preset
def test_each_stage_begins_and_ends_within_the_training(config: Fit3DTrainerConfig) -> None:
    model, steps = model_config(config), config.max_num_iterations
    assert model.warmup_length < model.stop_split_at < steps
    assert model.feature_start_step < steps
    assert model.sh_degree_interval * model.sh_degree < steps
    assert model.resolution_schedule * model.num_downscales < steps
    assert 0 < config.steps_per_save < steps


def test_step_numbers_are_those_promised() -> None:
    steps = {name: config.max_num_iterations for name, config in PRESETS.items()}
    assert steps == {"fit3d-features": 30_000, "fit3d-features-fast": 3_000, "fit3d-features-paper": 30_000}


def test_gaussians_carry_64_channels_through_a_linear_decoder_unless_told_otherwise() -> None:
    default = Fit3DModelConfig()
    assert (default.feature_dim, default.decoder, default.feature_supervision) == (64, "linear", "patch")
    assert not default.couple_geometry


# ---- the published recipe (arXiv 2407.20229, stage 1); what it does is in test_fidelity.py


def test_the_papers_feature_head_and_losses() -> None:
    model = model_config(PRESETS["fit3d-features-paper"])
    assert model.feature_dim == 64
    assert model.decoder == "conv3x3"
    assert model.feature_loss == "l1"
    assert model.feature_loss_weight == 1.0
    assert model.ssim_lambda == 0.2  # 0.8 L1 + 0.2 (1 - SSIM)
    assert model.feature_supervision == "pixel"  # targets upsampled to full resolution
    assert model.feature_downscale == 1
    assert model.num_downscales == 0
    assert model.feature_start_step == 0  # colour and features together from the first step
    assert not model.couple_geometry  # the published backward pass gives alpha no gradient from features


def test_the_papers_decoder_is_one_convolution_without_bias() -> None:
    decoder = small_model(PRESETS["fit3d-features-paper"]).decoder
    assert [name for name, _ in decoder.named_parameters()] == ["weight"]
    assert decoder.weight.shape[1:] == (64, 3, 3)


def test_the_papers_densification_is_that_of_3dgs() -> None:
    config = PRESETS["fit3d-features-paper"]
    model = model_config(config)
    assert config.max_num_iterations == 30_000
    assert model.strategy == "default"
    assert (model.warmup_length, model.stop_split_at, model.refine_every) == (500, 15_000, 100)
    assert model.densify_grad_thresh == 0.0002
    assert not model.use_absgrad
    assert model.cull_alpha_thresh == 0.005
    assert model.cull_scale_thresh == 0.1
    assert model.stop_screen_size_at == 0
    assert model.reset_alpha_every * model.refine_every == 3000
    assert (model.sh_degree, model.sh_degree_interval) == (3, 1000)
    assert model.rasterize_mode == "classic"
    assert model.background_color == "black"
    assert not model.use_scale_regularization
    assert model.camera_optimizer.mode == "off"


def test_the_papers_learning_rates_are_those_of_3dgs() -> None:
    optimizers = PRESETS["fit3d-features-paper"].optimizers
    rates = {name: parts["optimizer"].lr for name, parts in optimizers.items()}
    published = {"features_dc": 0.0025, "opacities": 0.05, "scales": 0.005, "quats": 0.001}
    published |= {"means": 1.6e-4, "features_rest": 0.0025 / 20, "features": 6.25e-5, "decoder": 6.25e-5}
    assert {name: rates[name] for name in published} == pytest.approx(published)
    assert {name for name in published if optimizers[name]["scheduler"] is not None} == {"means"}
    assert optimizers["means"]["scheduler"].lr_final == pytest.approx(1.6e-6)
    assert all(parts["optimizer"].eps == 1e-15 for parts in optimizers.values())


def test_the_papers_target_is_the_last_block_after_the_final_norm() -> None:
    backbone = PRESETS["fit3d-features-paper"].pipeline.datamanager.backbone
    assert backbone.layer is None  # the last; always after the final norm
    assert "patch14" in backbone.name
    assert "dinov2" in backbone.name


# ---- checkpoints and help


@pytest.mark.parametrize("value", [np.float64(0.1), np.float64("nan")])
def test_checkpoints_with_numpys_scalars_load_with_weights_only(tmp_path: Path, value: np.float64) -> None:
    torch.save({"last_lr": [value], "step": 7}, tmp_path / "checkpoint.ckpt")
    loaded = torch.load(tmp_path / "checkpoint.ckpt", weights_only=True)
    np.testing.assert_equal(loaded, {"last_lr": [value], "step": 7})


def test_the_types_of_numpys_scalars_are_named_safe() -> None:
    safe = torch.serialization.get_safe_globals()
    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
    wanted = (scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, np.dtypes.Float64DType)
    assert all(entry in safe for entry in wanted)


@pytest.mark.parametrize(
    "config", [Fit3DModelConfig, Fit3DDatamanagerConfig, BackboneConfig, module.FusedAdamOptimizerConfig]
)
def test_every_option_has_a_line_for_the_help(config: type) -> None:
    body = ast.parse(textwrap.dedent(inspect.getsource(config))).body[0].body  # type: ignore[attr-defined]
    for field, below in zip(body, [*body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and not ast.unparse(field.target).startswith("_"):
            documented = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            assert documented, ast.unparse(field.target)


def test_frames_of_the_import_system_are_found_without_a_search() -> None:
    """nerfstudio asks for the stack 26 times as it starts; looking for these frames was a third of its start."""
    frames = [frame for frame in stack_of_an_import() if frame.filename.startswith("<frozen importlib")]
    assert frames
    for frame in frames:
        module = sys.modules[inspect.modulesbyfile[frame.filename]]  # type: ignore[attr-defined]
        assert vars(module)[frame.function].__code__.co_filename == frame.filename


def stack_of_an_import() -> list[inspect.FrameInfo]:
    """The stack as a module sees it that is imported."""
    seen: list[inspect.FrameInfo] = []

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, name: str, path: object, target: object = None) -> None:
            if name == "no_such_module":
                seen.extend(inspect.stack())

    finder = Finder()
    sys.meta_path.append(finder)
    try:
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("no_such_module")
    finally:
        sys.meta_path.remove(finder)
    return seen
