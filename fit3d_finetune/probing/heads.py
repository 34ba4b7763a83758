"""Many independent linear heads as a few large matrix products.

Every arm and every seed has a head of its own. They share no parameter, so one optimiser over all of them does to
each what an optimiser of its own would; but features are read once, and each backbone's channels meet the
weights of all arms that use them in one product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fit3d_finetune.probing.results import Arm

INIT_STD = 0.01


class LinearHeads(nn.Module):
    """A linear map per (arm, seed): the sum over the arm's blocks of channels, and a bias.

    Args:
        arms: which blocks each arm concatenates.
        channels: C of every block.
        outputs: K.
        seeds: one head per arm and seed; a head's start depends on its own arm and seed only.
    """

    def __init__(self, arms: Sequence[Arm], channels: Mapping[str, int], outputs: int, seeds: Sequence[int]) -> None:
        super().__init__()
        self.outputs = outputs
        self.shape = (len(arms), len(seeds))
        self.users = {
            block: [a for a, arm in enumerate(arms) for name in arm.backbones if name == block] for block in channels
        }
        """By block the arms that read it, as often as it stands in them."""
        self.weights = nn.ModuleDict()
        """By block, per seed [C, its users, K]; a tensor per seed, since seeds see different data."""
        for block, count in channels.items():
            of_seeds = nn.ParameterList()
            copies = [self.users[block][:use].count(arm) for use, arm in enumerate(self.users[block])]
            for seed in seeds:
                # The same numbers in every arm: arms then differ in their features only. Where a block stands in an arm
                # a second time, it starts from other ones, or both would stay equal for ever.
                random = torch.Generator().manual_seed(seed)
                starts = [
                    INIT_STD * torch.randn(count, outputs, generator=random) for _ in range(max(copies, default=0) + 1)
                ]
                of_seeds.append(nn.Parameter(torch.stack([starts[copy] for copy in copies], dim=1)))
            self.weights[block] = of_seeds
        self.biases = nn.ParameterList([torch.zeros(len(arms), outputs) for _ in seeds])

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.biases[0].device

    def weight(self, block: str, seed: int) -> Tensor:
        """What the features of a block are multiplied by, in the heads of one seed (its index): [C, its users, K]."""
        weight: Tensor = self.weights[block][seed]  # type: ignore[index]
        return weight

    def bias(self, seed: int) -> Tensor:
        """[arms, K] of one seed (its index)."""
        return self.biases[seed]

    def forward(self, blocks: Mapping[str, Tensor], seed: int) -> Tensor:
        """Features [n, N, C] of every block to outputs [n, N, arms, K] of the heads of one seed (its index).

        Blocks with N = 1 (class tokens) count for all rows of the others.
        """
        parts: list[list[Tensor]] = [[] for _ in range(self.shape[0])]
        for block, features in blocks.items():
            weight = self.weight(block, seed)
            products = (features @ weight.flatten(1)).unflatten(-1, (len(self.users[block]), self.outputs))
            for arm, product in zip(self.users[block], products.unbind(-2), strict=True):
                parts[arm].append(product)
        # Small parts first: what counts for all rows meets the bias before it meets the rows.
        arms = [
            sum(sorted(found, key=Tensor.numel), start=bias) for found, bias in zip(parts, self.bias(seed), strict=True)
        ]
        return torch.stack(arms, dim=-2)
