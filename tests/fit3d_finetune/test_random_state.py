"""Nothing here draws from, seeds or depends on the global random states; `fit3d_ns.common.randomness` says why."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import fit3d_finetune
from fit3d_finetune.probing.heads import LinearHeads
from fit3d_finetune.probing.results import Arm
from fit3d_finetune.report.pictures import fit_clusters
from fit3d_finetune.targets.scenes import Scene, with_novel_views
from fit3d_finetune.training.checkpoint import Progress, read_progress, restore_checkpoint, save_checkpoint
from fit3d_finetune.training.optimizer import build_optimizer, tuned_parameters
from fit3d_finetune.training.recipe import Recipe
from fit3d_finetune.training.train import finetune
from fit3d_ns.common.errors import InputError
from fit3d_ns.features.backbone import BackboneConfig, load_backbone
from tests.fit3d_finetune.scenes import BACKBONE, run_of, scene_of, store_of


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def states() -> tuple[object, ...]:
    name, words, *rest = np.random.get_state()
    return random.getstate(), (name, words.tolist(), rest), torch.get_rng_state().tolist()


@contextmanager
def untouched(seed: int) -> Iterator[None]:
    """The global states after are those before."""
    seed_all(seed)
    before = states()
    yield
    assert states() == before


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_the_check_would_notice_a_draw() -> None:
    for draw in (random.random, np.random.rand, lambda: torch.rand(1), lambda: torch.nn.Linear(2, 2)):
        with pytest.raises(AssertionError), untouched(0):
            draw()


def test_a_fine_tuning_neither_touches_nor_sees_the_global_random_state(tmp_path: Path, scenes: list[Scene]) -> None:
    more = [with_novel_views(scene, 1) for scene in scenes]
    recipe = Recipe(lr=1e-3, epochs=2, crop_scale=0.7, keep_original=0.2, weight_mix=0.5)
    results = []
    for seed in (1, 2):
        with untouched(seed):
            folder = finetune(run_of(tmp_path / f"out{seed}", more, recipe, seed=5, max_steps=3))
        results.append(weights_of(folder))
    assert all(torch.equal(results[0][name], value) for name, value in results[1].items())


def test_a_resumed_fine_tuning_needs_no_random_state(tmp_path: Path) -> None:
    """Checkpoints hold none, and those of release 0.1, which did, are gone on from."""
    backbone = load_backbone(BACKBONE)
    parameters, optimizer = tuned_parameters(backbone), build_optimizer(backbone, Recipe())
    path = tmp_path / "checkpoint.safetensors"
    recipe = asdict(Recipe())
    for name in ("loss_mean", "uncovered", "patch_grid", "resampling", "last_batch"):
        del recipe[name]  # which that release did not have
    progress = Progress(3, {"recipe": recipe}, [], 0.0, 0.0)
    save_checkpoint(path, parameters, optimizer, progress)
    tensors = load_file(path)
    assert "random_state" not in tensors
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file({**tensors, "random_state": torch.get_rng_state()}, path, metadata)
    with untouched(3):
        restore_checkpoint(path, parameters, optimizer)
    release_0_1 = asdict(Recipe(loss_mean="image", uncovered="ignore", patch_grid="export", resampling="area"))
    assert read_progress(path, {"recipe": {**release_0_1, "last_batch": "keep"}}) == progress
    with pytest.raises(InputError, match=r"differs in recipe\.loss_mean"):
        read_progress(path, {"recipe": {**release_0_1, "last_batch": "keep", "loss_mean": "batch"}})


@pytest.mark.parametrize("kind", ["gaussians", "mirror", "original", "gram"])
def test_making_targets_leaves_the_global_random_state_alone(tmp_path: Path, kind: str) -> None:
    scene = with_novel_views(scene_of(tmp_path, decoder="conv3x3", resolution="pixel"), 1)
    with untouched(4):
        store = store_of(tmp_path, scene, kind=kind, limit_bytes=0)  # type: ignore[arg-type]
        store.get(0, 1)
        store.image(0, 5)


def build_from_a_file(tmp_path: Path) -> Callable[[], object]:
    weights = load_backbone(BACKBONE).model.state_dict()
    save_file({name: value.contiguous() for name, value in weights.items()}, tmp_path / "weights.safetensors")
    config = BackboneConfig(BACKBONE.name, str(tmp_path / "weights.safetensors"), max_size=None)
    return lambda: load_backbone(config)


def test_building_a_backbone_from_a_file_leaves_the_global_random_state_alone(tmp_path: Path) -> None:
    build = build_from_a_file(tmp_path)
    build()
    with untouched(5):
        build()


def test_loading_what_was_fine_tuned_leaves_the_global_random_state_alone(tmp_path: Path, scenes: list[Scene]) -> None:
    folder = finetune(run_of(tmp_path / "out", scenes, max_steps=1))
    with untouched(6):
        fit3d_finetune.load(folder)


def test_probes_and_clusters_start_from_their_own_seed() -> None:
    arms, maps = [Arm("one", ("a",)), Arm("both", ("a", "b"))], [torch.rand(6, 8, 5)]
    starts, centres = [], []
    for seed in (7, 8):
        with untouched(seed):
            starts.append(LinearHeads(arms, {"a": 5, "b": 4}, 3, (0, 1)).state_dict())
            centres.append(fit_clusters(maps, 4))
    assert all(torch.equal(starts[0][name], value) for name, value in starts[1].items())
    assert torch.equal(*centres)
