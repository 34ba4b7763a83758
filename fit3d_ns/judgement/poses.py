"""Would a photo fit at another pose nearby? Gauss-Newton on the colours, from coarse to fine.

The photo is compared with what the other photos show (`OtherPhotos.without`), as the Gaussians' own colours were
trained to please the photo at the pose that is in question.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fit3d_ns.judgement.left_out import LEAST_SUPPORT, OtherPhotos, gain_and_offset
from fit3d_ns.scene.views import PinholeView

_LEVELS = ((48, 8), (96, 5))
"""Longest side in pixels, and steps."""
_OUTLIER = 0.1
"""A colour difference from which on a pixel says less and less (Geman and McClure's function)."""
_TURN = 0.01
"""Radians by which poses are changed to see what the image does, half a pixel at these sizes."""
_SOLID = 0.5
"""Gaussians of more opacity than this show where the image moves."""


@dataclass(frozen=True)
class FittedPose:
    """A pose near the given one, at which the photo fits best."""

    degrees: float
    """How far the camera is turned from the given pose."""
    moved: float
    """How far the image moves by it: the median over the Gaussians in view, as a share of the image's width."""
    loss_before: float
    """Mean robust colour difference at the given pose, exposure made good."""
    loss_after: float
    """The same at the fitted pose."""


@torch.no_grad()
def fit_pose(photos: OtherPhotos, index: int) -> FittedPose:
    """The pose near that of a view at which its photo fits what the others show."""
    channels = photos.without(index)[:, :4]
    change = torch.zeros(6, device=photos.device)
    start = photos.views[index]
    depth = _typical_depth(photos, start)
    step_sizes = torch.tensor([_TURN] * 3 + [_TURN * depth] * 3, device=photos.device)
    for longest, steps in _LEVELS:
        shrink = longest / max(start.width, start.height)
        view = start.resized(max(1, round(start.width * shrink)), max(1, round(start.height * shrink)))
        problem = _Problem(photos, index, channels, view)
        change = problem.solve(change, step_sizes, steps)
    after = _moved(start, change)
    return FittedPose(
        degrees=float(torch.rad2deg(change[:3].norm())),
        moved=_displacement(photos, start, after),
        loss_before=problem.loss(torch.zeros_like(change)),
        loss_after=problem.loss(change),
    )


class _Problem:
    """One view at one size."""

    def __init__(self, photos: OtherPhotos, index: int, channels: Tensor, view: PinholeView) -> None:
        self.photos, self.channels, self.view = photos, channels, view
        self.photo = _smooth(photos.photo(index, view))
        self.counted = photos.counted(index, view)

    def image(self, change: Tensor) -> tuple[Tensor, Tensor]:
        """What the others show [h, w, 3] from the changed pose, and the weight of its pixels [h, w, 1]."""
        shown = self.photos.render(self.channels, _moved(self.view, change))
        support = shown[..., 3:4]
        weight = self.counted * (support > LEAST_SUPPORT)
        return _smooth(shown[..., :3] / support.clamp_min(1e-3)), weight

    def compare(self, change: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Difference from the photo [h, w, 3], weight [h, w, 1], gain [3]."""
        image, weight = self.image(change)
        gain, offset = gain_and_offset(image, self.photo, weight)
        return gain * image + offset - self.photo, weight, gain

    def loss(self, change: Tensor) -> float:
        """Mean robust difference, 0..1; 1 where nothing can be compared."""
        return self._mean(*self.compare(change)[:2])

    def _mean(self, difference: Tensor, weight: Tensor) -> float:
        # A pose that looks away from all that is known must not win: its pixels count as wrong.
        squares = difference.square()
        robust = squares / (squares + _OUTLIER**2)
        outside = self.counted - weight
        total = float(self.counted.sum())
        return float((robust * weight).sum() / 3 + outside.sum()) / total if total > 0 else 1.0

    def solve(self, change: Tensor, step_sizes: Tensor, steps: int) -> Tensor:
        """Levenberg and Marquardt's steps, with derivatives from renderings on either side."""
        difference, weight, gain = self.compare(change)
        current, damping = self._mean(difference, weight), 1e-3
        for _ in range(steps):
            columns = []
            for axis in range(6):
                aside = torch.zeros_like(change)
                aside[axis] = step_sizes[axis]
                ahead, behind = self.image(change + aside)[0], self.image(change - aside)[0]
                columns.append(gain * (ahead - behind) / (2 * step_sizes[axis]))
            jacobian = torch.stack(columns, -1).reshape(-1, 6) * step_sizes  # in units of the steps: one scale for all
            robust = (weight * (_OUTLIER**2 / (difference.square() + _OUTLIER**2)).square()).reshape(-1, 1)
            normal = jacobian.T @ (jacobian * robust)
            gradient = jacobian.T @ (robust[:, 0] * difference.reshape(-1))
            for _ in range(4):
                damped = normal + damping * normal.diagonal().diag() + 1e-6 * torch.eye(6).to(normal)
                proposed = change - torch.linalg.solve(damped, gradient) * step_sizes
                compared = self.compare(proposed)
                new = self._mean(*compared[:2])
                if new < current:
                    break
                damping *= 8
            else:
                return change
            change, current, damping = proposed, new, max(damping / 5, 1e-5)
            difference, weight, gain = compared
        return change


def _moved(view: PinholeView, change: Tensor) -> PinholeView:
    """The view after a rotation vector (radians) and a translation [6] in its own frame."""
    a, b, c = change[:3].tolist()
    twist = torch.zeros(4, 4).to(view.world_to_camera)
    twist[:3, :3] = torch.tensor([[0, -c, b], [c, 0, -a], [-b, a, 0]]).to(twist)
    twist[:3, 3] = change[3:]
    return replace(view, world_to_camera=torch.linalg.matrix_exp(twist) @ view.world_to_camera)


def _in_pixels(photos: OtherPhotos, view: PinholeView) -> tuple[Tensor, Tensor]:
    """Where the centres of the Gaussians are [N, 2], and their depths [N]."""
    pose = view.world_to_camera
    camera = photos.splats.means @ pose[:3, :3].T + pose[:3, 3]
    pixels = camera @ view.K.T
    return pixels[:, :2] / pixels[:, 2:].clamp_min(1e-6), camera[:, 2]


def _in_view(photos: OtherPhotos, view: PinholeView) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels, depths, and which of them are solid and in the image."""
    pixels, depths = _in_pixels(photos, view)
    inside = ((pixels > 0) & (pixels < torch.tensor([view.width, view.height]).to(pixels))).all(1)
    return pixels, depths, inside & (depths > 0) & (photos.splats.opacities > _SOLID)


def _typical_depth(photos: OtherPhotos, view: PinholeView) -> float:
    _, depths, shown = _in_view(photos, view)
    return float(depths[shown].median()) if bool(shown.any()) else 1.0


def _displacement(photos: OtherPhotos, before: PinholeView, after: PinholeView) -> float:
    pixels, _, shown = _in_view(photos, before)
    there, depths = _in_pixels(photos, after)
    shown &= depths > 0
    if not bool(shown.any()):
        return 0.0
    return float((there - pixels)[shown].norm(dim=1).median()) / before.width


def _smooth(image: Tensor) -> Tensor:
    """Blurred by the binomial filter of five pixels along both axes: derivatives hold over more than a pixel."""
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]).to(image) / 16
    planes = image.permute(2, 0, 1)[:, None]
    padded = torch.nn.functional.pad(planes, (2, 2, 2, 2), mode="replicate")
    blurred = torch.nn.functional.conv2d(padded, taps[:, None] * taps[None, :] * torch.ones(1, 1, 5, 5).to(image))
    return blurred[:, 0].permute(1, 2, 0)
