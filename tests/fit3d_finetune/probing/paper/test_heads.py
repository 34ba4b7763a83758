"""Many published heads at once are what each would be alone, in torch's own layers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fit3d_finetune.probing.heads import LinearHeads
from fit3d_finetune.probing.paper.heads import BatchNormHeads, clip_gradients, convolution_heads
from fit3d_finetune.probing.results import Arm

ARMS = [Arm("a", ("a",)), Arm("a + b", ("a", "b"))]
CHANNELS = {"a": 6, "b": 5}
SEEDS = (3, 8)
CLASSES = 4


def alone(heads: BatchNormHeads, arm: Arm, seed: int) -> nn.Sequential:
    """The head of an arm and seed (its index) as a BatchNorm and a convolution."""
    place = ARMS.index(arm)
    at = {block: heads.users[block].index(place) for block in arm.backbones}
    channels = sum(CHANNELS[block] for block in arm.backbones)
    norm, layer = nn.BatchNorm2d(channels), nn.Conv2d(channels, CLASSES, 1)
    with torch.no_grad():
        weights = [heads.weights[block][seed][:, at[block]] for block in arm.backbones]
        layer.weight.copy_(torch.cat(weights).T[:, :, None, None])
        layer.bias.copy_(heads.biases[seed][place])
        norm.weight.copy_(torch.cat([heads.scales[block][seed][:, at[block], 0] for block in arm.backbones]))
        norm.bias.copy_(torch.cat([heads.shifts[block][seed][:, at[block], 0] for block in arm.backbones]))
    return nn.Sequential(norm, layer)


def batch(seed: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {name: 3 + 2 * torch.randn(2, 3, 5, count, generator=random) for name, count in CHANNELS.items()}


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
@pytest.mark.parametrize("seed", [0, 1])
def test_trained_together_they_equal_batch_norm_and_a_convolution_trained_alone(arm: Arm, seed: int) -> None:
    heads = BatchNormHeads(ARMS, CHANNELS, CLASSES, SEEDS).train()
    single = alone(heads, arm, seed)
    decay = {"lr": 1e-2, "weight_decay": 0.1}
    together, apart = torch.optim.AdamW(heads.parameters(), **decay), torch.optim.AdamW(single.parameters(), **decay)
    place = ARMS.index(arm)
    labels = torch.randint(CLASSES, (2, 3, 5), generator=torch.Generator().manual_seed(0))
    for step in range(5):
        maps = batch(step)
        for optimizer in (together, apart):
            optimizer.zero_grad()
        blocks = heads.normalize({name: map.flatten(1, 2) for name, map in maps.items()})
        outputs = [heads(blocks, each).unflatten(1, (3, 5)) for each in (0, 1)]
        expected = single(torch.cat([maps[name] for name in arm.backbones], -1).permute(0, 3, 1, 2))
        torch.testing.assert_close(outputs[seed][..., place, :].permute(0, 3, 1, 2), expected, atol=1e-5, rtol=1e-4)
        sum(
            nn.functional.cross_entropy(each.flatten(0, 3), labels.flatten().repeat_interleave(2)) * 2
            for each in outputs
        ).backward()
        nn.functional.cross_entropy(expected, labels).backward()
        together.step()
        apart.step()
    heads.eval()
    single.eval()
    maps = batch(99)
    blocks = heads.normalize({name: map.flatten(1, 2) for name, map in maps.items()})
    found = heads(blocks, seed).unflatten(1, (3, 5))[..., place, :].permute(0, 3, 1, 2)
    expected = single(torch.cat([maps[name] for name in arm.backbones], -1).permute(0, 3, 1, 2))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    assert expected.std() > 0.01


def test_the_running_values_move_once_per_batch_whatever_the_number_of_seeds() -> None:
    heads, norm = BatchNormHeads(ARMS, CHANNELS, CLASSES, (0, 1, 2)), nn.BatchNorm2d(6)
    for step in range(3):
        maps = batch(step)
        heads.normalize({name: map.flatten(1, 2) for name, map in maps.items()})
        norm(maps["a"].permute(0, 3, 1, 2))
    torch.testing.assert_close(heads.norms["a"].running_mean, norm.running_mean)
    torch.testing.assert_close(heads.norms["a"].running_var, norm.running_var)


def heads_of(kind: str) -> LinearHeads:
    make = BatchNormHeads if kind == "batch norm" else convolution_heads
    return make(ARMS, CHANNELS, 300, SEEDS)


@pytest.mark.parametrize("kind", ["batch norm", "convolution"])
def test_heads_start_alike_in_every_arm_otherwise_in_every_block_and_seed(kind: str) -> None:
    heads = heads_of(kind)
    first, second = (heads.weights["a"][seed] for seed in (0, 1))
    scale = (first[:, 0].std() / first[:, 1].std()).item()
    torch.testing.assert_close(first[:, 0], first[:, 1] * scale, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(first, second)
    assert not torch.allclose(first[:5, 1], heads.weights["b"][0][:, 0])
    again = heads_of(kind)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in heads.state_dict().items())


def test_heads_start_as_published() -> None:
    normal, uniform = heads_of("batch norm"), heads_of("convolution")
    assert normal.weights["a"][0].std().item() == pytest.approx(0.01, rel=0.05)
    assert not normal.biases[0].any()
    for place, channels in enumerate((6, 11)):
        bound = 1 / math.sqrt(channels)
        weights = torch.cat([uniform.weights["a"][0][:, place].flatten(), uniform.biases[0][place]])
        assert 0.98 * bound < weights.abs().max() <= bound
        assert weights.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_gradients_are_clipped_per_head_as_torch_clips_one() -> None:
    heads = convolution_heads(ARMS, CHANNELS, CLASSES, SEEDS)
    random = torch.Generator().manual_seed(0)
    for seed, size in enumerate((0.1, 9.0)):
        heads.biases[seed].grad = size * torch.randn(2, CLASSES, generator=random)
        for block in CHANNELS:
            shape = heads.weights[block][seed].shape
            heads.weights[block][seed].grad = size * torch.randn(shape, generator=random)
    expected = []
    for seed in (0, 1):
        for place, arm in enumerate(ARMS):
            gradients = [heads.biases[seed].grad[place]]
            gradients += [
                heads.weights[block][seed].grad[:, heads.users[block].index(place)] for block in arm.backbones
            ]
            layers = [nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
            for layer, gradient in zip(layers, gradients, strict=True):
                layer.grad = gradient.clone()
            nn.utils.clip_grad_norm_(layers, 5.0)
            expected.append([layer.grad for layer in layers])
    clip_gradients(heads, 5.0)
    for head, (seed, place) in zip(expected, [(0, 0), (0, 1), (1, 0), (1, 1)], strict=True):
        found = [heads.biases[seed].grad[place]]
        found += [
            heads.weights[block][seed].grad[:, heads.users[block].index(place)] for block in ARMS[place].backbones
        ]
        for one, other in zip(found, head, strict=True):
            torch.testing.assert_close(one, other)
        norm = torch.cat([part.flatten() for part in found]).norm()
        assert norm < 4 if seed == 0 else norm == pytest.approx(5, rel=1e-4)
