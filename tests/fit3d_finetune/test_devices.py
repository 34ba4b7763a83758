"""Nothing is left on the CPU that belongs on the GPU: losses of fine-tuning, heads of probes.

Fake tensors know shape and device and compute nothing; an operation between two devices raises, as it would on a GPU.
Backward passes are not run: torch starts them in CUDA's own context.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fit3d_finetune.probing.depth_loss import binned_depth, depth_loss
from fit3d_finetune.probing.heads import LinearHeads
from fit3d_finetune.probing.results import Arm
from fit3d_finetune.targets.files import Target
from fit3d_finetune.training.learner import Learner, make_learner
from fit3d_finetune.training.loss import batch_loss
from fit3d_finetune.training.recipe import PRESETS, Recipe
from fit3d_finetune.training.samples import Sample, crop, flip
from fit3d_ns.features.backbone import Backbone, load_backbone
from tests.fit3d_finetune.scenes import BACKBONE, GRID, HEIGHT, WIDTH

CHANNELS = 64
EVERYTHING = replace(PRESETS["recommended"], gram_weight=1.0, anchor_weight=1.0)


def move(module: nn.Module, device: str) -> nn.Module:
    """Put fake tensors on a device into a module, which `Module.to` cannot."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(
                    torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
                )
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)
    return module


@pytest.fixture
def backbone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Backbone]:
    """One on a GPU that is not there; all that is made meanwhile is fake."""
    monkeypatch.setattr(nn.Module, "to", lambda module, device: move(module, str(device)))
    loaded = load_backbone(BACKBONE)
    with FakeTensorMode():
        yield move(loaded, "cuda")  # type: ignore[misc]


def sample() -> Sample:
    """As the loader gives them: on the CPU."""

    def target(channels: int = CHANNELS) -> Target:
        return Target(torch.randn(*GRID, channels), torch.rand(GRID))

    return Sample(
        image=torch.rand(3, HEIGHT, WIDTH),
        features=torch.randn(*GRID, CHANNELS),
        weights=torch.rand(GRID),
        geometry=target(5),
        class_token=torch.randn(CHANNELS),
        gram=target(),
        original=target(),
        position=torch.randn(*GRID, CHANNELS),
    )


def check(learner: Learner, samples: list[Sample], recipe: Recipe) -> None:
    loss, figures = batch_loss(learner.backbone, samples, recipe.loss, recipe.loss_mean, learner.teacher)
    assert loss.device.type == "cuda"
    assert {value.device.type for value in figures.values()} == {"cuda"}
    assert loss.requires_grad


@pytest.mark.parametrize("recipe", [PRESETS["paper"], PRESETS["recommended"], EVERYTHING])
def test_every_loss_of_fine_tuning_is_where_the_backbone_is(backbone: Backbone, recipe: Recipe) -> None:
    check(make_learner(backbone, recipe), [sample(), flip(sample())], recipe)


def test_crops_and_views_of_two_sizes_are_too(backbone: Backbone) -> None:
    wide = replace(sample(), image=torch.rand(3, HEIGHT, 2 * WIDTH), features=torch.randn(3, 8, CHANNELS))
    wide = replace(wide, weights=torch.rand(3, 8), position=None, geometry=None, gram=None, original=None)
    features = replace(EVERYTHING, depth_weight=0.0, normal_weight=0.0)
    check(make_learner(backbone, features), [wide, crop(sample(), 0.5, 0.1, 0.2)], features)


def test_a_mix_up_would_be_found(backbone: Backbone) -> None:
    weights = next(backbone.parameters())
    with pytest.raises(RuntimeError, match="device"):
        _ = weights * torch.randn(weights.shape)


def test_heads_and_losses_of_the_depth_probe_stay_on_the_gpu(backbone: Backbone) -> None:
    arms = [Arm("one", ("a",)), Arm("both", ("a", "b"))]
    heads = LinearHeads(arms, {"a": 8, "b": 8}, 16, (0, 1)).to("cuda")
    maps = {name: torch.randn(2, 12, 8, device="cuda") for name in "ab"}
    outputs = heads(maps, 0).unflatten(1, GRID)
    depth = binned_depth(outputs, 10.0)
    truth = torch.rand(2, *GRID, device="cuda")
    loss = depth_loss(depth.permute(2, 3, 0, 1), truth, truth > 0.5).sum()
    assert loss.device.type == "cuda"
    assert loss.requires_grad
