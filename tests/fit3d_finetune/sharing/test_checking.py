"""What does not give torch's maps is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fit3d_finetune.backbone.extract import load_extractor
from fit3d_finetune.sharing.checking import CHECKED, TOLERANCE, require_agreement
from fit3d_finetune.sharing.network import TRACED, PatchFeatures
from fit3d_ns.common.errors import InputError


@pytest.fixture(scope="module")
def network(shared: Path) -> PatchFeatures:
    return PatchFeatures(load_extractor(shared))


@torch.no_grad()
def test_the_network_gives_the_maps_of_the_extractor(network: PatchFeatures, shared: Path) -> None:
    images = torch.rand(2, 3, 48, 80)
    assembly = load_extractor(shared)
    torch.testing.assert_close(network(images), assembly(images), atol=1e-5, rtol=1e-5)
    assert len(network.models[0].blocks) == 1  # type: ignore[arg-type]
    assert len(assembly.original.model.blocks) == 6  # type: ignore[arg-type, union-attr]


def test_what_is_compared_was_not_traced_and_no_two_sizes_are_alike() -> None:
    assert len(CHECKED) >= 2
    for sizes in zip(TRACED, *CHECKED, strict=True):
        assert len(set(sizes)) == len(sizes)


def test_the_largest_difference_is_found_wherever_it_is(network: PatchFeatures) -> None:
    def one_off(images: Tensor) -> Tensor:
        maps = network(images)
        if len(images) == CHECKED[1][0]:
            maps[-1, -1, -1, -1] += TOLERANCE / 2
        return maps

    assert require_agreement(network, network, "it").difference == 0
    assert require_agreement(network, one_off, "it").difference == pytest.approx(TOLERANCE / 2, rel=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda maps: maps + 2 * TOLERANCE, r"the file differs from torch by up to 2\.0e-03, more than 0\.001"),
        (lambda maps: maps * float("nan"), "the file differs from torch by up to inf"),
        (lambda maps: maps[..., 1:], "the file gives maps .* for torch's"),
    ],
)
def test_what_differs_is_refused(network: PatchFeatures, change: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        require_agreement(network, lambda images: change(network(images)), "the file")
