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
        self.users = {block: [a for a, arm in enumerate(arms) if block in arm.backbones] for block in channels}
        self.names = {block: f"block_{i}" for i, block in enumerate(channels)}
        for block, count in channels.items():
            weight = torch.empty(len(seeds), count, len(self.users[block]), outputs)
            for s, seed in enumerate(seeds):
                # The same numbers in every arm: arms then differ in their features only.
                start = torch.randn(count, outputs, generator=torch.Generator().manual_seed(seed))
                weight[s] = INIT_STD * start[:, None]
            self.register_parameter(self.names[block], nn.Parameter(weight))
        self.bias = nn.Parameter(torch.zeros(len(arms), len(seeds), 1, outputs))

    def forward(self, blocks: Mapping[str, Tensor]) -> Tensor:
        """Features [seeds, N, C] (or [1, N, C] for all seeds) of every block to outputs [arms, seeds, N, K].

        Blocks with N = 1 (class tokens) count for all rows of the others.
        """
        return self._outputs(blocks, slice(None))

    def one_seed(self, blocks: Mapping[str, Tensor], seed: int) -> Tensor:
        """Features [1, N, C] of every block to the outputs [arms, 1, N, K] of the heads of one seed (its index)."""
        return self._outputs(blocks, slice(seed, seed + 1))

    def _outputs(self, blocks: Mapping[str, Tensor], chosen: slice) -> Tensor:
        outputs: list[Tensor | None] = [None] * self.shape[0]
        for block, features in blocks.items():
            weight = getattr(self, self.names[block])[chosen]
            seeds, count = weight.shape[:2]
            product = torch.matmul(features, weight.reshape(seeds, count, -1))
            parts = product.unflatten(-1, (len(self.users[block]), self.outputs)).unbind(-2)
            for arm, part in zip(self.users[block], parts, strict=True):
                known = outputs[arm]
                outputs[arm] = part if known is None else known + part
        return torch.stack([value for value in outputs if value is not None]) + self.bias[:, chosen]
