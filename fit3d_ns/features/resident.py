"""Feature maps that stay on the device which compares with them in every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

SHARE_OF_FREE_MEMORY = 0.25


class ResidentMaps(Sequence[Tensor]):
    """Feature maps on a device in fp16, each read from disk once, as far as they fit; others whenever asked for.

    Args:
        maps: on disk.
        device: where they are wanted.
        limit_bytes: for those that stay; None: a quarter of what is free on a GPU.
    """

    def __init__(self, maps: Sequence[Tensor], device: torch.device, limit_bytes: int | None = None) -> None:
        if limit_bytes is None:
            limit_bytes = int(SHARE_OF_FREE_MEMORY * torch.cuda.mem_get_info(device)[0])
        self._maps, self._device, self._room = maps, device, limit_bytes
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._maps)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index in self._kept:
            return self._kept[index]
        values = self._maps[index].to(self._device, torch.float16)
        size = values.numel() * values.element_size()
        if size <= self._room:
            self._room -= size
            self._kept[index] = values
        return values
