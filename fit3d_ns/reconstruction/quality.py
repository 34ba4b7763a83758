"""Is a reconstruction fit to be trained on: what is suspicious about it, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import ndimage

from fit3d_ns.reconstruction.model import Model

Array = np.ndarray[Any, np.dtype[Any]]

GOOD_SHARE, POOR_SHARE = 0.9, 0.6
"""Registered photos of all: below the first it is worth a word, below the second a warning."""
LARGE_ERROR = 1.5
"""Mean reprojection error in pixels of a photo whose longest side has `ERROR_SIDE`."""
ERROR_SIDE = 1600
JUMP = 8.0
"""A photo this many times farther from the nearest of those that see the same than is usual."""
FEW_POINTS = 30
"""A photo that sees fewer points has an uncertain pose."""
STOPS = 0.7
"""Exposure, in stops, from the middle of all photos."""
BLURRED = 0.3
"""Sharpness, as a share of that of the photos that see the same."""

_LOOK_ALIKE = 4
_GAMMA = 2.2
_ROUNDS = 8


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be."""

    what: str
    """E.g. "blurred-photos"."""
    message: str
    """One sentence: what, and what to do."""
    photos: list[str] = field(default_factory=list)
    """Which ones."""


def find_faults(model: Model, total: int, model_sizes: Sequence[int], sharp: Array, values: Array) -> list[Finding]:
    """Everything suspicious about the best model.

    Args:
        model: the best one.
        total: how many photos there were.
        model_sizes: photos of each model that was found, the best one's first.
        sharp: sharpness of its photos [N].
        values: grey values of its observations [O].
    """
    findings = []
    share = len(model.names) / total
    if share < GOOD_SHARE:
        advice = (
            "do not trust it; take more photos, each sharing two thirds of its view with the next, in even light, of "
            "things with texture"
            if share < POOR_SHARE
            else "look whether a part of the place is missing; more photos of that part would join it"
        )
        findings.append(Finding("share", f"{len(model.names)} of {total} photos ({share:.0%}) have a pose: {advice}."))
    if len(model_sizes) > 1:
        rest = ", ".join(map(str, model_sizes[1:]))
        findings.append(
            Finding(
                "several-models",
                f"the photos fall into {len(model_sizes)} parts that do not join, of which the largest is used (the "
                f"others have {rest} photos): take photos that lead from one to the other.",
            )
        )
    allowed = LARGE_ERROR * max(1.0, model.longest_side / ERROR_SIDE)
    if model.error > allowed:
        findings.append(
            Finding(
                "reprojection-error",
                f"the mean reprojection error is {model.error:.2f} pixels, more than {allowed:.1f}: the lens may not "
                "be what --camera-model says, or the photos come from several devices or zooms.",
            )
        )
    shared = model.shared_points()
    findings += _about(
        model.names,
        position_jumps(model.centres, shared),
        "position-jumps",
        "{n} far from all that see the same: look at them in ns-viewer, and leave them out of transforms.json if wrong",
    )
    seen = np.bincount(model.photo, minlength=len(model.names))
    findings += _about(
        model.names,
        seen < FEW_POINTS,
        "few-points",
        f"{{n}} with fewer than {FEW_POINTS} points, so that the pose is uncertain: take photos in between, or leave "
        "them out",
    )
    stops = exposure_stops(model.photo, model.point, values, len(model.names))
    findings += _about(
        model.names,
        np.abs(stops - np.median(stops)) > STOPS,
        "exposure-jumps",
        f"{{n}} brighter or darker than the others by more than {STOPS} stops: lock the exposure of the camera",
    )
    findings += _about(
        model.names,
        blurred(sharp, shared),
        "blurred-photos",
        "{n} blurred, compared with those that see the same: leave them out, or take them again with more light",
    )
    return findings


def _about(names: Sequence[str], flags: Array, what: str, sentence: str) -> list[Finding]:
    found = [name for name, flag in zip(names, flags, strict=True) if flag]
    if not found:
        return []
    n = f"{len(found)} of {len(names)} photos {'are' if len(found) > 1 else 'is'}"
    shown = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
    return [Finding(what, f"{sentence.format(n=n)} ({shown}).", found)]


def _alike(shared: Array) -> Array:
    """For each photo [N] the few that share most points with it [N, k]; -1 where there are no more."""
    order = np.argsort(-shared, axis=1, kind="stable")[:, : min(_LOOK_ALIKE, max(1, len(shared) - 1))]
    return np.where(np.take_along_axis(shared, order, axis=1) > 0, order, -1)


def position_jumps(centres: Array, shared: Array) -> Array:
    """Photos that stand far away from all those that see the same.

    Args:
        centres: [N, 3].
        shared: points that two photos both see [N, N].

    Returns:
        bool [N].
    """
    alike = _alike(shared)
    distances = np.linalg.norm(centres[:, None] - centres[alike], axis=2)
    nearest = np.where(alike >= 0, distances, np.inf).min(axis=1)
    known = np.isfinite(nearest)
    if not known.any():
        return np.zeros(len(centres), dtype=bool)
    flags: Array = known & (nearest > JUMP * max(float(np.median(nearest[known])), 1e-12))
    return flags


def exposure_stops(photo: Array, point: Array, values: Array, count: int) -> Array:
    """How much brighter or darker each photo shows the same points.

    Args:
        photo: of each observation [O].
        point: of each observation [O].
        values: grey value of each observation, 0..255 [O].
        count: N photos.

    Returns:
        Stops [N]: +1 is twice the light. 0 for photos without usable observations.
    """
    usable = (values > 8) & (values < 247)
    photo, point = photo[usable], point[usable]
    light = _GAMMA * np.log2(values[usable] / 255.0)
    stops = np.zeros(count)
    if len(light) == 0:
        return stops
    every_point, every_photo = np.arange(int(point.max()) + 1), np.unique(photo)
    for _ in range(_ROUNDS):
        of_points = ndimage.median(light - stops[photo], point, every_point)
        stops[every_photo] = ndimage.median(light - of_points[point], photo, every_photo)
    return stops


def blurred(sharp: Array, shared: Array) -> Array:
    """Photos that are much less sharp than those that see the same: bool [N].

    Args:
        sharp: sharpness [N].
        shared: points that two photos both see [N, N].
    """
    alike = _alike(shared)
    others = np.where(alike >= 0, sharp[alike], np.nan)
    known = (alike >= 0).any(axis=1)
    usual = np.full(len(sharp), np.inf if len(sharp) == 0 else float(np.median(sharp)))
    usual[known] = np.nanmedian(others[known], axis=1)
    flags: Array = sharp < BLURRED * usual
    return flags
