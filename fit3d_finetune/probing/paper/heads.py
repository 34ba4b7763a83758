"""The published heads, many at once: BatchNorm and a 1x1 convolution, or the convolution alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from fit3d_finetune.probing.heads import INIT_STD, LinearHeads
from fit3d_finetune.probing.results import Arm

Draw = Callable[[tuple[int, ...], torch.Generator], Tensor]


class BatchNormHeads(LinearHeads):
    """A BatchNorm and a 1x1 convolution per (arm, seed).

    BatchNorm works on each channel alone, and all arms and seeds see the same crops: so their means and variances, of
    the batch as running, are the same numbers and are kept once per block. Scale and shift are each head's own.
    """

    def __init__(self, arms: Sequence[Arm], channels: Mapping[str, int], outputs: int, seeds: Sequence[int]) -> None:
        super().__init__(arms, channels, outputs, seeds)
        redraw(self, seeds, lambda shape, random: INIT_STD * torch.randn(shape, generator=random))
        self.norms = nn.ModuleDict({block: nn.BatchNorm1d(count, affine=False) for block, count in channels.items()})
        self.scales, self.shifts = (
            nn.ModuleDict(
                {
                    block: nn.ParameterList([torch.full((count, len(self.users[block]), 1), start) for _ in seeds])
                    for block, count in channels.items()
                }
            )
            for start in (1.0, 0.0)
        )

    def normalize(self, blocks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Features [n, N, C] by their mean and variance over the batch (in training), else the running ones.

        Once per batch, whatever the number of seeds: it moves the running values.
        """
        return {
            block: self.norms[block](features.flatten(0, 1)).view(features.shape) for block, features in blocks.items()
        }

    def weight(self, block: str, seed: int) -> Tensor:
        """That of the convolution times BatchNorm's scale."""
        return self.scales[block][seed] * super().weight(block, seed)  # type: ignore[index]

    def bias(self, seed: int) -> Tensor:
        """What the convolution makes of BatchNorm's shift, and its bias."""
        bias = super().bias(seed)
        for block, users in self.users.items():
            shifts = (self.shifts[block][seed] * super().weight(block, seed)).sum(0)  # type: ignore[index]
            bias = bias.index_add(0, torch.tensor(users, device=bias.device), shifts)
        return bias


def convolution_heads(
    arms: Sequence[Arm], channels: Mapping[str, int], outputs: int, seeds: Sequence[int]
) -> LinearHeads:
    """1x1 convolutions that start as torch starts them: uniform within 1 / sqrt(channels of the arm)."""
    heads = LinearHeads(arms, channels, outputs, seeds)
    redraw(heads, seeds, lambda shape, random: 2 * torch.rand(shape, generator=random) - 1)
    bounds = torch.tensor([1 / math.sqrt(sum(channels[block] for block in arm.backbones)) for arm in arms])
    with torch.no_grad():
        for place, seed in enumerate(seeds):
            for block, users in heads.users.items():
                heads.weights[block][place].mul_(bounds[users][:, None])  # type: ignore[index]
            start = 2 * torch.rand(outputs, generator=torch.Generator().manual_seed(seed)) - 1
            heads.biases[place].copy_(bounds[:, None] * start)
    return heads


def redraw(heads: LinearHeads, seeds: Sequence[int], draw: Draw) -> None:
    """Start all weights anew: other numbers in each block, the same ones in every arm.

    Arms then differ in their features only. A block that an arm has twice starts twice, from other numbers.
    """
    with torch.no_grad():
        for place, seed in enumerate(seeds):
            random = torch.Generator().manual_seed(seed)
            for block, users in heads.users.items():
                weight = heads.weights[block][place]  # type: ignore[index]
                nth = [users[:slot].count(arm) for slot, arm in enumerate(users)]
                starts = draw((max(nth, default=-1) + 1, weight.shape[0], weight.shape[2]), random)
                weight.copy_(starts[nth].transpose(0, 1))


def clip_gradients(heads: LinearHeads, largest: float) -> None:
    """Scale each head's gradient down to the norm `largest` where it is longer; heads do not see each other's."""
    for seed in range(heads.shape[1]):
        bias = heads.biases[seed].grad
        assert bias is not None
        squares = bias.square().sum(1)
        for block, users in heads.users.items():
            gradient = heads.weights[block][seed].grad  # type: ignore[index]
            squares = squares.index_add(0, torch.tensor(users, device=bias.device), gradient.square().sum((0, 2)))
        factors = (largest / (squares.sqrt() + 1e-6)).clamp(max=1)
        bias.mul_(factors[:, None])
        for block, users in heads.users.items():
            heads.weights[block][seed].grad.mul_(factors[users][:, None])  # type: ignore[index]
