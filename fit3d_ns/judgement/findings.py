"""What was measured of a scene in words: the figure, what it should be, what is wrong, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fit3d_ns.judgement.judge import BRIGHTER, DISPLACED, FEWEST_VIEWS, ODD, ODD_RATIO, Judgement, ViewJudgement
from fit3d_ns.machine.finding import Finding

UNDERTRAINED = 1.4
"""Loss over floor from which on features are undertrained. Solved features have 1.00; fit3d-features-fast with
feature-lift train, which takes 400 steps, has 1.56 in the sample room."""
DISAGREEING = 0.5
"""Floor from which on the views as a whole disagree. The sample rooms have 0.19 to 0.21; four faulty photos of 36
make it 0.23; 45 real photos from the hand (instant-ngp's fox) 0.23."""
_NAMED = 5
"""Photos that a finding lists by name."""


def findings_of(judgement: Judgement) -> list[Finding]:
    """One finding for each judgement, in the order in which they are shown."""
    group = f"scene {judgement.scene}"
    found = [_loss(judgement, group), _floor(judgement, group)]
    if not judgement.views:
        few = f"fewer than {FEWEST_VIEWS} training views"
        problem = f"{few} do not tell which photo, pose or exposure is wrong: take more photos."
        return [*found, Finding(group, "views", few, problem, needed=False)]
    return [*found, _odd(judgement, group), _poses(judgement, group), _exposure(judgement, group)]


def _loss(judgement: Judgement, group: str) -> Finding:
    fit = judgement.fit
    ratio = fit.loss / max(fit.floor, 1e-12)
    value = (
        f"{fit.loss:.2f} of the maps' variance, {ratio:.2f} times what least squares on the same Gaussians leaves "
        f"({fit.floor:.2f}); at most {UNDERTRAINED} times"
    )
    problem = (
        "the features are undertrained: solve for them with fit3d-lift, which takes seconds, or train longer."
        if ratio > UNDERTRAINED
        else ""
    )
    return Finding(group, "feature loss", value, problem)


def _floor(judgement: Judgement, group: str) -> Finding:
    floor = judgement.fit.floor
    value = f"{floor:.2f} of the maps' variance is in no features of these Gaussians; at most {DISAGREEING}"
    problem = (
        "the views do not agree with each other: look at the colours in the viewer; if they are blurred, too, the "
        "poses are bad (fit3d-capture says how good), or the training was too short."
        if floor > DISAGREEING
        else ""
    )
    return Finding(group, "least squares", value, problem)


def _odd(judgement: Judgement, group: str) -> Finding:
    residuals = np.array([view.measured.features for view in judgement.views])
    value = (
        f"{_median(residuals):.2f} of the variance lies between a photo's features and those of the others (median; up "
        f"to {_largest(residuals):.2f}); no view {ODD:g} deviations and {ODD_RATIO} times above"
    )
    odd = judgement.faulty("disagreement")
    problem = (
        f"{_listed(odd, _how_odd)}: blurred, of something else, or with things that moved; leave "
        f"{_them(odd)} out, or mask what moved."
        if odd
        else ""
    )
    return Finding(group, "disagreement", value, problem)


def _poses(judgement: Judgement, group: str) -> Finding:
    tried = [view for view in judgement.views if view.pose is not None]
    value = (
        f"{len(tried)} of {len(judgement.views)} views looked odd enough to try other poses; none may fit better by "
        f"moving the image by {100 * DISPLACED:g} % of its width"
    )
    wrong = judgement.faulty("pose")
    problem = (
        f"{_listed(wrong, _how_moved)}: there the photo fits what the others show, at the given pose it does not; "
        f"estimate the poses anew (fit3d-capture), or leave {_them(wrong)} out."
        if wrong
        else ""
    )
    return Finding(group, "poses", value, problem)


def _exposure(judgement: Judgement, group: str) -> Finding:
    stops = np.array([view.stops for view in judgement.views])
    value = f"photos within {_largest(np.abs(stops)):.2f} stops of the others; at most {BRIGHTER}"
    odd = judgement.faulty("exposure")
    problem = (
        f"{_listed(odd, _how_bright)}: lock exposure and white balance when taking photos, leave {_them(odd)} out, or "
        "train with --pipeline.model.use-bilateral-grid True."
        if odd
        else ""
    )
    return Finding(group, "exposure", value, problem)


def _listed(views: Sequence[ViewJudgement], how: Callable[[ViewJudgement], str]) -> str:
    named = ", ".join(f"{view.photo} ({how(view)})" for view in views[:_NAMED])
    more = len(views) - _NAMED
    return f"{named} and {more} more" if more > 0 else named


def _them(views: Sequence[ViewJudgement]) -> str:
    return "it" if len(views) == 1 else "them"


def _how_odd(view: ViewJudgement) -> str:
    return f"{view.measured.features:.2f}, {view.feature_deviation:.0f} deviations above"


def _how_moved(view: ViewJudgement) -> str:
    assert view.pose is not None
    return (
        f"fits {100 * view.pose.moved:.1f} % of the width and {view.pose.degrees:.1f} degrees away, where the colour "
        f"difference is {100 * view.pose.loss_after / max(view.pose.loss_before, 1e-12):.0f} % of that here"
    )


def _how_bright(view: ViewJudgement) -> str:
    return f"{abs(view.stops):.1f} stops {'brighter' if view.stops > 0 else 'darker'}"


def _median(values: np.ndarray) -> float:
    return float(np.nanmedian(values)) if np.isfinite(values).any() else float("nan")


def _largest(values: np.ndarray) -> float:
    return float(np.nanmax(values)) if np.isfinite(values).any() else float("nan")
