"""The probes in torch do what they do in kernels: values, gradients, whole heads; on a CPU, and the same on a GPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from fit3d_finetune.probing import depth_loss as depth_module
from fit3d_finetune.probing import sampling as sampling_module
from fit3d_finetune.probing import torch_backend
from fit3d_finetune.probing.data.encoding import standardizations
from fit3d_finetune.probing.depth import predict_depth, train_depth
from fit3d_finetune.probing.depth_loss import binned_depth, depth_loss
from fit3d_finetune.probing.heads import LinearHeads
from fit3d_finetune.probing.results import Arm
from fit3d_finetune.probing.sampling import sample_features
from fit3d_finetune.probing.segmentation import predict_segmentation, train_segmentation
from tests.fit3d_finetune.probing.scenes import FakeEncoded, FakeImage, tiny

ARMS = [Arm("a", ("a",)), Arm("b", ("b",)), Arm("a + b", ("a", "b"))]
MAX_DEPTH = 6.0
Device = str
gpu = pytest.param("cuda", marks=pytest.mark.gpu)


def without_kernels(patch: pytest.MonkeyPatch) -> None:
    for module in (sampling_module, depth_module):
        patch.setattr(module, "runs_kernels", lambda values: False)


def both(
    function: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor, device: Device, patch: pytest.MonkeyPatch
) -> None:
    """Values and gradients by the kernels on a CPU, and by torch on a device, are the same."""
    slopes, found = None, []
    for where in ("cpu", device):
        values = start.to(where).requires_grad_()
        result = function(values)
        slopes = torch.randn(result.shape, dtype=result.dtype) if slopes is None else slopes
        result.backward(slopes.to(where))
        assert values.grad is not None
        found.append((result.detach().cpu(), values.grad.cpu()))
        without_kernels(patch)
    for kernels, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, kernels, atol=1e-9, rtol=1e-7, equal_nan=True)
        assert float(kernels.nan_to_num().std()) > 0


@pytest.mark.parametrize("device", ["cpu", gpu])
@pytest.mark.parametrize("size", [(5, 7), (1, 4), (3, 1)])
def test_features_between_patches(device: Device, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    places = np.random.default_rng(0).uniform(-0.1, 1.1, (60, 2))
    both(lambda map: sample_features(map, places), torch.randn(*size, 3).double(), device, monkeypatch)


@pytest.mark.parametrize("device", ["cpu", gpu])
@pytest.mark.parametrize("upsampling", [1, 3])
def test_depth_from_bins(device: Device, upsampling: int, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = torch.randn(2, 4, 5, 3, 11).double()
    both(lambda outputs: binned_depth(outputs, MAX_DEPTH, upsampling), outputs, device, monkeypatch)


@pytest.mark.parametrize("device", ["cpu", gpu])
@pytest.mark.parametrize("size", [(17, 12), (1, 9), (3, 2)])
def test_losses_of_depth(device: Device, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    depth = torch.rand(3, *size).double() * 5 + 0.5
    known = torch.rand(3, *size) < 0.7
    known[2] = False  # an image of which nothing is known
    predicted = torch.rand(3, 2, *size).double() * 5 + 0.5
    predicted[0, 1] = depth[0]  # a perfect one: the root has no slope

    def losses(predicted: torch.Tensor) -> torch.Tensor:
        return depth_loss(predicted, depth.to(predicted.device), known.to(predicted.device))

    both(losses, predicted, device, monkeypatch)


def test_what_is_no_number_comes_out_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    without_kernels(monkeypatch)
    predicted = torch.ones(2, 1, 4, 4)
    predicted[0, 0, 1, 1] = torch.nan
    losses = depth_loss(predicted, torch.full((2, 4, 4), 2.0), torch.ones(2, 4, 4, dtype=torch.bool))
    assert losses.isnan().tolist() == [[True], [False]]


def data() -> FakeEncoded:
    random, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    images = [
        FakeImage(
            random.choice([0, 1, 2, 255], (24, 32)).astype(np.uint8),
            random.uniform(1, 8, (24, 32)).astype(np.float32),
        )
        for _ in range(4)
    ]
    sizes = {"a": 6, "b": 5}
    maps = {name: [torch.randn(3, 4, count, generator=generator) for _ in images] for name, count in sizes.items()}
    return FakeEncoded(images, maps)


def predicted(task: str, device: Device) -> tuple[LinearHeads, list[np.ndarray]]:
    encoded = data()
    statistics = standardizations(encoded)
    if task == "depth":
        heads = train_depth(encoded, statistics, ARMS, (0, 7), tiny(), MAX_DEPTH, device=device)
        return heads, [depth for _, depth in predict_depth(heads, encoded, statistics, MAX_DEPTH)]
    # 12 patches an image: fewer pixels are interpolated before the layer, more of them after it.
    pixels = 8 if task == "segmentation of few pixels" else 32
    heads = train_segmentation(encoded, statistics, ARMS, 3, (0, 7), tiny(pixels_per_image=pixels), device=device)
    return heads, [np.array(classes) for _, classes in predict_segmentation(heads, encoded, statistics)]


@pytest.mark.parametrize("device", ["cpu", gpu])
@pytest.mark.parametrize("task", ["segmentation", "segmentation of few pixels", "depth"])
def test_heads_trained_in_torch_are_those_trained_with_kernels(
    task: str, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels, expected = predicted(task, "cpu")
    without_kernels(monkeypatch)
    used: list[str] = []
    for name in ("sample_features", "binned_depth", "depth_loss"):
        function = getattr(torch_backend, name)
        spy = lambda *arguments, f=function, n=name: (used.append(n), f(*arguments))[1]  # noqa: E731
        monkeypatch.setattr(torch_backend, name, spy)
    ours, found = predicted(task, device)
    assert {*used} == ({"binned_depth", "depth_loss"} if task == "depth" else {"sample_features"})
    assert ours.device.type == device
    start = LinearHeads(ARMS, {"a": 6, "b": 5}, 3, (0, 7)).state_dict()
    for name, value in kernels.state_dict().items():
        found_value = ours.state_dict()[name].cpu()
        # Adam moves a weight whose gradient is nothing but rounding, which differs between processors, by a whole step.
        torch.testing.assert_close(found_value, value, atol=1e-3, rtol=1e-3)
        assert ((found_value - value).abs() > 2e-5 + 1e-3 * value.abs()).float().mean() < 0.05, name
        assert name not in start or start[name].shape != value.shape or not torch.equal(start[name], value)
    for image, truth in zip(found, expected, strict=True):
        if task == "depth":
            np.testing.assert_allclose(image, truth, rtol=1e-3)
        else:
            assert (image == truth).mean() > 0.99
