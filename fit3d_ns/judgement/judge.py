"""The judgement of a scene: what is measured, from which figure on it is wrong, and what to do then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from fit3d_ns.common.console import logger, progress
from fit3d_ns.judgement.fit import FeatureFit, measure_fit
from fit3d_ns.judgement.left_out import LeftOutView, OtherPhotos
from fit3d_ns.judgement.poses import FittedPose, fit_pose
from fit3d_ns.judgement.scene import JudgedScene
from fit3d_ns.judgement.statistics import deviations

# The limits are chosen from the three sample rooms (fit3d-features-fast, 36 views each), in which nothing may be found,
# and from copies of them with faults that were put in. What was measured stands with each.

FEWEST_VIEWS = 8
"""With fewer, what the others show has holes, and a median of so few says nothing."""
SUSPECT, ODD = 3.5, 5.0
"""Robust deviations of a view's features, or colours: from the first on its pose is looked into; from the second on,
it does not belong. Healthy views reach 3.5; a photo of another room has 30, a blurred one (8 pixels of 448) 13."""
ODD_RATIO = 1.5
"""A view that does not belong also leaves this many times the median: where all are alike, deviations are small.
Healthy views reach 1.9 times, but never both; the blurred one has 2.4."""
BRIGHTER = 0.3
"""Stops from the median of the views. Healthy views are within 0.1 (real photos 0.2), or 0.25 beside a faulty one; a
photo that is twice as bright has 0.9 (its highlights are clipped), one of 1.4 times has 0.5."""
EXPLAINED = 0.5
"""A photo of which exposure leaves more than this share of the variance unexplained is off by something else."""
DISPLACED = 0.0125
"""Share of the image's width by which the fitted pose moves the image. Healthy views: up to 0.008; a pose that is
turned by 2 degrees has 0.024."""
BETTER = 0.8
"""A wrong pose is one that another pose beats by this ratio of the colour difference. Healthy views that are moved by
0.006 or more: 0.73 to 0.98; poses turned by 2 and 4 degrees: 0.71 and 0.30; a photo of another room: 0.91."""
MOST_POSES = 12
"""Poses that are looked into, those of the oddest views: each takes about a second on a CPU."""


@dataclass(frozen=True)
class ViewJudgement:
    """A view with what is wrong with it."""

    photo: str
    measured: LeftOutView
    feature_deviation: float
    """Robust deviations of its features' residual from the other views'; NaN: nothing to compare."""
    stops: float
    """How much brighter than the others (log2), in the channel that is furthest off."""
    pose: FittedPose | None = None
    """Where the pose was looked into."""
    fault: str = ""
    """"", "pose", "exposure" or "disagreement"."""


@dataclass(frozen=True)
class Judgement:
    """All that was measured of a scene."""

    scene: str
    fit: FeatureFit
    views: Sequence[ViewJudgement] = field(default_factory=tuple)
    """Empty where there are fewer than `FEWEST_VIEWS`."""

    def faulty(self, fault: str) -> list[ViewJudgement]:
        """The views with this fault, the worst first."""
        found = [view for view in self.views if view.fault == fault]
        return sorted(found, key=lambda view: -_severity(view))

    def as_dict(self) -> dict[str, object]:
        """For JSON: what is not known (NaN) is None."""
        known: dict[str, object] = _without_nan(asdict(self))
        return known


def judge(scene: JudgedScene) -> Judgement:
    """Measure everything; see `fit3d_ns.judgement.findings` for what it means."""
    threads = torch.get_num_threads()
    if scene.splats.means.device.type == "cpu":
        torch.set_num_threads(1)  # the rasteriser brings its own threads, and torch's spin between small operations
    try:
        fit = measure_fit(scene)
        views = judge_views(scene) if len(scene.views) >= FEWEST_VIEWS else []
    finally:
        torch.set_num_threads(threads)
    return Judgement(scene.name, fit, views)


def judge_views(scene: JudgedScene) -> list[ViewJudgement]:
    """Every view beside what the others show, and the poses of those that are suspect."""
    photos = OtherPhotos(scene)
    with progress("views") as bar:
        task = bar.add_task("Each photo beside the others", total=2 * len(scene.views))
        measured = photos.look(lambda: bar.advance(task))
    features = np.array([view.features for view in measured])
    feature_z = deviations(features, 0.05 * float(np.nanmedian(features)) if np.isfinite(features).any() else 1.0)
    colour_z = deviations(np.log([max(view.colour, 1e-4) for view in measured]), 0.2)
    stops = brightness(measured)
    suspects = _suspects(np.fmax(feature_z, colour_z), stops, measured)
    poses: dict[int, FittedPose] = {}
    with progress("poses") as bar:
        task = bar.add_task("Poses", total=len(suspects))
        for index in suspects:
            poses[index] = fit_pose(photos, index)
            bar.advance(task)
    middle = float(np.nanmedian(features)) if np.isfinite(features).any() else 0.0
    views = []
    for index, view in enumerate(measured):
        odd = feature_z[index] > ODD and view.features > ODD_RATIO * middle
        fault = "disagreement" if odd else ""
        if index in poses and is_wrong(poses[index]):
            fault = "pose"
        elif abs(stops[index]) > BRIGHTER and view.colour < EXPLAINED:
            fault = "exposure"
        name = scene.names[index]
        views.append(ViewJudgement(name, view, float(feature_z[index]), float(stops[index]), poses.get(index), fault))
    return views


def brightness(measured: Sequence[LeftOutView]) -> np.ndarray:
    """[V]: stops from the median of the views, in the channel that is furthest off; 0 where nothing is known."""
    stops = np.array([view.stops for view in measured])
    known = np.isfinite(stops)
    centre = np.array([np.median(stops[known[:, c], c]) if known[:, c].any() else 0.0 for c in range(3)])
    off = np.where(known, stops - centre, 0.0)
    furthest: np.ndarray = off[np.arange(len(off)), np.abs(off).argmax(1)]
    return furthest


def _suspects(oddness: np.ndarray, stops: np.ndarray, measured: Sequence[LeftOutView]) -> list[int]:
    """The views whose poses are worth a look, the oddest first."""
    explained = (np.abs(stops) > BRIGHTER) & np.array([view.colour < EXPLAINED for view in measured])
    order = [int(i) for i in np.argsort(-np.nan_to_num(oddness)) if oddness[i] > SUSPECT and not explained[i]]
    if len(order) > MOST_POSES:
        logger.info("%d views are odd: the poses of the %d oddest are looked into.", len(order), MOST_POSES)
    return order[:MOST_POSES]


def is_wrong(pose: FittedPose) -> bool:
    """Whether the photo of a view fits so much better at another pose that the given one is wrong."""
    return pose.moved > DISPLACED and pose.loss_after < BETTER * pose.loss_before


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if value != value else value


def _severity(view: ViewJudgement) -> float:
    if view.fault == "exposure":
        return abs(view.stops)
    if view.fault == "pose" and view.pose is not None:
        return view.pose.moved
    return view.measured.features
