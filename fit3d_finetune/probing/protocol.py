"""The two probing protocols: the published one, and one that ranks the same way in minutes on a CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from fit3d_ns.common.errors import InputError

ProtocolName = Literal["fast", "paper"]


@dataclass(frozen=True)
class FastProtocol:
    """Whole images, so that each is encoded once; higher learning rates than published, as fewer steps must do."""

    name: ProtocolName = "fast"
    segmentation_iterations: int = 1_200
    segmentation_warmup: int = 100
    segmentation_lr: float = 2e-3
    segmentation_images: int = 8
    """Per batch."""
    pixels_per_image: int = 256
    """Random labelled pixels of an image at which the upsampled cross entropy is taken."""
    depth_iterations: int = 800
    depth_warmup: int = 80
    depth_lr: float = 1e-3
    depth_images: int = 4
    """Per batch."""
    depth_bins: int = 64
    weight_decay: float = 1e-4

    def shortened(self, iterations: int) -> FastProtocol:
        """The protocol with so many iterations of both tasks, its warm-ups no longer than a tenth or third of them."""
        return replace(
            self,
            segmentation_iterations=iterations,
            segmentation_warmup=min(self.segmentation_warmup, iterations // 10),
            depth_iterations=iterations,
            depth_warmup=min(self.depth_warmup, iterations // 3),
        )


@dataclass(frozen=True)
class PaperProtocol:
    """What FiT3D's published code does (ECCV 2024; after DINOv2's linear probes), see docs/fidelity/probes.md."""

    name: ProtocolName = "paper"
    batch: int = 16
    """Images per iteration: the published 8 GPUs with 2 each."""
    segmentation_iterations: int = 40_000
    segmentation_warmup: int = 1_500
    segmentation_lr: float = 1e-3
    segmentation_weight_decay: float = 1e-4
    segmentation_sides: tuple[int, int] = (2048, 512)
    """Images are resized as large as fits: the longer and the shorter side, in pixels."""
    segmentation_scales: tuple[float, float] = (0.5, 2.0)
    """In training the sides are multiplied by a random factor in between."""
    segmentation_crop: int = 512
    segmentation_stride: int = 341
    """Of the sliding windows at test time."""
    category_share: float = 0.75
    """A crop is drawn again while one class has so much of its labelled pixels, or it has less than two classes,"""
    category_tries: int = 10
    """but at most so many times."""
    depth_iterations: int = 38_400
    depth_warmup: int = 12_800
    depth_lr: float = 1e-4
    depth_weight_decay: float = 0.01
    depth_gradient_norm: float = 35.0
    """Gradients of a head are scaled down to this norm where theirs is larger."""
    depth_bins: int = 256
    depth_upsampling: int = 4
    """Factor by which features are upsampled before the depth head."""
    depth_images_per_loss: int = 2
    """The scale-invariant loss is of so many images together: those of one GPU."""
    depth_loss_warmup: int = 100
    """Iterations whose scale-invariant loss has the mean alone, without the variance."""
    rotation: float = 2.5
    """Degrees; half of the training images are turned by up to so much."""

    def shortened(self, iterations: int) -> PaperProtocol:
        """The protocol with so many iterations of both tasks, its warm-ups no longer than a tenth or third of them."""
        return replace(
            self,
            segmentation_iterations=iterations,
            segmentation_warmup=min(self.segmentation_warmup, iterations // 10),
            depth_iterations=iterations,
            depth_warmup=min(self.depth_warmup, iterations // 3),
            depth_loss_warmup=min(self.depth_loss_warmup, iterations // 10),
        )


Protocol = FastProtocol | PaperProtocol
FAST, PAPER = FastProtocol(), PaperProtocol()
PROTOCOLS: dict[ProtocolName, Protocol] = {"fast": FAST, "paper": PAPER}


def learning_rate(step: int, iterations: int, warmup: int, lr: float) -> float:
    """Of the fast protocol: linear warm-up, and straight down to zero."""
    rising = min(1.0, (step + 1) / max(1, warmup))
    return lr * rising * (1 - step / iterations)


def check_iterations(iterations: int | None) -> None:
    if iterations is not None and iterations < 1:
        raise InputError(f"--iterations must be at least 1, not {iterations}.")
