"""The two probing protocols: the published one, and one that ranks the same way in minutes on a CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from fit3d_ns.common.errors import InputError

ProtocolName = Literal["fast", "paper"]


@dataclass(frozen=True)
class Protocol:
    """Sizes, schedules and windows of the linear probes."""

    name: ProtocolName
    crop: int | None
    """Side of the square windows in which images are encoded for segmentation, after their shorter side was brought
    to it; None: whole images as they are."""
    stride: int
    """Of the sliding windows at test time."""
    crops_per_image: int
    """Random training windows per image, drawn once so that each is encoded once; each also mirrored."""
    segmentation_iterations: int
    segmentation_warmup: int
    segmentation_lr: float
    segmentation_windows: int
    """Per batch."""
    pixels_per_window: int
    """Random labelled pixels of a window at which the upsampled cross entropy is taken."""
    depth_iterations: int
    depth_warmup: int
    depth_lr: float
    depth_images: int
    """Per batch."""
    depth_bins: int
    depth_upsampling: int
    """Factor by which features are upsampled before the depth head."""
    flip_test: bool
    """Average depth over the image and its mirror image."""
    weight_decay: float = 1e-4

    def shortened(self, iterations: int) -> Protocol:
        """The protocol with so many iterations of both tasks, its warm-ups no longer than a tenth or third of them."""
        return replace(
            self,
            segmentation_iterations=iterations,
            segmentation_warmup=min(self.segmentation_warmup, iterations // 10),
            depth_iterations=iterations,
            depth_warmup=min(self.depth_warmup, iterations // 3),
        )


# FiT3D's settings (ECCV 2024, supplementary; those of DINOv2's linear probes). Their batches are spread over 8 GPUs.
PAPER = Protocol(
    name="paper",
    crop=512,
    stride=341,
    crops_per_image=4,
    segmentation_iterations=40_000,
    segmentation_warmup=1_500,
    segmentation_lr=1e-3,
    segmentation_windows=16,
    pixels_per_window=4_096,
    depth_iterations=38_400,
    depth_warmup=12_800,
    depth_lr=1e-4,
    depth_images=16,
    depth_bins=256,
    depth_upsampling=4,
    flip_test=True,
)

# Whole images, so that each is encoded once; higher learning rates, as fewer steps must do.
FAST = Protocol(
    name="fast",
    crop=None,
    stride=1,
    crops_per_image=1,
    segmentation_iterations=1_200,
    segmentation_warmup=100,
    segmentation_lr=2e-3,
    segmentation_windows=8,
    pixels_per_window=256,
    depth_iterations=800,
    depth_warmup=80,
    depth_lr=1e-3,
    depth_images=4,
    depth_bins=64,
    depth_upsampling=1,
    flip_test=False,
)

PROTOCOLS: dict[ProtocolName, Protocol] = {"fast": FAST, "paper": PAPER}


def learning_rate(step: int, iterations: int, warmup: int, lr: float) -> float:
    """Linear warm-up, then the poly schedule with power 1: straight down to zero."""
    rising = min(1.0, (step + 1) / max(1, warmup))
    return lr * rising * (1 - step / iterations)


def check_iterations(iterations: int | None) -> None:
    if iterations is not None and iterations < 1:
        raise InputError(f"--iterations must be at least 1, not {iterations}.")
