"""Many heads trained together are what each would be alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fit3d_finetune.probing.data.encoding import standardizations
from fit3d_finetune.probing.depth import train_depth
from fit3d_finetune.probing.heads import LinearHeads
from fit3d_finetune.probing.results import Arm
from fit3d_finetune.probing.segmentation import train_segmentation
from fit3d_finetune.probing.whole_images import with_class_tokens
from tests.fit3d_finetune.probing.scenes import FakeEncoded, FakeImage, tiny

ARMS = [Arm("a", ("a",)), Arm("b", ("b",)), Arm("a + b", ("a", "b")), Arm("a + a", ("a", "a"))]
SEEDS = (0, 7)
CHANNELS = {"a": 6, "b": 5}


def data() -> FakeEncoded:
    random = np.random.default_rng(0)
    images = [
        FakeImage(
            random.integers(0, 3, (24, 32), dtype=np.uint8),
            random.uniform(1, 5, (24, 32)).astype(np.float32),
        )
        for _ in range(4)
    ]
    maps = {name: [torch.randn(3, 4, count) for _ in images] for name, count in CHANNELS.items()}
    return FakeEncoded(images, maps)


def weights_of(heads: LinearHeads, arm: int, seed: int, blocks: tuple[str, ...]) -> list[torch.Tensor]:
    """Weight [C, K] of each block and bias [K] of one head."""
    found = []
    for place, block in enumerate(blocks):
        uses = [use for use, user in enumerate(heads.users[block]) if user == arm]
        found.append(heads.weights[block][seed][:, uses[blocks[:place].count(block)]])
    return [*found, heads.biases[seed][arm]]


def only(encoded: FakeEncoded, arm: Arm) -> FakeEncoded:
    """The same data with the arm's backbones and no other."""
    return FakeEncoded(encoded.images, {name: encoded._features[name] for name in dict.fromkeys(arm.backbones)})


@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_arms_and_seeds_trained_together_equal_each_trained_alone(task: str) -> None:
    encoded = data()

    def train(encoded: FakeEncoded, arms: list[Arm], seeds: tuple[int, ...]) -> LinearHeads:
        statistics = standardizations(encoded)
        if task == "segmentation":
            return train_segmentation(encoded, statistics, arms, 3, seeds, tiny(segmentation_iterations=12))
        return train_depth(encoded, statistics, arms, seeds, tiny(depth_iterations=12), max_depth=6.0)

    together = train(encoded, ARMS, SEEDS)
    for a, arm in enumerate(ARMS):
        blocks = arm.backbones if task == "segmentation" else with_class_tokens([arm])[0].backbones
        for s, seed in enumerate(SEEDS):
            alone = train(only(encoded, arm), [arm], (seed,))
            for joint, single in zip(weights_of(together, a, s, blocks), weights_of(alone, 0, 0, blocks), strict=True):
                torch.testing.assert_close(joint, single, atol=1e-6, rtol=1e-5)


def test_seeds_and_arms_have_heads_of_their_own() -> None:
    encoded = data()
    heads = train_segmentation(encoded, standardizations(encoded), ARMS, 3, SEEDS, tiny())
    first, second = (weights_of(heads, 0, seed, ("a",))[0] for seed in (0, 1))
    assert not torch.allclose(first, second, atol=1e-3)
    concatenated = weights_of(heads, 2, 0, ("a", "b"))[0]
    assert not torch.allclose(first, concatenated, atol=1e-3)


def test_training_twice_gives_the_same_heads() -> None:
    encoded = data()
    statistics = standardizations(encoded)
    first, second = (train_segmentation(encoded, statistics, ARMS, 3, SEEDS, tiny()).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_concatenated_arm_is_a_linear_layer_on_concatenated_features() -> None:
    heads = LinearHeads(ARMS, CHANNELS, outputs=4, seeds=SEEDS)
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.normal_()
    blocks = {name: torch.randn(2, 9, count) for name, count in CHANNELS.items()}
    for seed in range(2):
        outputs = heads(blocks, seed)
        assert outputs.shape == (2, 9, 4, 4)
        layer = torch.nn.Linear(11, 4)
        weight_a, weight_b, bias = weights_of(heads, 2, seed, ("a", "b"))
        with torch.no_grad():
            layer.weight.copy_(torch.cat([weight_a, weight_b]).T)
            layer.bias.copy_(bias)
        expected = layer(torch.cat([blocks["a"], blocks["b"]], dim=-1))
        torch.testing.assert_close(outputs[:, :, 2], expected)


def test_a_backbone_beside_itself_has_a_head_of_twice_the_width_whose_halves_differ() -> None:
    encoded = data()
    heads = train_segmentation(encoded, standardizations(encoded), ARMS, 3, SEEDS, tiny())
    blocks = {name: torch.stack(maps).flatten(1, 2) for name, maps in encoded._features.items()}
    for seed in range(2):
        first, second, bias = weights_of(heads, 3, seed, ("a", "a"))
        assert not torch.allclose(first, second, atol=1e-3), "equal halves would be one block of half the rate"
        expected = torch.cat([blocks["a"], blocks["a"]], dim=-1) @ torch.cat([first, second]) + bias
        torch.testing.assert_close(heads(blocks, seed)[:, :, 3], expected)


def test_a_class_token_counts_for_every_patch() -> None:
    [arm] = with_class_tokens([Arm("a", ("a",))])
    assert arm.backbones == ("a", "a/class")
    heads = LinearHeads([arm], {"a": 6, "a/class": 6}, outputs=4, seeds=(0,))
    patches, token = torch.randn(2, 9, 6), torch.randn(2, 1, 6)
    expected = heads({"a": patches, "a/class": token.expand(2, 9, 6)}, 0)
    torch.testing.assert_close(heads({"a": patches, "a/class": token}, 0), expected)
