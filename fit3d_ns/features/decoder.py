"""The decoder: from the few channels that a Gaussian carries to the backbone's feature space."""

from __future__ import annotations

import copy
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DecoderKind = Literal["linear", "conv3x3"]


class FeatureDecoder(nn.Module):
    """Maps feature maps of D channels to C channels.

    `linear` is one matrix and a bias per pixel. It commutes with alpha blending and with pooling, which is
    what makes supervision on the patch grid exact and cheap. `conv3x3` is FiT3D's single 3x3 convolution
    without bias (ECCV 2024, section 3.2), zero-padded.

    Args:
        kind: "linear" or "conv3x3".
        feature_dim: D >= 1.
        channels: C >= 1.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, kind: DecoderKind, feature_dim: int, channels: int) -> None:
        super().__init__()
        self.kind: DecoderKind = kind
        if kind == "linear":
            self.weight = nn.Parameter(torch.empty(channels, feature_dim))
            self.bias = nn.Parameter(torch.zeros(channels))
            nn.init.normal_(self.weight, std=feature_dim**-0.5)
        elif kind == "conv3x3":
            self.weight = nn.Parameter(torch.empty(channels, feature_dim, 3, 3))
            self.bias = None
            nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        else:
            raise ValueError(f"unknown decoder kind {kind!r}; choose 'linear' or 'conv3x3'")

    @property
    def feature_dim(self) -> int:
        return self.weight.shape[1]

    @property
    def channels(self) -> int:
        return self.weight.shape[0]

    @torch.no_grad()
    def codes(self, features: Tensor) -> Tensor:
        """The codes [..., D] that decode to features [..., C] with the least squared error. Only for `linear`."""
        if self.bias is None:
            raise ValueError("only the linear decoder can be inverted")
        return (features.to(self.bias) - self.bias) @ torch.linalg.pinv(self.weight).T

    def as_matrix(self) -> tuple[Tensor, Tensor]:
        """What a code decodes to that all its neighbours have, too: weight [C, D] and bias [C] of an affine map."""
        if self.bias is not None:
            return self.weight, self.bias
        weight = self.weight.sum((2, 3))
        return weight, torch.zeros_like(weight[:, 0])

    def forward(self, features: Tensor) -> Tensor:
        """Features [H, W, D] to [H, W, C]. For `linear` any leading shape [..., D] is accepted."""
        if self.kind == "linear":
            return F.linear(features, self.weight, self.bias)
        maps = F.conv2d(features.permute(2, 0, 1)[None], self.weight, padding=1)
        return maps[0].permute(1, 2, 0)

    def followed_by(self, matrix: Tensor, offset: Tensor) -> FeatureDecoder:
        """The decoder whose output is matrix @ decoded + offset, as one decoder of M channels.

        Args:
            matrix: [M, C].
            offset: [M]; must be zero for `conv3x3`, which has no bias to hold it: add it to the result.
        """
        if self.bias is None and bool((offset != 0).any()):
            raise ValueError("a conv3x3 decoder has no bias to hold an offset")
        # A copy, not a new decoder: initialising one would draw from the random numbers that training uses.
        composed = copy.deepcopy(self)
        with torch.no_grad():
            composed.weight = nn.Parameter(torch.tensordot(matrix.to(self.weight), self.weight, dims=1))
            if self.bias is not None:
                composed.bias = nn.Parameter(matrix.to(self.bias) @ self.bias + offset.to(self.bias))
        return composed
