"""Is the difference between two arms more than chance? Asked of scenes, not of images.

The standard error is that of a hierarchical bootstrap: scenes are drawn, in each of them blocks of consecutive frames
(frames along a trajectory repeat each other; about sqrt(n) blocks of sqrt(n) frames, as Kuensch, 1989, needs them to
grow with n), and probe seeds, which all scenes of a fold share. Of n units each level draws n - 1 with replacement,
which makes the variance of few units right instead of too small by (n - 1) / n (McCarthy and Snowden, 1985; Rao and Wu,
1988). Where folds were run with several seeds of fine-tuning, the variance between those runs is added for all folds.

Percentiles of a bootstrap over five or ten clusters promise too much (Hesterberg, The American Statistician, 2015;
Cameron, Gelbach and Miller, 2008). So the difference over its standard error is held against Student's t with
scenes - 2 degrees of freedom: one less than normal differences need, since those of a few scenes may be anything (of 20
comparisons over 5 scenes with uniform ones, scenes - 1 finds something in 13 % of tables, this in 5 %). It does assume
that they are not very skewed. As far as the variance comes from the seeds, it is held against theirs: the tails are
averaged by the shares of the variance (as Cochran, Biometrics, 1964, averages critical values), which does not fail
where seeds differ more than scenes do, as Satterthwaite's degrees of freedom would. Drawing blocks again inside of
drawn scenes counts the noise of frames twice. All of this errs on the safe side; what does not is a probe with fewer
than three seeds, whose luck is in no interval or in one that two draws have made. Holm's correction (1979) goes over
all comparisons of a table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtr

from fit3d_finetune.probing.comparison import LEVEL, MIN_SCENES, TRAINED, Comparison, SceneFigures
from fit3d_finetune.probing.counts import Array
from fit3d_finetune.probing.results import ProbeResults
from fit3d_finetune.probing.scene_figures import Figure, SceneSums, figures_of, mean_known, mean_ratio

BOOTSTRAP_DRAWS = 2_000

Fold = Sequence[ProbeResults]
"""Runs with the same test scenes: one, or one per seed of fine-tuning."""


def compare_arms(
    folds: Sequence[Fold], pairs: Sequence[tuple[str, str]] | None = None, draws: int = BOOTSTRAP_DRAWS
) -> list[Comparison]:
    """The comparisons of a table: each pair of arms in the main figure of each task, corrected together.

    Args:
        folds: one fold of one run for an ordinary run; their test scenes are disjoint, their arms and seeds the same.
        pairs: (arm, baseline); every arm against the first one unless given.
        draws: of the bootstrap.
    """
    first = folds[0][0]
    if pairs is None:
        pairs = [(arm.name, first.arms[0].name) for arm in first.arms[1:]]
    figures = figures_of(first)
    return correct([compare(folds, figure, *pair, draws=draws) for pair in pairs for figure in figures])


def compare(folds: Sequence[Fold], figure: Figure, arm: str, baseline: str, draws: int = BOOTSTRAP_DRAWS) -> Comparison:
    """One arm against another in one figure; `p_holm` is the p-value of a table of this comparison alone."""
    scenes: list[_Scene] = []
    for place, runs in enumerate(folds):
        scenes += _scenes(place, runs, figure, arm, baseline)
    scenes = [scene for scene in scenes if math.isfinite(scene.difference)]
    shown = [SceneFigures(scene.name, scene.before, scene.after, scene.frames) for scene in scenes]
    before, after = (_mean([getattr(scene, side) for scene in shown]) for side in ("before", "after"))
    difference, nan = after - before, math.nan
    low, high, p_value = nan, nan, nan
    if len(scenes) >= MIN_SCENES:
        difference = float(np.mean([scene.difference for scene in scenes]))
        low, high, p_value = _test(scenes, difference, draws)
    trained = figure.task in TRAINED
    return Comparison(
        *(figure.task, figure.metric, figure.unit, figure.higher_is_better, arm, baseline, before, after, difference),
        *(low, high, p_value, p_value, shown),
        seeds=len(folds[0][0].seeds) if trained else 0,
    )


def correct(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same with Holm's correction over all that were tested."""
    p_values = np.array([comparison.p_value for comparison in comparisons])
    return [replace(c, p_holm=p) for c, p in zip(comparisons, holm(p_values).tolist(), strict=True)]


def holm(p_values: Array) -> Array:
    """p-values [n] such that rejecting those below a level errs in no more than that share of tables (Holm, 1979).

    NaN stays NaN and is not counted.
    """
    adjusted = np.full(len(p_values), np.nan)
    order = np.argsort(p_values)[: int(np.isfinite(p_values).sum())]  # NaN is sorted last
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p_values[order] * factors))
    return adjusted


def blocks(frames: int) -> list[Array]:
    """Indices of about sqrt(frames) blocks of consecutive frames, of about equal length."""
    return np.array_split(np.arange(frames), max(1, round(math.sqrt(frames))))


# ---- the bootstrap


@dataclass(frozen=True, eq=False)
class _Scene:
    """Of one scene the sums of both arms, by run."""

    fold: int
    name: str
    runs: list[tuple[SceneSums, SceneSums]]
    """(baseline, arm)."""
    by_run: Array
    """[runs, seeds]: arm minus baseline."""
    before: float
    after: float

    @property
    def difference(self) -> float:
        return float(self.by_run.mean())

    @property
    def frames(self) -> int:
        return int((self.runs[0][0].denominators.sum(axis=(0, 2)) > 0).sum())


def _scenes(fold: int, runs: Fold, figure: Figure, arm: str, baseline: str) -> list[_Scene]:
    sums = [list(zip(figure.sums(run, baseline), figure.sums(run, arm), strict=True)) for run in runs]
    found = []
    for index, name in enumerate(runs[0].scenes):
        of_runs = [of_run[index] for of_run in sums]
        before, after = (np.stack([pair[side].figure() for pair in of_runs]) for side in (0, 1))
        found.append(_Scene(fold, name, of_runs, after - before, float(before.mean()), float(after.mean())))
    return found


def _test(scenes: list[_Scene], difference: float, draws: int) -> tuple[float, float, float]:
    """95 % interval and two-sided p-value of the mean difference over scenes."""
    folds = np.array([scene.fold for scene in scenes])
    variance, parts = float(_draw(scenes, folds, draws).var(ddof=1)), _variances(scenes, folds)
    of_runs, _ = parts[-1]
    error = math.sqrt(variance + of_runs)
    if error == 0:
        return difference, difference, float(difference == 0)
    parts = parts if any(value for value, _ in parts) else [(1.0, len(scenes) - 2)]
    reach = error * brentq(lambda t: _tails(t, parts) - LEVEL, 0.0, 1e3)
    return difference - reach, difference + reach, _tails(abs(difference) / error, parts)


def _tails(t: float, parts: Sequence[tuple[float, int]]) -> float:
    """Two-sided p-value of a t whose variance is the sum of (estimate, degrees of freedom)."""
    total = sum(value for value, _ in parts)
    return sum(value / total * 2 * float(stdtr(degrees, -t)) for value, degrees in parts)


def _draw(scenes: list[_Scene], folds: Array, draws: int) -> Array:
    """Mean differences [draws] of drawn scenes, blocks and seeds."""
    random = np.random.default_rng(0)
    drawn = np.stack([_draw_blocks(scene, draws, random) for scene in scenes], axis=1)  # [draws, scenes, seeds]
    count, seeds = drawn.shape[1:]
    of_folds = _draw_weights(seeds, (draws, int(folds.max()) + 1), random)
    chosen = random.integers(0, count, (draws, count - 1))
    # A scene that is drawn twice has other blocks each time.
    blocks_of = random.integers(0, draws, (draws, count - 1))
    weights = of_folds[np.arange(draws)[:, None], folds[chosen]]
    means: Array = (drawn[blocks_of, chosen] * weights).sum(axis=-1).mean(axis=-1)
    return means


def _draw_blocks(scene: _Scene, draws: int, random: np.random.Generator) -> Array:
    """Differences [draws, seeds] of one scene whose blocks are drawn again, mean over runs."""
    parts = blocks(scene.runs[0][0].numerators.shape[1])
    weights = _draw_weights(len(parts), (draws,), random)
    differences = []
    for run, pair in enumerate(scene.runs):
        before, after = (
            mean_ratio(_weighted(weights, sums.numerators, parts), _weighted(weights, sums.denominators, parts))
            for sums in pair
        )
        # Draws in which none of the classes occurs, or no image has depth, say nothing about the frames.
        differences.append(np.where(np.isfinite(after - before), after - before, scene.by_run[run]))
    return np.mean(differences, axis=0)


def _weighted(weights: Array, values: Array, parts: list[Array]) -> Array:
    """Sums [draws, seeds, K] of values [seeds, frames, K] over blocks with weights [draws, blocks]."""
    sums = np.add.reduceat(values, [part[0] for part in parts], axis=1)
    found: Array = np.einsum("db,sbk->dsk", weights, sums)
    return found


def _draw_weights(units: int, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    """Shares [*shape, units] of units - 1 of them drawn with replacement; a single unit is always drawn."""
    count = max(1, units - 1)
    return random.multinomial(count, np.full(units, 1 / units), shape) / count


def _variances(scenes: list[_Scene], folds: Array) -> list[tuple[float, int]]:
    """Variance of the mean difference and its degrees of freedom: from scenes, from probe seeds, from runs."""
    count = len(scenes)
    means = np.array([scene.difference for scene in scenes])
    found = [(float(means.var(ddof=1)) / count, count - 2)]
    seeds, seed_degrees, runs, run_degrees, replicated = 0.0, 0, 0.0, 0, 0.0
    for fold in np.unique(folds):
        members = [scene for scene in scenes if scene.fold == fold]
        by_run = np.mean([scene.by_run for scene in members], axis=0)  # [runs, seeds]
        share = (len(members) / count) ** 2 / len(by_run)
        if by_run.shape[1] > 1:
            seeds += share * float(by_run.var(axis=1, ddof=1).mean()) / by_run.shape[1]
            seed_degrees += len(by_run) * (by_run.shape[1] - 1)
        if len(by_run) > 1:
            replicated += float(((by_run.mean(axis=1) - by_run.mean()) ** 2).sum())
            run_degrees += len(by_run) - 1
        runs += share
    found.append((seeds, max(1, seed_degrees)))
    found.append((runs * replicated / run_degrees if run_degrees else 0.0, max(1, run_degrees)))
    return found


def _mean(values: Sequence[float]) -> float:
    return float(mean_known(np.asarray(values, np.float64))) if values else math.nan
