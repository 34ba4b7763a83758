"""Configurations and a checkpoint that release 0.1 wrote still load, view, export, lift and resume."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from nerfstudio.utils.eval_utils import eval_setup
from torch import Tensor

from fit3d_ns.method.config_file import load_config
from fit3d_ns.method.export import export_run
from fit3d_ns.method.model import Fit3DModel, Fit3DModelConfig
from fit3d_ns.method.pipeline import Fit3DPipeline
from fit3d_ns.method.release_0_1 import MOVED
from fit3d_ns.method.runs import read_config, scene_from_run
from fit3d_ns.method.trainer import Fit3DTrainer, Fit3DTrainerConfig
from fit3d_ns.scene.gaussians import FeatureGaussians
from tests.fit3d_ns.method.runs import PRESETS

FIXTURES = Path(__file__).parents[2] / "fixtures" / "release_0_1"
STEPS = 20
REPORTED = {"psnr": 12.39377, "ssim": 0.20822, "feature_l1": 0.60279, "feature_cosine": 0.62909}
"""Of the held-out view, by release 0.1 itself from this checkpoint."""
FILES = sorted(FIXTURES.rglob("*.yml"))


def path_list(path: Path) -> str:
    """As PyYAML writes the arguments of a pathlib.PosixPath."""
    return "".join(f"- {part}\n" for part in path.parts)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The config.yml of the run, where nerfstudio would have it; its paths lead to copies of the fixture's files."""
    capture, outputs = tmp_path / "capture", tmp_path / "outputs"
    shutil.copytree(FIXTURES / "capture", capture)
    folder = outputs / "tiny" / "fit3d-features-fast" / "run"
    shutil.copytree(FIXTURES / "run", folder)
    text = (folder / "config.yml").read_text()
    for old, new in ((Path("/somewhere/capture"), capture), (Path("/somewhere/outputs"), outputs)):
        assert path_list(old) in text
        text = text.replace(path_list(old), path_list(new))
    (folder / "config.yml").write_text(text)
    return folder / "config.yml"


def saved_state(run: Path) -> dict[str, Tensor]:
    checkpoint = run.parent / "nerfstudio_models" / f"step-{STEPS - 1:09d}.ckpt"
    state: dict[str, Tensor] = torch.load(checkpoint, weights_only=True)["pipeline"]
    return state


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_every_class_that_a_configuration_names_has_one_identity_under_both_names(file: Path) -> None:
    names = set(re.findall(r"!!python/(?:object|name):(fit3d_ns\.\w+)\.\w+", file.read_text()))
    assert names == MOVED.keys()
    for config in (yaml.load(file.read_text(), Loader=yaml.Loader), load_config(file)):
        assert type(config) is Fit3DTrainerConfig
        assert config._target is Fit3DTrainer
        assert type(config.pipeline.model) is Fit3DModelConfig
        assert config.pipeline.model._target is Fit3DModel
        assert config.pipeline._target is Fit3DPipeline
        config.pipeline.model.check()


@pytest.mark.parametrize("name", ["fit3d-features", "fit3d-features-fast"])
def test_presets_train_as_they_did(name: str) -> None:
    """What a run of 0.1 was configured with is what the preset says today (the paper's was set right since)."""
    old, new = load_config(FIXTURES / f"{name}.yml"), PRESETS[name].config
    for mine, theirs in ((old.pipeline.model, new.pipeline.model), (old.optimizers, new.optimizers)):
        mine, theirs = (value if isinstance(value, dict) else vars(value) for value in (mine, theirs))
        assert {key: theirs[key] for key in mine} == mine


def test_the_run_can_be_viewed(run: Path) -> None:
    _, pipeline, checkpoint, step = eval_setup(run, test_mode="test")
    assert (checkpoint.name, step) == (f"step-{STEPS - 1:09d}.ckpt", STEPS - 1)
    for name, values in saved_state(run).items():
        assert torch.equal(pipeline.state_dict()[name], values), name
    [(camera, batch)] = pipeline.datamanager.fixed_indices_eval_dataloader
    outputs = pipeline.model.get_outputs_for_camera(camera)
    assert outputs.keys() >= {"rgb", "depth", "accumulation", "feature_pca", "feature_error"}
    assert all(bool(values.isfinite().all()) for values in outputs.values())
    metrics, _ = pipeline.model.get_image_metrics_and_images(outputs, batch)
    assert {name: metrics[name] for name in REPORTED} == pytest.approx(REPORTED, rel=1e-3)


def test_the_run_can_be_exported_and_lifted_from(run: Path, tmp_path: Path) -> None:
    state = saved_state(run)
    means, features = state["_model.gauss_params.means"], state["_model.gauss_params.features"]
    gaussians = FeatureGaussians.load(export_run(run, tmp_path / "runs"))
    assert gaussians.scene.scene == "tiny"
    assert torch.equal(gaussians.means, means)
    assert torch.equal(gaussians.features, features.half().float())
    scene, backbone = scene_from_run(run)
    assert torch.equal(scene.splats.means, means)
    assert torch.equal(scene.splats.opacities, gaussians.opacities)
    assert [view.sha256 for view in scene.views] == [view.sha256 for view in gaussians.scene.views]
    assert backbone.name == gaussians.scene.backbone.name


def test_the_run_can_be_resumed(run: Path) -> None:
    config: Any = read_config(run)
    config.load_dir = run.parent / "nerfstudio_models"
    config.timestamp, config.max_num_iterations = "resumed", 5
    trainer = config.setup()
    trainer.setup()
    assert trainer._start_step == STEPS
    for name, values in saved_state(run).items():
        assert torch.equal(trainer.pipeline.state_dict()[name], values), name
    trainer.train()
    assert [path.name for path in trainer.checkpoint_dir.glob("*.ckpt")] == [f"step-{STEPS + 4:09d}.ckpt"]
    means = trainer.pipeline.model.means
    assert len(means) >= len(saved_state(run)["_model.gauss_params.means"])
    assert bool(means.isfinite().all())
