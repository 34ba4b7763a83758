"""Feature maps that stay on a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fit3d_ns.features.resident import ResidentMaps


class Disk(Sequence[Tensor]):
    """Counts how often each map is read."""

    def __init__(self, maps: list[Tensor]) -> None:
        self.maps, self.reads = maps, [0] * len(maps)

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, index: Any) -> Any:
        self.reads[index] += 1
        return self.maps[index]


def test_maps_are_read_once_as_far_as_they_fit() -> None:
    disk = Disk([torch.full((2, 3, 4), float(i), dtype=torch.float16) for i in range(3)])
    resident = ResidentMaps(disk, torch.device("cpu"), limit_bytes=2 * 2 * 3 * 4 * 2)
    for _ in range(3):
        for i in range(3):
            torch.testing.assert_close(resident[i], disk.maps[i])
    assert disk.reads == [1, 1, 3]
    assert [int(values[0, 0, 0]) for values in resident[1:]] == [1, 2]
    assert len(resident) == 3


def test_they_are_kept_in_half_precision() -> None:
    resident = ResidentMaps([torch.ones(2, 2, 5)], torch.device("cpu"), limit_bytes=100)
    assert resident[0].dtype == torch.float16
