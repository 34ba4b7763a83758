"""Paired comparison of two arms over the same images: is the difference more than chance?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from fit3d_finetune.probing.results import Comparison

BOOTSTRAP_DRAWS = 10_000
LEVEL = 0.05


def compare(
    metric: str,
    unit: str,
    arm: str,
    values: Sequence[float],
    baseline: str,
    baseline_values: Sequence[float],
    lower_is_better: bool = False,
) -> Comparison:
    """Mean paired difference with a 95 % bootstrap interval over images, and Wilcoxon's signed-rank test.

    Args:
        metric: its name.
        unit: "%" (values in 0..1, shown times 100) or e.g. "m".
        arm: name of the arm.
        values: one per image (mean over seeds); pairs with a NaN are left out.
        baseline: name of the arm that it is compared with.
        baseline_values: the same images.
        lower_is_better: for errors.
    """
    difference = np.asarray(values, np.float64) - np.asarray(baseline_values, np.float64)
    difference = difference[np.isfinite(difference)]
    count = len(difference)
    if count == 0:
        nan = float("nan")
        return Comparison(metric, arm, baseline, nan, nan, nan, nan, 0, f"{metric} of {arm}: nothing to compare.")
    mean = float(difference.mean())
    random = np.random.default_rng(0)
    # A hundred draws at a time: all at once would take gigabytes for thousands of images.
    means = [difference[random.integers(0, count, (100, count))].mean(1) for _ in range(BOOTSTRAP_DRAWS // 100)]
    low, high = (float(bound) for bound in np.percentile(means, [2.5, 97.5]))
    p_value = 1.0 if not difference.any() else float(stats.wilcoxon(difference).pvalue)
    scale, sign = (100.0, " points") if unit == "%" else (1.0, f" {unit}")
    better = (mean < 0) == lower_is_better and mean != 0
    verdict = "no significant difference"
    if p_value < LEVEL and (low > 0 or high < 0):
        verdict = "significantly better" if better else "significantly worse"
    statement = (
        f"{metric}: {arm} against {baseline} {scale * mean:+.3g}{sign} (95 % interval {scale * low:+.3g} to "
        f"{scale * high:+.3g}, p = {p_value:.2g}, {count} pairs): {verdict}."
    )
    return Comparison(metric, arm, baseline, mean, low, high, p_value, count, statement)
