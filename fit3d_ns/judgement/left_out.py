"""Each photo beside what all other photos show from its camera.

Back-projection gives every Gaussian the mean of what the views show of it, colour and features; taking one view out of
the means is a subtraction. What is rendered then knows nothing of that view's photo, even where the Gaussians
themselves were trained to please it: views whose photo does not belong are found by it, not hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fit3d_ns.features.patch_grid import pool_to_patch_grid
from fit3d_ns.features.position import WithoutPosition
from fit3d_ns.features.space import fit_space
from fit3d_ns.judgement.scene import JudgedScene, as_image
from fit3d_ns.lifting.operator import cell_weights
from fit3d_ns.scene.render import rasterize
from fit3d_ns.scene.views import PinholeView

LONGEST_SIDE = 128
"""Pixels of the pictures that are compared: enough to see which way a photo is off, and 36 views take seconds."""
CHANNELS = 16
"""Leading components of the features that are compared: they hold most of the variance, and the rest costs time."""
LEAST_SEEN = 4.0
"""Pixels that a Gaussian must cover in the other views together for them to say what it looks like."""
LEAST_SUPPORT = 0.7
"""Share of a pixel or patch that the other views must know; where they do not, nothing is compared."""

_DARK, _BRIGHT = 0.03, 0.95
"""Pixel values beyond which sensors and JPEG files say little of the light."""


@dataclass(frozen=True, eq=False)
class LeftOutView:
    """How a photo differs from what the others show."""

    features: float
    """Squared residual of its features as a share of the variance of all; NaN: nothing to compare."""
    colour: float
    """Squared residual of its colours, once exposure is made good, as a share of the photo's variance; NaN as above."""
    stops: tuple[float, float, float]
    """log2 of photo / others, median of the pixels, in R, G and B; NaN as above."""


class OtherPhotos:
    """What the photos of a scene show of each Gaussian, each view left out in turn."""

    def __init__(self, scene: JudgedScene) -> None:
        self.scene, self.splats = scene, scene.splats.detached()
        self.device = self.splats.means.device
        self.views = [_small(view).to(self.device) for view in scene.views]
        position = scene.position
        maps = scene.maps if position is None else WithoutPosition(scene.maps, position.cpu())
        space = fit_space(maps, CHANNELS)
        self.targets = [space.encode(values.float()).to(self.device) for values in maps]
        self.width = self.targets[0].shape[-1]
        self.weights = [cell_weights([view], self.device).reshape(view.grid) for view in scene.views]
        total = sum(float(weight.sum()) for weight in self.weights)
        pairs = zip(self.targets, self.weights, strict=True)
        self.variance = sum(float((t.square().sum(-1) * w).sum()) for t, w in pairs) / max(total, 1e-12)
        self.sums = torch.zeros(len(self.splats), 4 + self.width, device=self.device)

    def look(self, advance: Callable[[], object] = lambda: None) -> list[LeftOutView]:
        """All views; `advance` is called twice for each."""
        self.sums.zero_()
        for index in range(len(self.views)):
            self.sums += self._shown_by(index)
            advance()
        found = []
        for index in range(len(self.views)):
            found.append(self._compared(index))
            advance()
        return found

    def photo(self, index: int, view: PinholeView) -> Tensor:
        """[h, w, 3] at the size of `view`."""
        return as_image(self.scene.photos[index], view, self.device)

    def counted(self, index: int, view: PinholeView) -> Tensor:
        """[h, w, 1]: the unmasked share of each pixel at the size of `view`."""
        mask = self.scene.views[index].mask
        if mask is None:
            return torch.ones(view.height, view.width, 1, device=self.device)
        pixels = mask.float().to(self.device)[..., None]
        return pool_to_patch_grid(pixels, (view.height, view.width))[0]

    @torch.no_grad()
    def without(self, index: int) -> Tensor:
        """[N, 4 + D]: colour, whether the other views know the Gaussian (0 or 1), and coordinates of its features."""
        rest = self.sums - self._shown_by(index)
        seen = rest[:, 3:4]
        known = seen > LEAST_SEEN
        means = torch.where(known, rest / seen.clamp_min(1e-6), 0.0)
        means[:, 3:4] = known.float()
        return means

    def render(self, channels: Tensor, view: PinholeView) -> Tensor:
        """[h, w, K] of channels [N, K]."""
        return rasterize(self.splats, channels, view)[0][0]

    def _shown_by(self, index: int) -> Tensor:
        """[N, 4 + D]: the sums over one view's pixels of blending weight times colour, one, and features."""
        view, grid = self.views[index], self.scene.views[index].grid
        counted = self.counted(index, view)
        probe = torch.zeros(len(self.splats), 4 + self.width, device=self.device, requires_grad=True)
        with torch.enable_grad():
            image = self.render(probe, view)
            colours = image[..., :4]
            pooled, _ = pool_to_patch_grid(image[..., 4:], grid, counted if self._masked(index) else None)
        photo = torch.cat([self.photo(index, view) * counted, counted], -1)
        pixels = view.width * view.height / (grid[0] * grid[1])
        patches = self.targets[index] * (self.weights[index] * pixels)[..., None]
        (sums,) = torch.autograd.grad([colours, pooled], probe, [photo, patches])
        return sums

    def _masked(self, index: int) -> bool:
        return self.scene.views[index].mask is not None

    @torch.no_grad()
    def _compared(self, index: int) -> LeftOutView:
        view, grid = self.views[index], self.scene.views[index].grid
        counted = self.counted(index, view)
        image = self.render(self.without(index), view)
        support = image[..., 3:4]
        weight = counted * (support > LEAST_SUPPORT)
        others, photo = image[..., :3] / support.clamp_min(1e-3), self.photo(index, view)
        pooled, _ = pool_to_patch_grid(image[..., 3:], grid, counted if self._masked(index) else None)
        known = pooled[..., :1]
        squares = (pooled[..., 1:] / known.clamp_min(1e-3) - self.targets[index]).square().sum(-1)
        cells = self.weights[index] * (known[..., 0] > LEAST_SUPPORT)
        stops = exposure(others, photo, weight)
        return LeftOutView(
            features=_mean(squares, cells) / max(self.variance, 1e-12),
            colour=colour_residual(others, photo, weight, stops),
            stops=stops,
        )


def exposure(others: Tensor, photo: Tensor, weight: Tensor) -> tuple[float, float, float]:
    """log2 of photo / others [h, w, 3] in each channel: the median of the pixels that are neither dark nor clipped."""
    found = []
    for channel in range(3):
        a, b = others[..., channel], photo[..., channel]
        good = (weight[..., 0] > 0.5) & (a > _DARK) & (a < _BRIGHT) & (b > _DARK) & (b < _BRIGHT)
        ratio = torch.log2(b[good] / a[good])
        found.append(float(ratio.median()) if len(ratio) >= 50 else float("nan"))
    return found[0], found[1], found[2]


def colour_residual(others: Tensor, photo: Tensor, weight: Tensor, stops: tuple[float, float, float]) -> float:
    """What exposure does not explain of a photo, as a share of its variance.

    The better of two ways to make exposure good: gain and offset by least squares, or `stops` with the highlights
    clipped, which a photo that is far too bright needs.
    """
    gain, offset = gain_and_offset(others, photo, weight)
    clipped = (others * torch.tensor(stops).exp2().to(others)).clamp(0, 1)
    mean = (photo * weight).sum((0, 1)) / weight.sum().clamp_min(1e-6)
    variance = _mean((photo - mean).square().sum(-1), weight[..., 0])
    made_good = [gain * others + offset, clipped]
    residuals = [_mean((image - photo).square().sum(-1), weight[..., 0]) for image in made_good]
    return float(np.nanmin(residuals)) / max(variance, 1e-6) if np.isfinite(residuals).any() else float("nan")


def gain_and_offset(others: Tensor, photo: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """[3] each: photo = gain * others + offset, by least squares; gain within 0.2..5."""
    total = weight.sum().clamp_min(1e-6)
    a, b = (others * weight).sum((0, 1)) / total, (photo * weight).sum((0, 1)) / total
    covariance = ((others - a) * (photo - b) * weight).sum((0, 1)) / total
    gain = covariance / (((others - a).square() * weight).sum((0, 1)) / total + 1e-4)
    gain = gain.clamp(0.2, 5.0)
    return gain, b - gain * a


def _small(view: PinholeView) -> PinholeView:
    shrink = min(1.0, LONGEST_SIDE / max(view.width, view.height))
    return view.resized(max(1, round(view.width * shrink)), max(1, round(view.height * shrink)))


def _mean(values: Tensor, weights: Tensor) -> float:
    """Weighted mean; NaN if nothing counts."""
    total = float(weights.sum())
    return float((values * weights).sum()) / total if total > 0 else float("nan")
