"""An adapter is an exact product of two factors: whoever merges it gets the same bits, and only into its own base."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from fit3d_ns.common.errors import InputError
from fit3d_ns.features.adapter import (
    MAX_RANK,
    Adapter,
    Base,
    adapter_file,
    exact_factors,
    layers_sha256,
    merge,
    read_adapter,
    read_base,
    tensors_of,
)

LAYER = "blocks.0.attn.qkv"


def factors(rank: int, scale: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(rank, 12, generator=random), scale * torch.randn(36, rank, generator=random)


def model(seed: int = 0) -> nn.Module:
    """A layer of the name that timm gives the first block's."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        attention = nn.ModuleDict({"qkv": nn.Linear(12, 36)})
    return nn.ModuleDict({"blocks": nn.ModuleList([nn.ModuleDict({"attn": attention})])})


def adapter_of(network: nn.Module, rank: int = 4) -> Adapter:
    return Adapter({LAYER: exact_factors(*factors(rank))}, Base("a_vit", "hub", layers_sha256(network, [LAYER])))


def weight(network: nn.Module) -> Tensor:
    return network.get_submodule(LAYER).weight.detach()  # type: ignore[union-attr,return-value,operator]


@settings(deadline=None, max_examples=50)
@given(
    rank=st.sampled_from([1, 2, 3, 8, 13, 64, MAX_RANK]),
    exponent=st.floats(-30, 10),
    seed=st.integers(0, 1000),
)
def test_the_product_is_exact_in_float32_in_any_order_of_sums(rank: int, exponent: float, seed: int) -> None:
    A, B = exact_factors(*factors(rank, 10.0**exponent, seed))
    exact = B.double() @ A.double()
    assert torch.equal((B @ A).double(), exact)
    order = torch.randperm(rank, generator=torch.Generator().manual_seed(seed))
    sums = torch.zeros(36, 12)
    for k in order.tolist():
        sums += B[:, k : k + 1] * A[k]
    assert torch.equal(sums.double(), exact)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 1000))
def test_rounding_moves_an_entry_by_at_most_a_thousandth_of_the_largest(seed: int) -> None:
    for before, after in zip(factors(8, seed=seed), exact_factors(*factors(8, seed=seed)), strict=True):
        assert (before - after).abs().max() <= before.abs().max() / 1024
        assert (before != after).any()


def test_factors_of_zero_stay_zero() -> None:
    A, B = exact_factors(torch.ones(2, 3), torch.zeros(4, 2))
    assert torch.equal(A, torch.ones(2, 3))
    assert torch.equal(B, torch.zeros(4, 2))


def test_rounded_factors_are_their_own_rounding() -> None:
    once = exact_factors(*factors(8))
    assert all(torch.equal(a, b) for a, b in zip(once, exact_factors(*once), strict=True))


def test_merging_adds_the_product_of_the_factors(tmp_path: Path) -> None:
    network = model()
    adapter = adapter_of(network)
    A, B = adapter.factors[LAYER]
    expected = weight(network) + B @ A
    merge(network, adapter)
    assert torch.equal(weight(network), expected)


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    adapter = adapter_of(model())
    tensors, metadata = tensors_of(adapter)
    save_file(tensors, tmp_path / "adapter_model.safetensors", metadata)
    read = read_adapter(tmp_path / "adapter_model.safetensors")
    assert read.base == adapter.base == read_base(tmp_path / "adapter_model.safetensors")
    assert read.factors.keys() == adapter.factors.keys()
    assert all(torch.equal(a, b) for a, b in zip(read.factors[LAYER], adapter.factors[LAYER], strict=True))
    assert adapter_file(tmp_path) == tmp_path / "adapter_model.safetensors"
    assert adapter_file(tmp_path / "nowhere") is None


def test_other_weights_than_those_it_was_made_for_are_refused_and_stay() -> None:
    other = model(seed=1)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(InputError, match="x was made for other weights of a_vit than this model has"):
        merge(other, adapter_of(model()), "x")
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_an_adapter_is_not_merged_twice() -> None:
    network = model()
    adapter = adapter_of(network)
    merge(network, adapter)
    with pytest.raises(InputError, match="other weights of a_vit"):
        merge(network, adapter)


@pytest.mark.parametrize("other", [nn.ModuleDict(), nn.Linear(12, 36)])
def test_a_model_without_the_layers_is_refused(other: nn.Module) -> None:
    with pytest.raises(InputError, match=r"changes blocks\.0\.attn\.qkv \[36, 12\] of a_vit, but .* no such layer"):
        merge(other, adapter_of(model()))


def test_weights_of_another_size_are_refused() -> None:
    wide = model()
    wide.get_submodule("blocks.0.attn")["qkv"] = nn.Linear(24, 36)  # type: ignore[index,operator]
    with pytest.raises(InputError, match=r"this model has \[36, 24\] there"):
        merge(wide, adapter_of(model()))


@pytest.mark.parametrize("damage", ["truncated", "no text", "half precision", "not finite", "without B", "stranger"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    tensors, metadata = tensors_of(adapter_of(model()))
    name = f"base_model.model.{LAYER}.lora_B.weight"
    if damage == "half precision":
        tensors = {key: value.half() for key, value in tensors.items()}
    elif damage == "not finite":
        tensors[name][0, 0] = float("nan")
    elif damage == "without B":
        del tensors[name]
    elif damage == "stranger":
        tensors["bias"] = torch.zeros(3)
    path = tmp_path / "adapter_model.safetensors"
    save_file(tensors, path, metadata)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-8])
    elif damage == "no text":
        path.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match=r"adapter_model\.safetensors is damaged \(.*\): fine-tune again"):
        read_adapter(path)


def test_an_adapter_of_another_program_or_version_is_named(tmp_path: Path) -> None:
    tensors, metadata = tensors_of(adapter_of(model()))
    save_file(tensors, tmp_path / "x.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="does not say which weights it was made for"):
        read_adapter(tmp_path / "x.safetensors")
    later = metadata["fit3d"].replace('"format_version": 1', '"format_version": 9')
    save_file(tensors, tmp_path / "x.safetensors", {"fit3d": later})
    with pytest.raises(InputError, match="has version 9, but this program reads version 1"):
        read_adapter(tmp_path / "x.safetensors")
