"""The kernels from rendering to loss against torch and pytorch-msssim, values and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pytorch_msssim import ssim as reference
from torch import Tensor

from fit3d_ns.photometric import compare_images, composite

SIZES = [(11, 11), (12, 40), (57, 33), (64, 95), (25, 300)]


def photo_and_rendering(height: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(height + width)
    photo = torch.rand(height, width, 3, generator=generator)
    return photo, (photo + 0.2 * torch.rand(photo.shape, generator=generator)).clamp(0, 1)


def ssim_in_double(predicted: Tensor, target: Tensor) -> Tensor:
    images = (image.double().permute(2, 0, 1)[None] for image in (target, predicted))
    value: Tensor = reference(*images, data_range=1.0, size_average=True)
    return value


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_ssim_and_l1_equal_pytorch_msssim_and_torch(size: tuple[int, int], share: float) -> None:
    target, predicted = photo_and_rendering(*size)
    predicted.requires_grad_()
    difference = compare_images(predicted, target)
    ((1 - share) * difference.l1 - share * difference.ssim).backward()
    doubled = predicted.detach().double().requires_grad_()
    expected_l1, expected_ssim = (doubled - target.double()).abs().mean(), ssim_in_double(doubled, target)
    ((1 - share) * expected_l1 - share * expected_ssim).backward()

    torch.testing.assert_close(difference.l1.double(), expected_l1, rtol=1e-6, atol=0)
    torch.testing.assert_close(difference.ssim.double(), expected_ssim, rtol=1e-5, atol=1e-6)
    squared = (doubled - target.double()).square().mean().detach()
    torch.testing.assert_close(difference.squared.double(), squared, rtol=1e-6, atol=0)
    assert not difference.squared.requires_grad
    assert predicted.grad is not None
    assert doubled.grad is not None
    largest = float(doubled.grad.abs().max())
    torch.testing.assert_close(predicted.grad.double(), doubled.grad, rtol=1e-3, atol=1e-4 * largest)


def ssim_at_every_pixel(predicted: Tensor, target: Tensor) -> Tensor:
    """SSIM as 3DGS trains with it: a zero-padded convolution of the 11x11 window, the mean over all pixels."""
    offsets = torch.arange(11, dtype=torch.float64) - 5
    line = torch.exp(-offsets.square() / (2 * 1.5**2))
    window = torch.outer(line, line) / line.sum() ** 2

    def local(image: Tensor) -> Tensor:
        return F.conv2d(image.permute(2, 0, 1)[:, None], window[None, None], padding=5)

    x, y = predicted.double(), target.double()
    mean_x, mean_y = local(x), local(y)
    variances = local(x * x) - mean_x**2 + local(y * y) - mean_y**2
    covariance = local(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return (luminance * (2 * covariance + c2) / (variances + c2)).mean()


@pytest.mark.parametrize("size", [(1, 1), (8, 9), *SIZES])
def test_with_a_border_of_zeros_ssim_is_that_of_3dgs(size: tuple[int, int]) -> None:
    target, predicted = photo_and_rendering(*size)
    predicted.requires_grad_()
    difference = compare_images(predicted, target, border="zeros")
    (0.8 * difference.l1 + 0.2 * (1 - difference.ssim)).backward()
    doubled = predicted.detach().double().requires_grad_()
    expected_l1, expected_ssim = (doubled - target.double()).abs().mean(), ssim_at_every_pixel(doubled, target)
    (0.8 * expected_l1 + 0.2 * (1 - expected_ssim)).backward()

    torch.testing.assert_close(difference.l1.double(), expected_l1, rtol=1e-6, atol=0)
    torch.testing.assert_close(difference.ssim.double(), expected_ssim, rtol=1e-5, atol=1e-6)
    squared = (doubled - target.double()).square().mean().detach()
    torch.testing.assert_close(difference.squared.double(), squared, rtol=1e-6, atol=0)
    assert predicted.grad is not None
    assert doubled.grad is not None
    largest = float(doubled.grad.abs().max())
    torch.testing.assert_close(predicted.grad.double(), doubled.grad, rtol=1e-3, atol=1e-4 * largest)


def test_images_in_another_memory_order_are_compared_too() -> None:
    target, predicted = photo_and_rendering(30, 50)
    expected = compare_images(predicted, target)
    rotated = compare_images(*(image.permute(2, 1, 0).contiguous().permute(2, 1, 0) for image in (predicted, target)))
    assert (rotated.l1, rotated.ssim, rotated.squared) == (expected.l1, expected.ssim, expected.squared)


def test_identical_images_have_similarity_one_and_no_difference() -> None:
    image, _ = photo_and_rendering(20, 30)
    difference = compare_images(image, image)
    assert float(difference.ssim) == pytest.approx(1.0, abs=1e-5)
    assert float(difference.l1) == float(difference.squared) == 0.0


def test_equal_pixels_pull_nowhere() -> None:
    image, _ = photo_and_rendering(20, 30)
    predicted = image.clone().requires_grad_()
    compare_images(predicted, image).l1.backward()
    assert predicted.grad is not None
    assert not predicted.grad.any()


def test_images_smaller_than_the_window_are_compared_too() -> None:
    image, _ = photo_and_rendering(8, 9)
    assert float(compare_images(image, image).ssim) == pytest.approx(1.0, abs=1e-5)


def test_nan_comes_out_as_nan() -> None:
    image, broken = photo_and_rendering(20, 30)
    broken[10, 10, 0] = float("nan")
    difference = compare_images(broken, image)
    assert bool(difference.ssim.isnan())
    assert bool(difference.l1.isnan())


def test_composite_is_what_torch_computes() -> None:
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(17, 23, 3, generator=generator)  # much of it is clamped
    alpha = torch.rand(17, 23, 1, generator=generator)
    background = torch.rand(3, generator=generator)
    weights = torch.randn(17, 23, 3, generator=generator)

    def run(function: str) -> tuple[Tensor, Tensor, Tensor]:
        i, a = image.clone().requires_grad_(), alpha.clone().requires_grad_()
        rgb = composite(i, a, background) if function == "ours" else (i + (1 - a) * background).clamp(0, 1)
        (rgb * weights).sum().backward()
        assert i.grad is not None
        assert a.grad is not None
        return rgb.detach(), i.grad, a.grad

    for ours, theirs in zip(run("ours"), run("torch"), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_composite_takes_a_slice_of_a_wider_image() -> None:
    image, alpha, background = torch.rand(5, 6, 4), torch.rand(5, 6, 1), torch.rand(3)
    expected = (image[..., :3] + (1 - alpha) * background).clamp(0, 1)
    torch.testing.assert_close(composite(image[..., :3], alpha, background), expected)
