"""A view's image and mask as the Gaussians see it: undistorted, and at the size that the backbone takes."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fit3d_finetune.targets.rule import Resampling
from fit3d_ns.capture.images import load_mask
from fit3d_ns.capture.lens import undistort_mask
from fit3d_ns.scene.description import ViewInfo
from fit3d_ns.scene.photos import load_undistorted_photo


def load_pinhole_image(view: ViewInfo, path: Path, size: tuple[int, int], resampling: Resampling = "area") -> Tensor:
    """The undistorted image [3, height, width] in 0..1, read from `path` and resized to `size`."""
    image = torch.from_numpy(load_undistorted_photo(view, path)).permute(2, 0, 1)[None].float() / 255
    return resize_image(image, size, resampling)[0]


def resize_image(images: Tensor, size: tuple[int, int], resampling: Resampling = "area") -> Tensor:
    """Images [B, 3, H, W] in 0..1 to [B, 3, *size].

    "area" is smooth (bicubic, antialiased), as `Backbone` does it; "bilinear" takes four neighbours, however much
    smaller the image becomes.
    """
    if tuple(images.shape[-2:]) == size:
        return images
    if resampling == "bilinear":
        return F.interpolate(images, size, mode="bilinear", align_corners=False)
    return F.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)


def load_pinhole_mask(view: ViewInfo, path: Path | None) -> Tensor | None:
    """The undistorted mask [H, W], True where pixels count, read from `path`; None if the view has none.

    Raises:
        InputError: it cannot be read, is not of the image's size, or leaves no pixel.
    """
    if path is None:
        return None
    mask = load_mask(path, (view.width, view.height))
    return torch.from_numpy(undistort_mask(mask, view.K, view.distortion, view.camera_model).copy())
