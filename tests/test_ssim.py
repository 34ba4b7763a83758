"""Our SSIM against pytorch-msssim, value and gradient."""

from __future__ import annotations

import pytest
import torch
from pytorch_msssim import ssim as reference

from fit3d_ns.ssim import mean_ssim


@pytest.mark.parametrize("shape", [(3, 11, 11), (3, 12, 40), (1, 57, 33), (3, 64, 95)])
def test_value_and_gradient_equal_pytorch_msssim(shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(sum(shape))
    target = torch.rand(shape, generator=generator)
    predicted = (target + 0.2 * torch.rand(shape, generator=generator)).clamp(0, 1).requires_grad_()
    mean_ssim(predicted, target).backward()
    doubled = predicted.detach().double().requires_grad_()
    expected = reference(target.double()[None], doubled[None], data_range=1.0, size_average=True)
    expected.backward()

    torch.testing.assert_close(mean_ssim(predicted, target).double(), expected, rtol=1e-5, atol=1e-6)
    assert predicted.grad is not None
    assert doubled.grad is not None
    torch.testing.assert_close(
        predicted.grad.double(), doubled.grad, rtol=1e-3, atol=1e-4 * float(doubled.grad.abs().max())
    )


def test_identical_images_have_similarity_one() -> None:
    image = torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0))
    assert float(mean_ssim(image, image)) == pytest.approx(1.0, abs=1e-5)


def test_images_smaller_than_the_window_are_compared_too() -> None:
    image = torch.rand(3, 8, 9, generator=torch.Generator().manual_seed(0))
    assert float(mean_ssim(image, image)) == pytest.approx(1.0, abs=1e-5)


def test_nan_comes_out_as_nan() -> None:
    image = torch.rand(3, 20, 30)
    broken = image.clone()
    broken[0, 10, 10] = float("nan")
    assert bool(mean_ssim(broken, image).isnan())
