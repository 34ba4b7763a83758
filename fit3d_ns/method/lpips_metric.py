"""LPIPS without a download: reported when its weights are on this machine, otherwise said to be missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from fit3d_ns.common.console import logger

_ALEXNET_FILE = "alexnet-owt-7be5be79.pth"


class LocalLPIPS:
    """LPIPS (AlexNet) from cached weights only; calling it gives NaN while they are missing.

    Takes and ignores torchmetrics' constructor arguments, so that it can stand in for it. It is not a module
    on purpose: its network must not end up in checkpoints.
    """

    def __init__(self, *_: object, **__: object) -> None:
        self._metric: torch.nn.Module | None = None
        self._reported = False

    @property
    def available(self) -> bool:
        """Whether the AlexNet weights are in torch's hub folder."""
        return (Path(torch.hub.get_dir()) / "checkpoints" / _ALEXNET_FILE).is_file()

    def __call__(self, predicted: Tensor, target: Tensor) -> Tensor:
        """LPIPS between images [1, 3, H, W] in 0..1, or NaN."""
        if not self.available:
            if not self._reported:
                logger.info(
                    "LPIPS is not reported: %s is not in %s/checkpoints (torchvision downloads it there).",
                    _ALEXNET_FILE,
                    torch.hub.get_dir(),
                )
                self._reported = True
            return predicted.new_tensor(float("nan"))
        if self._metric is None:
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            self._metric = LearnedPerceptualImagePatchSimilarity(normalize=True).to(predicted.device)
        return self._metric(predicted.clamp(0, 1), target.clamp(0, 1))


@contextmanager
def without_lpips_download() -> Iterator[None]:
    """While active, a model that builds torchmetrics' LPIPS gets a `LocalLPIPS` instead."""
    import torchmetrics.image.lpip as module

    original = module.LearnedPerceptualImagePatchSimilarity
    module.LearnedPerceptualImagePatchSimilarity = LocalLPIPS  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        module.LearnedPerceptualImagePatchSimilarity = original  # type: ignore[misc]
